//! Stores of ordinary users: owners on disk are those of the user's namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BASE, NEEDS, load, reference, shows};
use crate::engines::{FURTHER_IDS, Podman, USER, succeed};
use crate::mounted::{Imgmount, Need, have, run};
use crate::tree::Field;

/// The place of the user's store, below the root of the host.
const PLACE: &str = "home/ann/.local/share/containers/storage";

/// Creates the root directory of a host with the user `ann`, and her store.
fn host(imgmount: &Imgmount, options: &[&str]) -> (PathBuf, Podman) {
    let root = imgmount.dir().join("host");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), format!("ann:x:{USER}:{USER}::/home/ann:/bin/sh\n")).unwrap();
    for file in ["etc/subuid", "etc/subgid"] {
        fs::write(root.join(file), format!("ann:{FURTHER_IDS}:65536\n")).unwrap();
    }
    let podman = Podman::rootless(&imgmount.dir().join("podman"), root.join(PLACE), options);
    // The user must be able to enter the test's directory.
    succeed(Command::new("chmod").arg("a+x").arg(imgmount.dir()));
    (root, podman)
}

/// Creates a store that holds an image, without devices, which a user cannot create, and a container.
fn changes(imgmount: &Imgmount, options: &[&str]) -> (PathBuf, Podman) {
    let (root, podman) = host(imgmount, options);
    load(imgmount, &podman, super::image_with(Vec::new()));
    podman.run("c1", BASE, &[], super::containers::SCRIPT);
    (root, podman)
}

#[test]
fn f33_a_container_of_a_user_shows_the_owners_that_it_sees() {
    let needs = ["unshare", "nsenter", "tar", "runc"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let mut forms: Vec<Vec<&str>> =
        vec![vec!["--storage-driver", "overlay"], vec!["--storage-driver", "vfs"]];
    let fuse =
        ["--storage-driver", "overlay", "--storage-opt", "overlay.mount_program=/usr/bin/fuse-overlayfs"];
    if have(&[Need::Program("fuse-overlayfs")]) {
        forms.push(fuse.to_vec());
    }
    for options in forms {
        let imgmount = Imgmount::new();
        let (_, podman) = changes(&imgmount, &options);
        let exported = podman.export_container("c1");
        let container = reference(&podman.store, "@c1");
        shows(&imgmount, &container, &[], &exported, &[Field::DirectoryTimes, Field::Nanoseconds]);
        imgmount.run(&["verify", &reference(&podman.store, &format!(":{BASE}"))]).expect(0);
    }
}

/// Without idmapped mounts, podman copies the topmost layer of the image for a container with a user namespace
/// of its own, and changes the owners in the copy.
#[test]
fn f33_a_copy_of_a_layer_with_other_owners_shows_those_of_the_container() {
    let needs = ["unshare", "nsenter", "tar", "runc"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let (_, podman) = host(&imgmount, &["--storage-driver", "overlay"]);
    load(&imgmount, &podman, super::image_with(Vec::new()));
    let maps = ["--uidmap", "0:5:2000", "--gidmap", "0:7:2000"];
    // The container writes down the owners that it sees.
    let paths = "/bin /bin/ping /etc/kept /etc/owned /etc/renamed /new/file /srv/forest/leaf /var";
    let script = format!("{}\nb stat -c '%u:%g %n' {paths} > /seen\n", super::containers::SCRIPT);
    podman.run("c1", BASE, &maps, &script);
    let images = fs::read_to_string(podman.store.join("overlay-images/images.json")).unwrap();
    assert!(images.contains("mapped-layers"), "{images}");
    let container = reference(&podman.store, "@c1");
    let seen = imgmount.run(&["cat", &format!("{container}:/seen")]).expect(0);
    assert_eq!(seen.lines().len(), 8, "{}", seen.text());
    let shown = imgmount.run(&["ls", "-R", "--json", &container]).expect(0);
    let entries =
        shown.lines().into_iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let owners: Vec<String> = entries
        .map(|entry| format!("{}:{} {}", entry["uid"], entry["gid"], entry["path"].as_str().unwrap()))
        .collect();
    for line in seen.lines() {
        assert!(owners.iter().any(|owner| owner == line), "{line}: {owners:?}");
    }
    assert!(seen.lines().contains(&"5:7 /etc/owned"), "{}", seen.text());
    // The copy is not what the container changed.
    let out = imgmount.run(&["diff", &reference(&podman.store, &format!(":{BASE}")), &container]).expect(1);
    assert!(out.lines().contains(&"M /etc/owned  owner"), "{}", out.text());
    assert!(!out.text().contains("/bin/busybox"), "{}", out.text());
}

/// `podman unshare imgmount`: the user reads files of all owners, and sees them as the container does.
#[test]
fn f33_inside_the_users_namespace_owners_are_not_translated() {
    let needs = ["unshare", "nsenter", "runc"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let (_, podman) = changes(&imgmount, &["--storage-driver", "overlay"]);
    let program = imgmount.dir().join("program");
    fs::copy(env!("CARGO_BIN_EXE_imgmount"), &program).unwrap();
    let args = ["ls", "-lR", "--no-cache", &reference(&podman.store, "@c1")];
    let outside = imgmount.run(&args).expect(0);
    let inside = run(podman.in_namespace(program.to_str().unwrap()).args(args)).expect(0);
    assert_eq!(inside.text(), outside.text());
    assert!(inside.text().contains(" 5 7 "), "{}", inside.text());
}

#[test]
fn f33_without_subuid_the_owners_are_nobody() {
    let needs = ["unshare", "nsenter", "runc"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let (root, podman) = changes(&imgmount, &["--storage-driver", "overlay"]);
    let owner = |path: &str| -> String {
        let image = format!("{}:{path}", reference(&podman.store, "@c1"));
        let listed = imgmount.run(&["ls", "-l", &image]).expect(0);
        let fields: Vec<&str> = listed.text().split_whitespace().collect();
        format!("{}:{}", fields[2], fields[3])
    };
    assert_eq!((owner("/etc/owned"), owner("/etc/renamed")), ("5:7".to_owned(), "0:0".to_owned()));
    fs::remove_file(root.join("etc/subuid")).unwrap();
    fs::remove_file(root.join("etc/subgid")).unwrap();
    assert_eq!((owner("/etc/owned"), owner("/etc/renamed")), ("65534:65534".to_owned(), "0:0".to_owned()));
}

/// With `force_mask`, all files have the same mode on disk, and the real modes and owners are in an
/// attribute.
#[test]
fn f33_owners_and_modes_are_read_from_the_attribute_of_force_mask() {
    let needs = ["unshare", "nsenter", "tar", "runc", "fuse-overlayfs"].map(Need::Program);
    if !have(&[&NEEDS[..], &needs[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let fuse = "overlay.mount_program=/usr/bin/fuse-overlayfs";
    let options =
        ["--storage-driver", "overlay", "--storage-opt", fuse, "--storage-opt", "overlay.force_mask=0700"];
    let (_, podman) = changes(&imgmount, &options);
    let exported = podman.export_container("c1");
    let layer = podman.store.join("overlay").join(podman.layer("overlay-containers/containers.json", "c1"));
    let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o7777;
    assert_eq!(mode(&layer.join("diff/etc/kept")), 0o755, "the real mode is 0600");
    // Podman exports the attribute, too.
    let fields = [Field::DirectoryTimes, Field::Nanoseconds, Field::UserXattrs];
    shows(&imgmount, &reference(&podman.store, "@c1"), &[], &exported, &fields);
}
