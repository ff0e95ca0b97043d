//! Images in registries: through the program, from a registry in this process that fails as a test says.
//! Rules R of docs/registries.md.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

mod commands;
mod hostile;
mod layers;
mod mirrors;
mod real;

use crate::fixture::{
    Access, Compression, Fault, Image, Registry, file, oci, patterned, sample_tree, write_dir,
};
use crate::mounted::{Imgmount, Mounted, Need, Run, have, run};
use crate::tree::Snapshot;

pub(crate) const USER: &str = "eve";
pub(crate) const PASSWORD: &str = "hunter2-is-secret";

pub(crate) fn sample() -> Image {
    Image::sample("./", Compression::Gzip(6))
}

/// Makes an image of one layer that is larger than the buffers of a connection.
pub(crate) fn large() -> Image {
    let items = [file("etc/os-release", b"ID=test"), file("big", patterned(3 << 20, 1))];
    Image::named("a:1").layer_as("COPY", &items, "", Compression::Gzip(1))
}

/// Returns a command that finds nothing of the user who runs the tests.
pub(crate) fn command(imgmount: &Imgmount, args: &[&str]) -> Command {
    let mut command = imgmount.command(args);
    command.env("HOME", imgmount.dir().join("home"));
    for name in ["XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn imgmount_run(imgmount: &Imgmount, args: &[&str]) -> Run {
    run(&mut command(imgmount, args))
}

/// Mounts an image.
pub(crate) fn mounted(imgmount: &Imgmount, reference: &str, options: &[&str]) -> Mounted {
    let point = imgmount.mount_point();
    let ran = run(command(imgmount, &["mount", reference, point.to_str().unwrap()]).args(options));
    Mounted::at(&point, ran.expect(0))
}

/// Writes credentials for `registry` where podman looks for them.
pub(crate) fn log_in(imgmount: &Imgmount, registry: &Registry, user: &str, password: &str) {
    let directory = imgmount.dir().join("home/.config/containers");
    fs::create_dir_all(&directory).unwrap();
    let entry = serde_json::json!({"username": user, "password": password});
    let file = serde_json::json!({"auths": {registry.host(): entry}});
    fs::write(directory.join("auth.json"), file.to_string()).unwrap();
}

/// Counts the requests whose short text contains `part`.
pub(crate) fn count(requests: &[String], part: &str) -> usize {
    requests.iter().filter(|request| request.contains(part)).count()
}

pub(crate) fn layer_bytes(image: &Image) -> u64 {
    image.layers.iter().map(|layer| layer.blob.len() as u64).sum()
}

#[test]
fn r1_every_command_reads_an_image_in_a_registry() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("team/app:1", &sample());
    registry.push("team/app:2", &large());
    let one = registry.reference("team/app:1");
    let text = |args: &[&str]| imgmount_run(&imgmount, args).expect(0).text().to_owned();
    let inspected: serde_json::Value = serde_json::from_str(&text(&["inspect", "--json", &one])).unwrap();
    assert_eq!(inspected["format"], "docker");
    assert_eq!(inspected["names"], serde_json::json!([format!("{}/team/app:1", registry.host())]));
    assert_eq!(text(&["cat", &format!("{}:/etc/os-release", registry.reference("team/app:2"))]), "ID=test");
    assert!(text(&["verify", &one]).lines().count() > 3);
    assert!(imgmount_run(&imgmount, &["diff", &one, &registry.reference("team/app:2")]).code == 1);
    let by_tag = text(&["ls", "-lR", &one]);
    let target = imgmount.dir().join("tree");
    imgmount_run(&imgmount, &["extract", &one, target.to_str().unwrap()]).expect(0);
    assert_eq!(by_tag, text(&["ls", "-lR", &registry.reference("team/app"), "--image", "1"]));
    for command in ["history", "deleted"] {
        text(&[command, &one]);
    }
}

#[test]
fn r1_a_mount_shows_the_whole_tree() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let digest = registry.push("app:1", &sample());
    for reference in [registry.reference("app:1"), registry.reference(&format!("app@{digest}"))] {
        let mounted = imgmount.mount(&reference, &[]);
        Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), &reference);
    }
}

