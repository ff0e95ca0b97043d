//! Containers that changed files: their trees, and how they differ from their images.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::{BASE, NEEDS, comparable, load, reference, shows, store};
use crate::engines::{Podman, succeed};
use crate::mounted::{Imgmount, have};
use crate::tree::Snapshot;

/// Creates, changes, renames and deletes files of [`super::image`].
pub(super) const SCRIPT: &str = r#"
b() { /bin/busybox "$@"; }
# Created.
b mkdir /new /new/dir
echo created > /new/file
b ln /new/file /new/linked
b ln -s ../etc/kept /new/symlink
b mkfifo /new/pipe
b truncate -s 1000000 /new/sparse
echo end >> /new/sparse
echo odd > "$(b printf '/new/caf\351')"
# Changed: contents, modes, owners, times, and a further name for a file of the image.
echo more >> /etc/kept
b chmod 4711 /bin/ping
b chmod 0700 /var
b chown 5:7 /etc/owned
b touch -d '2001-02-03 04:05:06' /srv/tree/leaf
b ln /etc/moved /var/also-moved
# Renamed.
b mv /etc/moved /etc/renamed
b mv /srv/tree /srv/forest
# Deleted, and replaced by another type.
b rm /etc/link /srv/data/new
b rm -r /srv/data
b mkdir /srv/data
echo anew > /srv/data/anew
b rm -r /tmp
echo file > /tmp
b rm "$(b printf '/srv/caf\351')"
b mkdir "$(b printf '/srv/caf\351')"
"#;

/// Files that podman creates for what it mounts, and that `podman diff` leaves out.
const OF_PODMAN: [&str; 10] = [
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/run",
    "/run/.containerenv",
    "/run/secrets",
    "/sys",
];

#[test]
fn f31_a_container_shows_what_it_changed() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    for driver in ["overlay", "vfs"] {
        let podman = Podman::new(&imgmount, driver);
        load(&imgmount, &podman, super::image());
        podman.run("c1", BASE, &[], SCRIPT);
        let expected = podman.mounted("c1");
        let id = succeed(&mut podman.command(&["inspect", "--format", "{{.Id}}", "c1"]));
        for selector in ["@c1", &format!("@{}", &id[..7]), &format!("@{id}")] {
            shows(&imgmount, &reference(&podman.store, selector), &[], &expected, &[]);
        }
        shows(&imgmount, &reference(&podman.store, "@c1"), &["--verify", "off"], &expected, &[]);
    }
}

#[test]
fn f31_the_engine_may_run_while_its_store_is_read() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    podman.run("c1", BASE, &[], SCRIPT);
    let point = succeed(&mut podman.command(&["mount", "c1"]));
    let expected = Snapshot::of(Path::new(&point));
    shows(&imgmount, &reference(&podman.store, "@c1"), &[], &expected, &[]);
    // What the container writes is in the next mount, not in this one.
    let mounted = imgmount.mount(reference(&podman.store, "@c1"), &[]);
    std::fs::write(Path::new(&point).join("etc/later"), b"later").unwrap();
    assert!(!mounted.path().join("etc/later").exists());
    let expected = Snapshot::of(Path::new(&point));
    shows(&imgmount, &reference(&podman.store, "@c1"), &[], &expected, &[]);
    succeed(&mut podman.command(&["umount", "c1"]));
}

#[test]
fn f31_diff_of_image_and_container_is_what_podman_reports() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    podman.run("c1", BASE, &[], SCRIPT);
    let theirs = changes(&succeed(&mut podman.command(&["diff", "c1"])));
    let (image, container) = (reference(&podman.store, &format!(":{BASE}")), reference(&podman.store, "@c1"));
    let out = imgmount.run(&["diff", &image, &container]).expect(1);
    let ours = changes(out.text());

    let of = |kind: char, changes: &BTreeSet<(char, String)>| -> BTreeSet<String> {
        let wanted = changes.iter().filter(|(own, path)| *own == kind && !OF_PODMAN.contains(&path.as_str()));
        wanted.map(|(_, path)| path.clone()).collect()
    };
    // Podman reports a deleted directory without what was in it. A directory that was created again counts as
    // deleted, too.
    let (gone, reported) = (of('D', &ours), of('D', &theirs));
    let is_reported =
        |path: &String| reported.iter().any(|top| path == top || path.starts_with(&format!("{top}/")));
    assert!(gone.iter().all(is_reported), "{}", out.text());
    let anew = ["/srv/data".to_owned(), "/srv/caf\u{fffd}".to_owned()];
    assert!(reported.iter().all(|path| gone.contains(path) || anew.contains(path)), "{reported:?}");
    assert_eq!(of('A', &ours), of('A', &theirs), "{}", out.text());
    let changed = &of('C', &theirs) | &reported;
    assert!(of('M', &ours).is_subset(&changed), "{}", out.text());
    for path in ["/etc/kept", "/bin/ping", "/var", "/etc/owned", "/tmp"] {
        assert!(of('M', &ours).contains(path), "{path}: {}", out.text());
    }

    // The container's layer alone.
    let layer = imgmount.run(&["ls", "-R", "--layer", "2", &container]).expect(0);
    assert!(layer.lines().contains(&"/new/file"), "{}", layer.text());
    assert!(!layer.lines().contains(&"/bin/busybox"), "{}", layer.text());
    let history = imgmount.run(&["history", &format!("{container}:/etc/kept")]).expect(0);
    assert!(history.text().contains("container c1"), "{}", history.text());
}

