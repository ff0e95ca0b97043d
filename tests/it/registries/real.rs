//! Images in a real registry: docker-registry of CNCF Distribution, to which skopeo, podman and docker push.

use super::*;
use crate::engines::{self, Docker, Podman, succeed};
use crate::fixture::{dir, docker_legacy, oci_index, oci_nested, sample_layers, tar, without_sparse};
use crate::mounted::{find_program, wait_until};
use crate::tree::Field;

pub(super) fn have_registry(more: &[Need]) -> bool {
    have(&[&[Need::Program("docker-registry"), Need::Program("skopeo")], more].concat())
}

/// Writes the sample image as a layout.
pub(super) fn write_layout(imgmount: &Imgmount) {
    write_dir(&oci(&[sample()]), &imgmount.dir().join("layout"));
}

/// A registry to which skopeo has pushed the sample as `team/app:1`, and the reference of its repository.
fn real(imgmount: &Imgmount, http: &str, parts: &str, options: &[&str]) -> (engines::Registry, String) {
    let registry = engines::Registry::start_with(imgmount, http, parts);
    write_layout(imgmount);
    registry.push(imgmount, "oci:layout:1", "team/app:1", options);
    let place = format!("docker://{}/team/app", registry.host());
    (registry, place)
}

/// Returns the part of the configuration that lets in [`USER`] with [`PASSWORD`].
fn htpasswd(imgmount: &Imgmount) -> String {
    // The password as crypt(3) hashes it with bcrypt.
    let hash = "$2y$05$abcdefghijklmnopqrstuulgIDmuT0WuprQt/YPkxHK8OoiL4XjLy";
    let passwords = imgmount.write("htpasswd", format!("{USER}:{hash}\n").as_bytes());
    format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", passwords.display())
}

#[test]
fn r1_a_real_registry_is_read() {
    if !have_registry(&[]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (registry, place) = real(&imgmount, "", "", &[]);
    let v2 = registry.push(&imgmount, "oci:layout:1", "team/app:docker", &["--format", "v2s2"]);
    let target = imgmount.dir().join("tree");
    for reference in [place.clone() + ":1", place.clone() + ":docker", format!("{place}@{v2}")] {
        imgmount_run(&imgmount, &["verify", &reference]).expect(0);
        let _ = fs::remove_dir_all(&target);
        let listed = imgmount_run(&imgmount, &["ls", "-lR", "--no-cache", &reference]).expect(0);
        let layout = imgmount.dir().join("layout");
        let expected = imgmount_run(&imgmount, &["ls", "-lR", layout.to_str().unwrap()]).expect(0);
        assert_eq!(listed.text(), expected.text(), "{reference}");
    }
    imgmount_run(&imgmount, &["ls", &format!("{place}:gone")])
        .expect(2)
        .says("has no manifest gone of team/app");
    let tags = imgmount_run(&imgmount, &["images", "--json", &place]).expect(0);
    assert_eq!(tags.lines().len(), 2, "{}", tags.text());
}

#[test]
fn r1_every_compression_is_read_from_a_real_registry() {
    if !have_registry(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let registry = engines::Registry::start(&imgmount);
    let compressions = [
        ("plain", Compression::Plain),
        ("gzip", Compression::Gzip(6)),
        ("members", Compression::GzipMembers(6)),
        ("zstd", Compression::Zstd),
        ("frames", Compression::ZstdFrames),
    ];
    for (name, compression) in compressions {
        write_dir(&oci(&[Image::sample("./", compression)]), &imgmount.dir().join(name));
        registry.push(&imgmount, &format!("oci:{name}:1"), &format!("{name}:1"), &["--preserve-digests"]);
        let reference = format!("docker://{}/{name}:1", registry.host());
        imgmount_run(&imgmount, &["verify", &reference]).expect(0);
        // First through the pass, then by the index, without and with what is kept of the layers.
        for options in [&[][..], &["--blob-cache-size", "0"], &[]] {
            let mounted = mounted(&imgmount, &reference, options);
            Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), name);
            drop(mounted);
            if options.is_empty() {
                fs::remove_dir_all(imgmount.cache().join("blobs")).unwrap();
            }
        }
    }
}

/// Makes the sample without sparse files: neither podman nor docker can push those that they loaded.
fn dense() -> Image {
    let image = Image::named("example.com/dense:1");
    sample_layers().into_iter().fold(image, |image, (by, items)| image.layer(by, &without_sparse(items)))
}