#[test]
fn r1_the_platform_selects_a_manifest_and_only_that_is_fetched() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = |architecture: &str| {
        Image::named("a:1").layer("COPY", &[file("arch", architecture)]).for_architecture(architecture, None)
    };
    registry.push_index("app:1", &["amd64", "arm64", "s390x"].map(image));
    let reference = registry.reference("app:1");
    let shown = imgmount_run(&imgmount, &["cat", "--platform", "linux/s390x", &format!("{reference}:/arch")]);
    assert_eq!(shown.expect(0).text(), "s390x");
    let requests = registry.requests();
    assert_eq!((count(&requests, "manifests/"), count(&requests, "tags")), (2, 0), "{requests:?}");
    let shown = imgmount_run(&imgmount, &["inspect", "--platform", "linux/s390x", &reference]).expect(0);
    assert!(shown.text().contains("linux/s390x"), "{}", shown.text());
    let refused = imgmount_run(&imgmount, &["ls", "--platform", "linux/mips", &reference]);
    refused.expect(2).says("linux/s390x").says("select one with --platform");
}

#[test]
fn r1_what_is_not_in_the_registry_is_an_error_with_the_next_step() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let ls = |reference: &str| imgmount_run(&imgmount, &["ls", reference]).expect(2);
    ls(&registry.reference("app:2")).says("has no manifest 2 of app").says("`imgmount images docker://");
    ls(&registry.reference("App:1")).says("lower case");
    ls(&registry.reference("app@sha256:12")).says("'sha256:12' is not a digest");
    let digest = format!("team/app@sha256:{}", "0".repeat(64));
    for name in ["alpine", "alpine:3.20", "localhost:5000/app:1", &digest] {
        ls(name).says(&format!("hint: if it is an image in a registry, use docker://{name}\n"));
    }
    for other in ["./alpine:3", "oci:alpine", "rootfs:alpine", "App:1", "image.tar", "image.tar.gz:1"] {
        assert!(!ls(other).stderr.contains("docker://"), "{other}");
    }
    let missing = imgmount_run(&imgmount, &["ls", "--authfile", "gone", &registry.reference("app:1")]);
    assert!(!missing.stderr.contains("docker://gone"), "{}", missing.stderr);
}

#[test]
fn r1_images_lists_the_tags_without_opening_the_images() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    for tag in ["1", "2", "latest"] {
        registry.push(&format!("app:{tag}"), &sample());
    }
    let listed = imgmount_run(&imgmount, &["images", "--json", &registry.reference("app")]).expect(0);
    let sources: Vec<String> = listed
        .lines()
        .iter()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["source"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(sources, ["1", "2", "latest"].map(|tag| registry.reference(&format!("app:{tag}"))));
    assert_eq!(registry.requests(), ["GET tags/list"]);
    let one = imgmount_run(&imgmount, &["images", "--json", &registry.reference("app:2")]).expect(0);
    let one: serde_json::Value = serde_json::from_str(one.text()).unwrap();
    assert_eq!((&one["layers"], &one["source"]), (&sample().layers.len().into(), &sources[1].clone().into()));
    assert_eq!(count(&registry.requests(), "tags"), 0);
    // The only tag is not opened either, and an image is named as for every other command.
    let digest = registry.push("only:1", &sample());
    let list = |args: &[&str]| {
        let out = imgmount_run(&imgmount, &[&["images", "--json"], args].concat()).expect(0);
        serde_json::from_str::<serde_json::Value>(out.text()).unwrap()
    };
    assert_eq!(list(&[&registry.reference("only")])["layers"], serde_json::Value::Null);
    assert_eq!(registry.requests(), ["GET tags/list"]);
    let by_digest = registry.reference(&format!("only@{digest}"));
    let by_both = registry.reference(&format!("only:1@{digest}"));
    for (args, source) in [
        (&["--image", "1", &registry.reference("only")][..], &registry.reference("only:1")),
        (&["--image", &digest, &registry.reference("only")], &by_digest),
        (&[&by_digest], &by_digest),
        (&[&by_both], &by_both),
    ] {
        let listed = list(args);
        assert_eq!(
            (&listed["source"], &listed["layers"]),
            (&(&**source).into(), &sample().layers.len().into())
        );
    }
    let images = |reference: &str| imgmount_run(&imgmount, &["images", reference]).expect(2);
    images(&registry.reference("only:2")).says("has no manifest 2 of only");
    images(&registry.reference("gone")).says("has no repository gone");
}

