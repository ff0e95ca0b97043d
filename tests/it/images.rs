//! Tests `imgmount images`: what it lists, and that each reference in its output selects what it stands for.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::Value;

use crate::engines::{Docker, succeed};
use crate::fixture::{
    Compression, Image, Item, docker_legacy, file, oci, oci_nested, sha256_hex, skopeo_dir, tar, write_dir,
};
use crate::json::{Schema, Seen};
use crate::mounted::{Imgmount, Need, Run, have, run};

/// Makes an image with one file, `name`.
fn small(reference: &str, name: &str) -> Image {
    Image::named(reference).layer_as("COPY", &[file(name, b"1")], "", Compression::Plain)
}

/// Returns an image without names.
fn unnamed(name: &str) -> Image {
    let mut image = small("", name);
    image.names.clear();
    image
}

fn values(run: &Run) -> Vec<Value> {
    run.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the JSON lines of a source.
fn listed(imgmount: &Imgmount, source: &str) -> Vec<Value> {
    values(&imgmount.run(&["images", "--json", source]).expect(0))
}

fn text<'a>(image: &'a Value, field: &str) -> &'a str {
    image[field].as_str().unwrap_or_else(|| panic!("{field} in {image}"))
}

/// Returns the files of the images that the lines refer to.
fn files(imgmount: &Imgmount, lines: &[Value]) -> Vec<String> {
    let ls = |line: &Value| imgmount.run(&["ls", text(line, "source")]).expect(0).text().to_owned();
    lines.iter().map(ls).collect()
}

#[test]
fn c41_each_image_is_a_line_with_aligned_columns() {
    let imgmount = Imgmount::new();
    let (one, two) = (small("a:1", "f").also_named("example.com/other:latest"), small("b:1", "g"));
    imgmount.write("two.tar", &tar(&docker_legacy(&[one.clone(), two.clone()])));
    let ids = [one, two].map(|image| sha256_hex(&image.config()));
    let table = format!(
        "\
NAME                          ID            KIND   PLATFORM     CREATED           LAYERS  SIZE  SOURCE
a:1,example.com/other:latest  {:.12}  image  linux/amd64  2026-01-02 03:04       1  2048  two.tar:a:1
b:1                           {:.12}  image  linux/amd64  2026-01-02 03:04       1  2048  two.tar:b:1
",
        ids[0], ids[1]
    );
    assert_eq!(imgmount.run(&["images", "two.tar"]).expect(0).text(), table);
}

#[test]
fn c41_a_source_without_images_has_no_heading() {
    let imgmount = Imgmount::new();
    let none = r#"{"schemaVersion":2,"manifests":[]}"#;
    let items = [file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#), file("index.json", none)];
    imgmount.write("empty.tar", &tar(&items));
    assert_eq!(imgmount.run(&["images", "empty.tar"]).expect(0).text(), "");
    imgmount.run(&["images", "none.tar"]).expect(2).says("none.tar");
    imgmount.write("text", b"no image");
    imgmount.run(&["images", "text"]).expect(2).says("not a container image");
}

#[test]
fn images_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    imgmount.write("a.tar", &tar(&docker_legacy(&[small("a:1", "f"), unnamed("g")])));
    // Nothing states the platform of an image whose config is missing.
    let mut items = docker_legacy(&[small("c:1", "h")]);
    items.retain(|item| item.name == b"manifest.json" || !item.name.ends_with(b".json"));
    imgmount.write("broken.tar", &tar(&items));
    let odd = OsStr::from_bytes(b"caf\xe9.tar");
    fs::copy(imgmount.dir().join("a.tar"), imgmount.dir().join(odd)).unwrap();

    let (schema, mut seen) = (Schema::of("images --json"), Seen::new());
    for source in [Path::new("a.tar"), Path::new("broken.tar"), Path::new(odd)] {
        let listed = run(imgmount.command(&["images", "--json"]).arg(source)).expect(0);
        for line in listed.lines() {
            schema.check(&serde_json::from_str(line).unwrap(), "line", &mut seen);
            assert!(line.starts_with("{\"names\":"), "{line}");
        }
    }
    let mut claims = schema.claims("line");
    // These configs state a time.
    assert!(claims.contains("line.created: null") && seen.contains("line.created: null"));
    claims.retain(|claim| !seen.contains(claim));
    assert_eq!(claims, BTreeSet::new(), "each claim of the document is seen");
}