#[test]
fn r1_what_podman_pushes_is_shown_as_podman_mounts_it() {
    if !have_registry(&[Need::Fuse, Need::Root, Need::Program("podman")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let registry = engines::Registry::start(&imgmount);
    let podman = Podman::new(&imgmount, "vfs");
    imgmount.write("dense.tar", &tar(&docker_legacy(&[dense()])));
    podman.load(&imgmount.dir().join("dense.tar"));
    let name = "example.com/dense:1";
    let point = succeed(&mut podman.command(&["image", "mount", name]));
    let comparable = |tree: Snapshot| tree.without(Field::Root).without(Field::DirectoryTimes);
    let expected = comparable(Snapshot::of(std::path::Path::new(&point)));
    let pushes: [(&str, &[&str]); 4] = [
        ("default", &[]),
        ("docker", &["--format", "v2s2"]),
        ("oci", &["--format", "oci"]),
        ("zstd", &["--format", "oci", "--compression-format", "zstd"]),
    ];
    for (tag, options) in pushes {
        let target = format!("docker://{}/team/app:{tag}", registry.host());
        let mut push = podman.command(&["push", "-q", "--tls-verify=false"]);
        succeed(push.args(options).args([name, &target]));
        imgmount_run(&imgmount, &["verify", &target]).expect(0);
        let mounted = mounted(&imgmount, &target, &[]);
        expected.assert_shown_by(&comparable(Snapshot::of(mounted.path())), tag);
    }
    succeed(&mut podman.command(&["image", "umount", "--all"]));
}

#[test]
fn r1_what_docker_pushes_is_what_it_saves() {
    if !have_registry(&[Need::Fuse, Need::Root, Need::Program("dockerd"), Need::Program("docker")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let registry = engines::Registry::named(&imgmount, "registry", "", &htpasswd(&imgmount));
    let docker = Docker::start(&imgmount);
    docker.load(&docker_legacy(&[dense()]));
    let name = format!("{}/team/app:1", registry.host());
    docker.run(&["tag", "example.com/dense:1", &name]);
    // The file that docker writes, and then a helper to which docker gives the password.
    for helper in ["", "file"] {
        let bin = credential_helper(&imgmount);
        let config = docker.dir.join("config.json");
        let settings =
            if helper.is_empty() { "{}".to_owned() } else { format!(r#"{{"credsStore": "{helper}"}}"#) };
        fs::write(&config, settings).unwrap();
        let mut log_in = docker.command(&["login", "-u", USER, "--password-stdin", &registry.host()]);
        log_in.stdin(fs::File::open(imgmount.write("password", PASSWORD.as_bytes())).unwrap());
        succeed(log_in.env("PATH", &bin));
        succeed(docker.command(&["push", "-q", &name]).env("PATH", &bin));
        let stored = fs::read_to_string(&config).unwrap();
        assert_eq!(stored.contains("\"auth\":"), helper.is_empty(), "{stored}");
        let mut verify = command(&imgmount, &["verify", &format!("docker://{name}")]);
        verify.env("DOCKER_CONFIG", &docker.dir);
        run(verify.env("PATH", &bin)).expect(0);
        let _ = fs::remove_dir_all(imgmount.cache());
    }
    docker.run(&["save", "-o", "saved.tar", &name]);
    fs::write(docker.dir.join("config.json"), "{}").unwrap();
    log_in_real(&imgmount, &registry, "skopeo");
    let reference = format!("docker://{name}");
    let pushed = mounted(&imgmount, &reference, &["--authfile", "auth.json"]);
    let saved = imgmount.mount(docker.dir.join("saved.tar"), &[]);
    Snapshot::of(saved.path()).assert_shown_by(&Snapshot::of(pushed.path()), "pushed by docker");
    Snapshot::described(&without_sparse(sample_tree()))
        .assert_shown_by(&Snapshot::of(pushed.path()), "pushed by docker");
    let archive = format!("{}/saved.tar", docker.dir.display());
    let diff = imgmount_run(&imgmount, &["diff", "--authfile", "auth.json", &reference, &archive]);
    assert_eq!(diff.expect(0).text(), "");
}

/// Writes a credential helper that keeps one password in a file. Returns a `PATH` in which it is found.
fn credential_helper(imgmount: &Imgmount) -> String {
    let bin = imgmount.dir().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\ncd {} || exit 1\n\
         case $1 in\nstore) cat > password.json ;;\nerase) rm -f password.json ;;\n\
         get) if [ -e password.json ]; then cat password.json\n\
         else echo 'credentials not found in native keychain'; exit 1; fi ;;\n\
         list) echo '{{}}' ;;\nesac\n",
        bin.display()
    );
    let helper = bin.join("docker-credential-file");
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}:/usr/sbin:/sbin", bin.display(), std::env::var("PATH").unwrap())
}