#[test]
fn r3_credentials_are_found_and_nothing_secret_is_written_anywhere() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    registry.redirect_blobs(100, 403);
    let reference = registry.reference("app:1");
    let mut output = String::new();
    for access in [
        Access::Basic(USER.to_owned(), PASSWORD.to_owned()),
        Access::Token(Some((USER.to_owned(), PASSWORD.to_owned())), 100),
    ] {
        registry.set_access(access);
        let _ = fs::remove_dir_all(imgmount.dir().join("home"));
        let denied = imgmount_run(&imgmount, &["-vv", "ls", &reference, "--no-cache"]).expect(2);
        let denied = denied.says("denies access without credentials").says("podman login");
        log_in(&imgmount, &registry, USER, "wrong-is-secret");
        let wrong = imgmount_run(&imgmount, &["-vv", "ls", &reference, "--no-cache"]).expect(2);
        let wrong = wrong.says("denies access to user 'eve'");
        log_in(&imgmount, &registry, USER, PASSWORD);
        let mut traced = command(&imgmount, &["ls", &reference]);
        let traced = run(traced.env("IMGMOUNT_LOG", "trace")).expect(0);
        let good = imgmount_run(&imgmount, &["-vv", "verify", "--json", &reference]).expect(0);
        assert!(good.stderr.contains("GET http://"), "requests are logged: {}", good.stderr);
        for run in [denied, wrong, traced, good] {
            output.push_str(&String::from_utf8_lossy(&run.stdout));
            output.push_str(&run.stderr);
        }
    }
    let stored = run(Command::new("grep").args(["-rlaE", "secret|ZXZl"]).arg(imgmount.cache()));
    assert_eq!(stored.text(), "", "secrets in the cache directory");
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for secret in [PASSWORD, "wrong-is-secret", "secret-token", "signature-", "Bearer ", &encoded, "ZXZl"] {
        assert!(!output.contains(secret), "{secret} is in the output");
    }
}

#[test]
fn r3_an_identity_token_is_exchanged_for_others() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    registry.set_access(Access::Token(Some((USER.to_owned(), PASSWORD.to_owned())), 100));
    let entry = serde_json::json!({"auth": "", "identitytoken": PASSWORD});
    let file = serde_json::json!({"auths": {registry.host(): entry}});
    imgmount.write("auth.json", file.to_string().as_bytes());
    let reference = registry.reference("app:1");
    let run = imgmount_run(&imgmount, &["-vv", "ls", "--authfile", "auth.json", &reference]).expect(0);
    assert_eq!(count(&registry.requests(), "POST token"), 1);
    assert!(run.stderr.contains("POST http://") && !run.stderr.contains("secret"), "{}", run.stderr);
    let stored = crate::mounted::run(Command::new("grep").args(["-rlaE", "secret"]).arg(imgmount.cache()));
    assert_eq!(stored.text(), "", "secrets in the cache directory");
}

#[test]
fn r3_a_token_that_expires_under_way_is_replaced() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    // Each token is good for two requests.
    registry.set_access(Access::Token(None, 2));
    imgmount_run(&imgmount, &["verify", &registry.reference("app:1")]).expect(0);
    let requests = registry.requests();
    assert!(count(&requests, "token") >= 2, "{requests:?}");
}