#[test]
fn c41_an_image_that_cannot_be_read_hides_no_other() {
    let imgmount = Imgmount::new();
    let (sound, broken) = (small("a:1", "f"), small("b:1", "g"));
    let config = format!("blobs/sha256/{}", sha256_hex(&broken.config()));
    let mut items = oci(&[broken, sound.clone()]);
    items.retain(|item| item.name != config.as_bytes());
    write_dir(&items, &imgmount.dir().join("layout"));
    let run = imgmount.run(&["images", "--json", "layout"]).expect(0);
    let lines = values(&run);
    assert_eq!(lines.len(), 2);
    for field in ["id", "size", "created", "layers"] {
        assert_eq!(lines[0][field], Value::Null, "{field}");
    }
    assert_eq!(text(&lines[0], "source"), "layout:b:1");
    assert_eq!(text(&lines[1], "id"), format!("sha256:{}", sha256_hex(&sound.config())));
    run.says("warn: 'layout:b:1': config sha256:").says("is missing");
    let table = imgmount.run(&["images", "layout"]).expect(0);
    let row: Vec<&str> = table.lines()[1].split_whitespace().collect();
    assert_eq!(row, ["b:1", "-", "image", "linux/amd64", "-", "-", "-", "layout:b:1"]);
}

#[test]
fn c41_each_reference_can_be_used_in_other_commands() {
    let imgmount = Imgmount::new();
    let platforms = [("amd64", "in-amd64"), ("riscv64", "in-riscv64")];
    let platforms = platforms.map(|(one, file)| small("multi:1", file).for_architecture(one, None));
    let write = |name: &str, items: &[Item]| imgmount.write(name, &tar(items));
    // Two images of one name, an image without a name, a name that is another's position.
    let same = [small("same:1", "one"), small("same:1", "two"), unnamed("three"), small("@0", "four")];
    write("same.tar", &docker_legacy(&same));
    write("multi.tar", &oci_nested("multi:1", &platforms, 1));
    write("colon:1.tar", &docker_legacy(&[small("a:1", "colon")]));
    write("trap.tar", &docker_legacy(&[small("a:1", "f"), small("b:1", "g")]));
    // A file whose name is the reference to an image of another archive.
    write("trap.tar:a:1", &docker_legacy(&[small("x:1", "trap")]));
    write_dir(&skopeo_dir(&small("", "in-dir")), &imgmount.dir().join("dir"));
    write_dir(&oci(&[small("l:1", "in-layout")]), &imgmount.dir().join("layout"));
    for (source, shown) in [
        ("same.tar", vec!["one\n", "two\n", "three\n", "four\n"]),
        ("multi.tar", vec!["in-amd64\n"]),
        ("colon:1.tar", vec!["colon\n"]),
        ("trap.tar", vec!["f\n", "g\n"]),
        ("dir", vec!["in-dir\n"]),
        ("oci:layout", vec!["in-layout\n"]),
        ("oci://layout", vec!["in-layout\n"]),
    ] {
        let lines = listed(&imgmount, source);
        assert_eq!(files(&imgmount, &lines), shown, "{source}: {lines:?}");
    }
    assert_eq!(text(&listed(&imgmount, "oci://layout")[0], "source"), "oci:layout:l:1");
    let riscv = imgmount.run(&["images", "--json", "--platform", "linux/riscv64", "multi.tar"]).expect(0);
    assert_eq!(text(&values(&riscv)[0], "platform"), "linux/riscv64");
}