/// Reads lines such as `A /etc/new` and `M /etc  mode`.
fn changes(text: &str) -> BTreeSet<(char, String)> {
    let change = |line: &str| -> (char, String) {
        let (kind, path) = line.split_once(' ').unwrap();
        let path = path.split("  ").next().unwrap();
        // Podman prints the bytes of a name, imgmount escapes them; lossy text is the same for both.
        let path = path.replace("\\xe9", "\u{fffd}");
        (kind.chars().next().unwrap(), path)
    };
    text.lines().map(change).collect()
}

#[test]
fn f31_inspect_names_the_container_and_its_mounts() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    let volume = imgmount.dir().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let bind = format!("{}:/data:ro", volume.display());
    podman.run("c1", BASE, &["-v", &bind], "echo 1 > /etc/new");
    succeed(&mut podman.command(&["create", "--name", "never-started", BASE, "/bin/none"]));
    let inspect = |container: &str| -> Value {
        let out = imgmount.run(&["inspect", "--json", &reference(&podman.store, container)]).expect(0);
        serde_json::from_str(out.text()).unwrap()
    };
    let shown = inspect("@c1");
    let container = &shown["container"];
    assert_eq!((&container["name"], &container["image"]), (&"c1".into(), &BASE.into()));
    assert_eq!(container["id"], succeed(&mut podman.command(&["inspect", "--format", "{{.Id}}", "c1"])));
    let mounts = container["mounts"].as_array().unwrap();
    let data = mounts.iter().find(|mount| mount["destination"] == "/data").unwrap();
    assert_eq!((&data["source"], &data["kind"]), (&volume.to_str().unwrap().into(), &"bind".into()));
    let layers = shown["layers"].as_array().unwrap();
    let origins: Vec<&str> = layers.iter().map(|layer| layer["origin"].as_str().unwrap()).collect();
    assert_eq!(origins, ["image", "image", "container"]);

    assert_eq!(inspect("@never-started")["container"]["mounts"], Value::Array(Vec::new()));
    let verified = imgmount.run(&["verify", &reference(&podman.store, "@c1")]).expect(0);
    assert!(verified.text().contains("nothing states the digest of this layer"), "{}", verified.text());
}

/// A container with a user namespace of its own: podman maps the owners of the layers below, or copies the
/// topmost layer of the image with other owners.
#[test]
fn f33_owners_in_a_user_namespace_are_those_that_the_container_sees() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    let maps = ["--uidmap", "0:200000:65536", "--gidmap", "0:300000:65536"];
    succeed(podman.command(&["create", "--name", "c1"]).args(maps).args([BASE, "/bin/none"]));
    let point = succeed(&mut podman.command(&["mount", "c1"]));
    let file = Path::new(&point).join("etc/new");
    std::fs::write(&file, b"new").unwrap();
    std::os::unix::fs::chown(&file, Some(200_005), Some(300_007)).unwrap();
    succeed(&mut podman.command(&["umount", "c1"]));
    let listed = imgmount.run(&["ls", "-l", &format!("{}:/etc", reference(&podman.store, "@c1"))]).expect(0);
    let owners = |name: &str| {
        let line = listed.lines().into_iter().find(|line| line.ends_with(name)).unwrap().to_owned();
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[2].to_owned(), fields[3].to_owned())
    };
    assert_eq!(owners(" new"), ("5".to_owned(), "7".to_owned()), "{}", listed.text());
    assert_eq!(owners(" kept"), ("1000".to_owned(), "1000".to_owned()), "{}", listed.text());
}

#[test]
fn f31_a_container_outlives_its_image() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    podman.run("c1", BASE, &[], SCRIPT);
    let expected = comparable(podman.mounted("c1"));
    // As after a crash while the image was removed.
    std::fs::write(podman.store.join("overlay-images/images.json"), b"[]").unwrap();
    let container = reference(&podman.store, "@c1");
    shows(&imgmount, &container, &[], &expected, &[]);
    imgmount.run(&["verify", &container]).expect(0);
}

/// With the option `--transient-store`, and for containers that end with their process, the engine writes
/// records to other lists.
#[test]
fn f31_containers_of_the_volatile_lists_are_listed() {
    if !have(&NEEDS) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = store(&imgmount);
    podman.run("c1", BASE, &[], SCRIPT);
    let expected = podman.mounted("c1");
    let layer = podman.layer("overlay-containers/containers.json", "c1");
    let read = |list: &str| -> Vec<Value> {
        serde_json::from_slice(&std::fs::read(podman.store.join(list)).unwrap()).unwrap()
    };
    let write = |list: &str, records: Vec<Value>| {
        std::fs::write(podman.store.join(list), Value::Array(records).to_string()).unwrap();
    };
    let (volatile, stable) =
        read("overlay-layers/layers.json").into_iter().partition(|record| record["id"] == layer.as_str());
    write("overlay-layers/layers.json", stable);
    write("overlay-layers/volatile-layers.json", volatile);
    write("overlay-containers/volatile-containers.json", read("overlay-containers/containers.json"));
    std::fs::remove_file(podman.store.join("overlay-containers/containers.json")).unwrap();
    shows(&imgmount, &reference(&podman.store, "@c1"), &[], &expected, &[]);
}