#[test]
fn r3_a_helper_is_asked_and_asked_again() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    registry.set_access(Access::Basic(USER.to_owned(), PASSWORD.to_owned()));
    let bin = imgmount.dir().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let helper = bin.join("docker-credential-test");
    // The first answer is a password that has expired.
    let script = format!(
        "#!/bin/sh\nread -r host\necho \"$1 $host\" >> {log}\n\
         if [ -e {log}.2 ]; then secret={PASSWORD}; else secret=old; fi\ntouch {log}.2\n\
         echo '{{\"Username\":\"{USER}\",\"Secret\":\"'$secret'\"}}'\n",
        log = bin.join("log").display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let config = imgmount.write("auth.json", br#"{"credsStore": "test"}"#);
    let reference = registry.reference("app:1");
    let mut command = command(&imgmount, &["ls", &reference, "--authfile", "auth.json"]);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    run(command.env("PATH", path)).expect(0);
    let asked = fs::read_to_string(bin.join("log")).unwrap();
    assert_eq!(asked, format!("get {0}\nget {0}\n", registry.host()));
    fs::write(config, "{").unwrap();
    let broken = imgmount_run(&imgmount, &["ls", &reference, "--authfile", "auth.json", "--no-cache"]);
    broken.expect(2).says("auth.json': line 1: not JSON");
}

#[test]
fn r4_blobs_come_from_another_host_without_credentials() {
    // The registry fails the test when its second port gets credentials.
    for (uses, status) in [(100, 403), (1, 403), (1, 400), (1, 404)] {
        let (imgmount, registry) = (Imgmount::new(), Registry::start());
        registry.push("app:1", &sample());
        registry.set_access(Access::Basic(USER.to_owned(), PASSWORD.to_owned()));
        registry.redirect_blobs(uses, status);
        log_in(&imgmount, &registry, USER, PASSWORD);
        imgmount_run(&imgmount, &["verify", &registry.reference("app:1")]).expect(0);
        assert!(count(&registry.requests(), "cdn/") > 0);
    }
}

#[test]
fn r5_faults_that_pass_do_not_show() {
    let fails = [
        ("cut", Fault::Cut(1000)),
        ("reset", Fault::Reset),
        ("503", Fault::Status(503, Vec::new())),
        ("429", Fault::Status(429, vec![("Retry-After", "1".to_owned())])),
        ("429 of ghcr.io", Fault::Status(429, vec![("Retry-After", "880.092µs".to_owned())])),
        ("stall", Fault::Stall(1000)),
    ];
    for (name, fault) in fails {
        let (imgmount, registry) = (Imgmount::new(), Registry::start());
        let image = large();
        registry.push("app:1", &image);
        let blobs = Arc::new(AtomicUsize::new(0));
        registry.fail(move |seen| {
            let is_first =
                seen.is_blob() && seen.what() != "cdn/" && blobs.fetch_add(1, Ordering::SeqCst) == 1;
            is_first.then(|| fault.clone())
        });
        let reference = format!("{}:/etc/os-release", registry.reference("app:1"));
        let shown = imgmount_run(&imgmount, &["cat", &reference, "--net-timeout", "3s"]);
        assert_eq!(shown.expect(0).text(), "ID=test", "{name}");
    }
}

#[test]
fn r5_a_stream_that_breaks_fetches_only_what_is_missing() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = large();
    registry.push("app:1", &image);
    let total = layer_bytes(&image) + image.config().len() as u64;
    let layer = format!("blobs/{}", &crate::fixture::sha256_hex(&image.layers[0].blob)[..12]);
    registry.fail(move |seen| {
        let start = seen.headers.get("range").map(|range| {
            range.trim_start_matches("bytes=").split('-').next().unwrap().parse::<u64>().unwrap()
        });
        // Every stream of the layer that begins in its first mebibyte ends after 100,000 bytes.
        let is_cut = seen.what() == layer && start.unwrap_or(0) < 1 << 20;
        is_cut.then_some(Fault::Cut(100_000))
    });
    imgmount_run(&imgmount, &["ls", &registry.reference("app:1")]).expect(0);
    let sent = registry.sent_bytes();
    // What had been sent when a connection ended is in the buffers of the sockets, and arrives.
    assert!(sent >= total && sent <= total + 1000, "{sent} bytes instead of {total}");
}