#[test]
fn c41_a_selection_lists_the_images_that_match() {
    let imgmount = Imgmount::new();
    let images = ["docker.io/library/app:1", "docker.io/library/app:2", "localhost:5000/web", "myapp:1"];
    let images = images.map(|name| small(name, "f").layer("X", &[file(name.replace('/', "-"), b"")]));
    imgmount.write("a.tar", &tar(&docker_legacy(&images)));
    for (source, names) in [
        ("a.tar:app", vec!["docker.io/library/app:1", "docker.io/library/app:2"]),
        ("a.tar:app:2", vec!["docker.io/library/app:2"]),
        ("a.tar:library/app", vec!["docker.io/library/app:1", "docker.io/library/app:2"]),
        ("a.tar:web", vec!["localhost:5000/web"]),
        ("a.tar@3", vec!["myapp:1"]),
    ] {
        let lines = listed(&imgmount, source);
        let found: Vec<&str> = lines.iter().map(|line| line["names"][0].as_str().unwrap()).collect();
        assert_eq!(found, names, "{source}");
    }
    for source in ["a.tar:none", "a.tar:pp:1", "a.tar@9", "a.tar@web"] {
        imgmount.run(&["images", source]).expect(2).says("holds no image");
    }
    imgmount.run(&["images", "--image", "app"]).expect(2).says("SOURCE, which is missing");
}