/// Logs in to a real registry with podman or skopeo, into `auth.json`.
fn log_in_real(imgmount: &Imgmount, registry: &engines::Registry, tool: &str) {
    let mut log_in = Command::new(tool);
    log_in.args(["login", "--tls-verify=false", "--authfile", "auth.json", "-u", USER, "--password-stdin"]);
    log_in.arg(registry.host()).current_dir(imgmount.dir());
    log_in.stdin(fs::File::open(imgmount.write("password", PASSWORD.as_bytes())).unwrap());
    succeed(&mut log_in);
}

#[test]
fn r3_a_registry_with_passwords_is_read_after_a_login() {
    if !have_registry(&[]) {
        return;
    }
    let imgmount = Imgmount::new();
    let login = format!("{USER}:{PASSWORD}");
    let (registry, place) = real(&imgmount, "", &htpasswd(&imgmount), &["--dest-creds", &login]);
    let reference = place + ":1";
    imgmount_run(&imgmount, &["ls", &reference]).expect(2).says("denies access without credentials");
    for tool in ["skopeo", "podman"].into_iter().filter(|tool| find_program(tool).is_some()) {
        let _ = fs::remove_file(imgmount.dir().join("auth.json"));
        log_in_real(&imgmount, &registry, tool);
        imgmount_run(&imgmount, &["verify", "--authfile", "auth.json", &reference]).expect(0);
        let mut by_variable = command(&imgmount, &["ls", "--no-cache", &reference]);
        run(by_variable.env("REGISTRY_AUTH_FILE", imgmount.dir().join("auth.json"))).expect(0);
        // Where podman writes it for a user who is logged in to the host.
        let runtime = imgmount.dir().join("run/containers");
        fs::create_dir_all(&runtime).unwrap();
        fs::copy(imgmount.dir().join("auth.json"), runtime.join("auth.json")).unwrap();
        let mut by_place = command(&imgmount, &["ls", "--no-cache", &reference]);
        run(by_place.env("XDG_RUNTIME_DIR", imgmount.dir().join("run"))).expect(0);
    }
    let stored = run(Command::new("grep").args(["-rlaE", "hunter2|ZXZlOm"]).arg(imgmount.cache()));
    assert_eq!(stored.text(), "", "secrets in the cache directory");
}

#[test]
fn r1_a_platform_is_selected_in_a_real_registry() {
    if !have_registry(&[]) {
        return;
    }
    let imgmount = Imgmount::new();
    let registry = engines::Registry::start(&imgmount);
    let image = |architecture: &str| {
        let items = [dir("etc"), file("etc/arch", architecture)];
        let image = Image::named("a:1").layer_as("COPY", &items, "", Compression::Gzip(6));
        image.for_architecture(architecture, None)
    };
    let images = ["amd64", "arm64", "s390x"].map(image);
    // With attestations, as buildkit adds them, and without.
    write_dir(&oci_nested("a:1", &images, 1), &imgmount.dir().join("oci"));
    write_dir(&oci_index("a:1", &images), &imgmount.dir().join("docker"));
    for (name, options) in [("oci", &["--all"][..]), ("docker", &["--all", "--format", "v2s2"])] {
        let list = registry.push(&imgmount, &format!("oci:{name}:1"), &format!("{name}:1"), options);
        let place = format!("docker://{}/{name}", registry.host());
        for architecture in ["amd64", "arm64", "s390x"] {
            let before = registry.requests().len();
            let platform = format!("linux/{architecture}");
            let cat = ["cat", "--platform", &platform, &format!("{place}@{list}:/etc/arch")];
            assert_eq!(imgmount_run(&imgmount, &cat).expect(0).text(), architecture);
            let requests = registry.requests();
            let manifests = count(&requests[before..], "/manifests/");
            assert!(manifests <= 2, "{requests:?}");
        }
        let refused = imgmount_run(&imgmount, &["ls", "--platform", "linux/mips", &format!("{place}:1")]);
        refused.expect(2).says("linux/s390x").says("select one with --platform");
        let differs = |platform: &str| {
            let one = format!("{place}:1");
            imgmount_run(&imgmount, &["diff", "--platform", platform, &one, &one]).code
        };
        assert_eq!(differs("linux/arm64"), 0);
    }
}