#[test]
fn r5_a_registry_that_does_not_answer_is_given_up_by_the_deadline() {
    let (imgmount, mut registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    registry.fail(|_| Some(Fault::Status(429, vec![("Retry-After", "3600".to_owned())])));
    let ls = |imgmount: &Imgmount, reference: &str| {
        imgmount_run(imgmount, &["ls", reference, "--net-timeout", "2s"]).expect(2)
    };
    let reference = registry.reference("app:1");
    ls(&imgmount, &reference).says("allows no more requests for 3600 s").says("log in");
    assert_eq!(registry.requests().len(), 1);
    registry.fail(|_| Some(Fault::Delay(Duration::from_secs(3600))));
    ls(&imgmount, &reference).says("no answer in time").says("--offline");
    registry.end();
    ls(&imgmount, &reference).says("cannot reach").says("--offline");
}

#[test]
fn r6_a_registry_without_ranges_serves_whole_blobs() {
    let faults: [fn() -> Fault; 4] = [
        || Fault::IgnoreRange,
        || Fault::ShiftedRange(1),
        || Fault::Status(416, vec![("Content-Length", "100000".to_owned())]),
        || Fault::Header("Content-Encoding", "gzip".to_owned()),
    ];
    for fault in faults {
        let (imgmount, registry) = (Imgmount::new(), Registry::start());
        registry.push("app:1", &large());
        registry.fail(move |seen| seen.headers.contains_key("range").then(fault));
        let reference = format!("{}:/etc/os-release", registry.reference("app:1"));
        let shown = imgmount_run(&imgmount, &["cat", &reference]).expect(0);
        assert_eq!(shown.text(), "ID=test", "{:?}", fault());
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large());
    registry.fail(|seen| seen.is_blob().then(|| Fault::Header("Content-Encoding", "gzip".to_owned())));
    imgmount_run(&imgmount, &["ls", &registry.reference("app:1")]).expect(2).says("Content-Encoding");
}

/// Each request had a connection of its own, which cost a round trip and began slowly.
#[test]
fn r6_connections_are_used_again() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large().layer_as("COPY", &[file("small", b"small")], "", Compression::Gzip(6)));
    let reference = registry.reference("app:1");
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    fs::remove_dir_all(imgmount.cache().join("blobs")).unwrap();
    registry.set_access(Access::Token(None, 100));
    registry.redirect_blobs(100, 403);
    registry.requests();
    let before = registry.connections();
    let out = imgmount_run(&imgmount, &["cat", &format!("{reference}:/etc/os-release"), "/small"]).expect(0);
    assert_eq!(out.text(), "ID=testsmall");
    let requests = registry.requests();
    assert_eq!(count(&requests, "cdn/"), 2, "{requests:#?}");
    assert_eq!(count(&requests, "blobs/"), 2, "{requests:#?}");
    // The attempt to speak TLS, the registry with its token server, and the object store.
    assert_eq!(registry.connections() - before, 3, "{requests:#?}");
}

#[test]
fn r6_wrong_bytes_are_never_shown() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = large();
    registry.push("app:1", &image);
    registry.fail(|seen| seen.is_blob().then_some(Fault::Flip(70_000)));
    let ls = imgmount_run(&imgmount, &["ls", &registry.reference("app:1")]);
    ls.expect(2).says("blob digest does not match");
    registry.fail(|seen| seen.target.contains("/manifests/").then_some(Fault::Flip(20)));
    let digest = format!("sha256:{}", crate::fixture::sha256_hex(&image.manifest()));
    let by_digest = registry.reference(&format!("app@{digest}"));
    imgmount_run(&imgmount, &["ls", &by_digest, "--no-cache"]).expect(2);
    registry.recover();
    imgmount_run(&imgmount, &["ls", &by_digest]).expect(0);
    registry.replace_blob(
        &format!("sha256:{}", crate::fixture::sha256_hex(&image.layers[0].blob)),
        b"other".to_vec(),
    );
    imgmount_run(&imgmount, &["verify", &by_digest]).expect(1);
}