#[test]
fn c41_containers_of_an_engine_follow_its_images() {
    if !have(&[Need::Root, Need::Program("dockerd"), Need::Program("docker")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let docker = Docker::start(&imgmount);
    let image = small("app:1", "f");
    imgmount.write("app.tar", &tar(&docker_legacy(std::slice::from_ref(&image))));
    succeed(&mut docker.command(&["load", "-q", "-i", "../app.tar"]));
    let id = succeed(&mut docker.command(&["create", "--name", "web", "app:1", "/bin/none"]));
    let data = docker.dir.join("data");
    // A bare path gets the transport, because `PATH@123` is a position without it.
    for source in [data.display().to_string(), format!("docker-graph:{}", data.display())] {
        let lines = listed(&imgmount, &source);
        let [first, second] = lines.as_slice() else { panic!("an image and a container: {lines:?}") };
        assert_eq!(text(first, "id"), format!("sha256:{}", sha256_hex(&image.config())));
        assert_eq!(text(first, "source"), format!("docker-graph:{}:app:1", data.display()));
        assert_eq!([text(second, "kind"), text(second, "id")], ["container", &id]);
        assert_eq!(text(second, "source"), format!("docker-graph:{}@web", data.display()));
        assert_eq!(second["names"], serde_json::json!(["web"]));
        assert!(text(second, "created").starts_with("20"), "{second}");
        assert!(files(&imgmount, &lines).iter().all(|files| files.contains("f\n")), "{lines:?}");
    }
    let sole = listed(&imgmount, &format!("{}@web", data.display()));
    assert_eq!(sole.len(), 1);
    assert_eq!(text(&sole[0], "kind"), "container");
    let offered = imgmount.run(&["complete", "--", &format!("{}@", data.display())]).expect(0);
    assert_eq!(offered.text(), format!("{}@web\n", data.display()));
}

/// Runs a script as root in a namespace of its own, in which `/var/lib` and root's home hold nothing.
fn on_an_empty_host(imgmount: &Imgmount, script: &str) -> Run {
    let script = format!("mount -t tmpfs none /var/lib && mount -t tmpfs none /root && {script}");
    let mut command = imgmount.shell_with_program(&format!("unshare -m sh -c '{script}'"));
    run(command.env_remove("XDG_DATA_HOME").env_remove("XDG_CONFIG_HOME").env_remove("XDG_RUNTIME_DIR"))
}

/// Writes the storage of a registry with one image.
fn write_registry(dir: &Path, image: &Image) {
    let write = |name: String, bytes: &[u8]| {
        let path = dir.join("docker/registry/v2").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for blob in [image.layers[0].blob.clone(), image.config(), image.manifest()] {
        let hex = sha256_hex(&blob);
        write(format!("blobs/sha256/{}/{hex}/data", &hex[..2]), &blob);
    }
    let link = format!("sha256:{}", sha256_hex(&image.manifest()));
    write("repositories/app/_manifests/tags/1/current/link".to_owned(), link.as_bytes());
}

#[test]
fn c41_without_a_source_the_stores_of_this_host_are_listed() {
    if !have(&[Need::Root, Need::Program("unshare"), Need::Program("setpriv")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let none = on_an_empty_host(&imgmount, "imgmount images --json").expect(0);
    assert_eq!(none.text(), "");
    none.says("found no store of an engine on this host");

    for name in ["first", "second"] {
        write_registry(&imgmount.dir().join(name), &small("", name));
    }
    // The first place is the one that a reference without a path means. Nothing is stored in a place that an
    // engine has just created.
    let script = "mkdir /var/lib/docker-registry /var/lib/registry /var/lib/docker && \
        cp -a second/. /var/lib/docker-registry && imgmount images --json && \
        imgmount ls registry-storage:/var/lib/docker-registry:app:1 && \
        cp -a first/. /var/lib/registry && imgmount images --json && imgmount ls registry-storage:app:1";
    let run = on_an_empty_host(&imgmount, script).expect(0);
    let lines = run.lines();
    let sources: Vec<String> = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|line| text(&line, "source").to_owned())
        .collect();
    let second = "registry-storage:/var/lib/docker-registry:app:1";
    assert_eq!(sources, [second, "registry-storage:app:1", second]);
    assert_eq!([lines[1], lines[4]], ["second", "first"]);
    assert!(!run.stderr.contains("docker:"), "{}", run.stderr);
}

#[test]
fn c41_a_store_that_cannot_be_read_is_named() {
    if !have(&[Need::Root, Need::Program("unshare"), Need::Program("setpriv")]) {
        return;
    }
    let imgmount = Imgmount::as_ordinary_user();
    write_registry(&imgmount.dir().join("store"), &small("", "f"));
    let as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/ ./imgmount images --json";
    let script = format!(
        "cp -a store /var/lib/registry && cp -a store /var/lib/docker-registry && \
         chmod 700 /var/lib/docker-registry && mkdir -p /var/lib/containers/storage/overlay-images && \
         chmod 700 /var/lib/containers/storage && {as_nobody}"
    );
    let run = on_an_empty_host(&imgmount, &script).expect(0);
    assert_eq!(run.lines().len(), 1, "{}", run.text());
    // For a user, `containers-storage:` means another store than that of root.
    for unreadable in
        ["registry-storage:/var/lib/docker-registry", "containers-storage:/var/lib/containers/storage"]
    {
        let warning = run.stderr.lines().find(|line| line.contains(unreadable)).unwrap_or_default();
        assert!(warning.contains("warn: ") && warning.contains("Permission denied"), "{}", run.stderr);
    }

    let script = format!("cp -a store /var/lib/registry && chmod 700 /var/lib/registry && {as_nobody}");
    let run = on_an_empty_host(&imgmount, &script).expect(2);
    run.says("Permission denied").says("no store of an engine can be read");
}

#[test]
fn c22_a_place_alone_is_listed() {
    let imgmount = Imgmount::new();
    let image = imgmount.write("a.tar", &tar(&oci(&[Image::named("a:1").layer("COPY", &[file("f", b"1")])])));
    let alone = run(imgmount.command::<&str>(&[]).arg(&image)).expect(0);
    let listed = run(imgmount.command(&["images"]).arg(&image)).expect(0);
    assert_eq!(alone.text(), listed.text());
    assert!(alone.text().starts_with("NAME"), "{}", alone.text());
    imgmount.run(&["gone.tar"]).expect(2).says("cannot open 'gone.tar'");
}