#[test]
fn r7_what_a_registry_deletes_can_be_read_from_the_cache() {
    if !have_registry(&[Need::Program("curl")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (registry, place) = real(&imgmount, "", "", &[]);
    let digest = registry.push(&imgmount, "oci:layout:1", "team/app:2", &[]);
    let by_digest = format!("{place}@{digest}");
    imgmount_run(&imgmount, &["ls", &by_digest]).expect(0);
    let url = format!("http://{}/v2/team/app/manifests/{digest}", registry.host());
    succeed(Command::new("curl").args(["-sf", "-X", "DELETE", &url]));
    let gone = imgmount_run(&imgmount, &["ls", &(place.clone() + ":1")]).expect(2);
    gone.says("has no manifest 1 of team/app").says("`imgmount images docker://HOST/NAME` lists the tags");
    imgmount_run(&imgmount, &["ls", "--no-cache", &by_digest]).expect(2).says("has no manifest sha256:");
    imgmount_run(&imgmount, &["cat", &format!("{by_digest}:/usr/lib/small")]).expect(0);
}

#[test]
fn r6_a_pull_through_cache_is_read_cold_and_warm() {
    if !have_registry(&[]) {
        return;
    }
    let imgmount = Imgmount::new();
    let (upstream, place) = real(&imgmount, "", "", &[]);
    let proxy = format!("proxy:\n  remoteurl: http://{}\n", upstream.host());
    let large = format!("{place}:1:/usr/lib/large");
    let large_layer = crate::fixture::sha256_hex(&sample().layers[0].blob);
    let expected = imgmount_run(&imgmount, &["cat", &large]).expect(0).stdout;
    let cache = engines::Registry::named(&imgmount, "pull-through", "", &proxy);
    let through = |path: &str| format!("docker://{}/team/app:1{path}", cache.host());
    // The index is known, and what is kept of the layers is gone: parts of them are requested. The first
    // answer is the whole blob, the later ones are the parts.
    for (turn, status) in [("cold", "200"), ("warm", "206")] {
        fs::remove_dir_all(imgmount.cache().join("blobs")).unwrap();
        let before = blob_statuses(&cache).len();
        let read = imgmount_run(&imgmount, &["cat", &through(":/usr/lib/large")]).expect(0);
        assert!(read.stdout == expected, "{turn}");
        // The pull-through cache keeps the blob a moment after its last byte.
        let statuses = blob_statuses(&cache).split_off(before);
        assert!(statuses.iter().all(|one| one == status), "{turn}: {statuses:?}");
        assert!(statuses.len() == 1 || turn == "warm", "{turn}: {statuses:?}");
        assert!(wait_until(|| cache.holds(&large_layer)), "{turn}");
    }
    let _ = fs::remove_dir_all(imgmount.cache());
    imgmount_run(&imgmount, &["verify", &through("")]).expect(0);
}

/// Returns the statuses of the requests for blobs so far.
fn blob_statuses(registry: &engines::Registry) -> Vec<String> {
    let requests = registry.requests().into_iter().filter(|request| request.contains("/blobs/"));
    requests.map(|request| request.rsplit(' ').next().unwrap().to_owned()).collect()
}

/// Makes a certificate authority `ca`, and certificates by it: for `localhost` and for a client.
fn certificates(imgmount: &Imgmount) {
    let new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3";
    let signed = "-CA ca.crt -CAkey ca.key -addext basicConstraints=critical,CA:FALSE";
    let mut make = imgmount.shell(&format!(
        "{{ {new} -keyout ca.key -out ca.crt -subj /CN=test-ca &&
         {new} -keyout host.key -out host.crt -subj /CN=localhost -addext subjectAltName=DNS:localhost {signed} &&
         {new} -keyout client.key -out client.cert -subj /CN=eve -addext extendedKeyUsage=clientAuth {signed}
         }} 2>&1"
    ));
    run(make.current_dir(imgmount.dir())).expect(0);
}