#[test]
fn r7_a_second_run_asks_only_what_the_tag_means() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = sample();
    let digest = registry.push("app:1", &image);
    let ls = |reference: &str, options: &[&str]| {
        let run = imgmount_run(&imgmount, &[&["ls", "-lR", reference], options].concat());
        (run.expect(0).text().to_owned(), registry.requests())
    };
    let (first, requests) = ls(&registry.reference("app:1"), &[]);
    assert_eq!(count(&requests, "manifests/"), 1, "{requests:?}");
    let (second, requests) = ls(&registry.reference("app:1"), &[]);
    assert_eq!((&second, &*requests), (&first, &["HEAD manifests/1".to_owned()][..]));
    // By digest, and offline, nothing is asked.
    for (name, options) in [(format!("app@{digest}"), &[][..]), ("app:1".to_owned(), &["--offline"])] {
        let (listed, requests) = ls(&registry.reference(&name), options);
        assert_eq!((&listed, requests.len()), (&first, 0), "{name}");
    }
    // A tag that moved is followed, and its shared documents are not fetched again.
    registry.push("app:1", &image.clone().layer("RUN more", &[file("more", b"more")]));
    let (moved, requests) = ls(&registry.reference("app:1"), &[]);
    assert!(moved.contains("more"));
    assert_eq!(count(&requests, "manifests/1"), 2, "{requests:?}");
}

#[test]
fn r7_offline_says_what_is_missing() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let reference = registry.reference("app:1");
    let offline = |args: &[&str]| imgmount_run(&imgmount, &[args, &["--offline"]].concat()).expect(2);
    let name = format!("{}/app:1", registry.host());
    offline(&["ls", &reference])
        .says(&format!("the tag '{name}' is not in the cache"))
        .says("omit --offline");
    registry.fail(|seen| (seen.is_blob() && seen.number > 1).then(|| Fault::Status(404, Vec::new())));
    imgmount_run(&imgmount, &["ls", &reference]).expect(2);
    offline(&["ls", &reference]).says("is not in the cache, and --offline allows no request");
    let digest = format!("sha256:{}", "0".repeat(64));
    offline(&["ls", &registry.reference(&format!("app@{digest}"))]).says(&format!("manifest {digest}"));
}

/// Forwards all connections to `to`, as a proxy for `CONNECT`, and returns its address and the requests.
fn proxy(to: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = requests.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (to, seen) = (to.clone(), seen.clone());
            thread::spawn(move || -> std::io::Result<()> {
                let mut reader = BufReader::new(client.try_clone()?);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
                seen.lock().unwrap().push(head);
                let server = TcpStream::connect(to)?;
                (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
                let mut back = (server.try_clone()?, client.try_clone()?);
                thread::spawn(move || {
                    let _ = std::io::copy(&mut back.0, &mut back.1);
                    // A registry that hangs up hangs up on the client.
                    back.1.shutdown(std::net::Shutdown::Both)
                });
                std::io::copy(&mut reader, &mut &server)?;
                server.shutdown(std::net::Shutdown::Write)
            });
        }
    });
    (address, requests)
}

#[test]
fn r2_a_proxy_is_used_except_for_hosts_that_no_proxy_names() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &sample());
    let (address, requests) = proxy(registry.host());
    let proxied = |host: &str| {
        let mut command =
            command(&imgmount, &["-vv", "ls", "--insecure", "--no-cache", "--net-timeout", "5s"]);
        command.arg(format!("docker://{host}/app:1"));
        for name in ["http_proxy", "https_proxy"] {
            command.env(name, format!("http://eve:proxy-secret@{address}"));
        }
        run(command.env("NO_PROXY", "other.test, .spared.test"))
    };
    let through = proxied("registry.test:5000").expect(0);
    assert!(!through.stderr.contains("proxy-secret"), "{}", through.stderr);
    let heads = std::mem::take(&mut *requests.lock().unwrap());
    assert!(heads.iter().all(|head| head.starts_with("CONNECT registry.test:5000 ")), "{heads:?}");
    // user and password in base64
    assert!(heads.iter().all(|head| head.contains("Basic ZXZlOnByb3h5LXNlY3JldA==")), "{heads:?}");
    proxied("a.spared.test:5000").expect(2).says("cannot reach");
    proxied(&registry.host()).expect(0);
    assert_eq!(requests.lock().unwrap().len(), 0);
}