#[test]
fn r2_a_certificate_of_an_authority_is_refused_with_the_way_out() {
    if !have_registry(&[Need::Program("openssl")]) {
        return;
    }
    for is_authority in [true, false] {
        let imgmount = Imgmount::new();
        let new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3";
        let names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost";
        let no_authority = if is_authority { "" } else { "-addext basicConstraints=critical,CA:FALSE" };
        let make = format!("{new} -keyout host.key -out host.crt {names} {no_authority} 2>&1");
        run(imgmount.shell(&make).current_dir(imgmount.dir())).expect(0);
        let file = |name: &str| imgmount.dir().join(name).display().to_string();
        let http = format!("  tls:\n    certificate: {}\n    key: {}\n", file("host.crt"), file("host.key"));
        let (registry, place) = real(&imgmount, &http, "", &[]);
        let trusted = imgmount.dir().join("home/.config/containers/certs.d");
        let directory = trusted.join(format!("localhost:{}", registry.port));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(file("host.crt"), directory.join("ca.crt")).unwrap();
        let listed = imgmount_run(&imgmount, &["ls", "--no-cache", &(place + ":1")]);
        if is_authority {
            listed.expect(2).says("CA:TRUE").says("basicConstraints=critical,CA:FALSE").says("--insecure");
        } else {
            listed.expect(0);
        }
    }
}

#[test]
fn r2_a_registry_with_tls_needs_its_certificate() {
    if !have_registry(&[Need::Program("openssl")]) {
        return;
    }
    let imgmount = Imgmount::new();
    certificates(&imgmount);
    let file = |name: &str| imgmount.dir().join(name).display().to_string();
    let http = format!("  tls:\n    certificate: {}\n    key: {}\n", file("host.crt"), file("host.key"));
    let (registry, place) = real(&imgmount, &http, "", &[]);
    let reference = place + ":1";
    let ls = |reference: &str| imgmount_run(&imgmount, &["ls", "--no-cache", reference]);
    ls(&reference).expect(2).says("the certificate is not valid").says("--insecure accepts any");
    imgmount_run(&imgmount, &["ls", "--no-cache", "--insecure", &reference]).expect(0);
    let trusted = imgmount.dir().join("home/.config/containers/certs.d");
    let trust = |host: &str| {
        let directory = trusted.join(format!("{host}:{}", registry.port));
        fs::create_dir_all(&directory).unwrap();
        fs::copy(file("ca.crt"), directory.join("ca.crt")).unwrap();
    };
    trust("localhost");
    imgmount_run(&imgmount, &["verify", &reference]).expect(0);
    // The certificate of an authority that is known, for another name.
    trust("127.0.0.1");
    let other_name = reference.replace("localhost", "127.0.0.1");
    ls(&other_name).expect(2).says("the certificate is not valid").says("--insecure accepts any");
    imgmount_run(&imgmount, &["ls", "--no-cache", "--insecure", &other_name]).expect(0);
    fs::remove_dir_all(&trusted).unwrap();
    let mut by_variable = command(&imgmount, &["ls", "--no-cache", &reference]);
    run(by_variable.env("SSL_CERT_FILE", file("ca.crt"))).expect(0);
}

#[test]
fn r2_a_registry_that_asks_for_our_certificate_gets_it() {
    if !have_registry(&[Need::Program("openssl")]) {
        return;
    }
    let imgmount = Imgmount::new();
    certificates(&imgmount);
    let file = |name: &str| imgmount.dir().join(name).display().to_string();
    let http = format!(
        "  tls:\n    certificate: {}\n    key: {}\n    clientcas:\n      - {}\n",
        file("host.crt"),
        file("host.key"),
        file("ca.crt")
    );
    let own = imgmount.dir().join("own");
    fs::create_dir(&own).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        fs::copy(file(name), own.join(name)).unwrap();
    }
    let (registry, place) = real(&imgmount, &http, "", &["--dest-cert-dir", own.to_str().unwrap()]);
    let reference = place + ":1";
    let trusted = imgmount.dir().join(format!("home/.config/containers/certs.d/{}", registry.host()));
    fs::create_dir_all(&trusted).unwrap();
    fs::copy(own.join("ca.crt"), trusted.join("ca.crt")).unwrap();
    imgmount_run(&imgmount, &["ls", &reference]).expect(2).says("ends the TLS handshake");
    fs::copy(own.join("client.cert"), trusted.join("client.cert")).unwrap();
    imgmount_run(&imgmount, &["ls", &reference]).expect(2).says("the file with its key is missing");
    fs::copy(own.join("client.key"), trusted.join("client.key")).unwrap();
    imgmount_run(&imgmount, &["verify", &reference]).expect(0);
}
