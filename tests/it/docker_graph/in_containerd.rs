//! The data directory of a Docker engine whose images are in its containerd.

use std::fs;
use std::process::Command;

use rustix::mount::UnmountFlags;
use serde_json::Value;

use super::{comparable, graph, shown};
use crate::engines::{Containerd, have_containerd, succeed};
use crate::fixture::{Image, dir, file, sha256_hex};
use crate::mounted::Imgmount;
use crate::tree::Snapshot;

/// Docker since version 29 keeps images and the trees of containers in containerd. Containerd does not know
/// the containers that do not run.
#[test]
fn f28_images_and_containers_in_dockers_containerd() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    let files =
        [dir("etc"), file("etc/kept", b"kept"), file("etc/changed", b"before"), file("gone", b"gone")];
    let image = Image::named("docker.io/library/app:1").layer("COPY", &files);
    engine.import("moby", std::slice::from_ref(&image), &[]);
    let id = "c0ffee".repeat(10) + "0123";
    let init = format!("{id}-init");
    let snapshots = |args: &[&str]| succeed(&mut engine.ctr(&[&["-n", "moby", "snapshots"], args].concat()));
    let change = |key: &str, parent: &str, script: &str| {
        snapshots(&["prepare", key, parent]);
        let point = imgmount.dir().join(key);
        fs::create_dir(&point).unwrap();
        let mount = snapshots(&["mounts", point.to_str().unwrap(), key]);
        succeed(
            Command::new("sh").args(["-ec", &format!("{mount}; cd {}; {script}; cd /", point.display())]),
        );
        let tree = comparable(Snapshot::of(&point));
        rustix::mount::unmount(&point, UnmountFlags::empty()).unwrap();
        tree
    };
    change(&format!("{init}-key"), &image.layers[0].diff_id(), "touch .dockerenv");
    snapshots(&["commit", &init, &format!("{init}-key")]);
    let tree = change(&id, &init, "echo after > etc/changed; rm gone; mkdir new; echo 1 > new/file");
    engine.stop();

    let data = imgmount.dir().join("docker");
    fs::create_dir_all(data.join("containerd")).unwrap();
    fs::rename(engine.root(), data.join("containerd/daemon")).unwrap();
    let container = data.join("containers").join(&id);
    fs::create_dir_all(&container).unwrap();
    let target = format!("sha256:{}", sha256_hex(&image.manifest()));
    let described = serde_json::json!({
        "ID": id, "Name": "/web", "Created": "2026-01-02T03:04:05Z", "Driver": "overlayfs", "Image": target,
        "Config": {"Image": "app:1"},
        "MountPoints": {"/data": {"Source": "/x", "Destination": "/data", "Name": "vol", "Type": "volume"}},
    });
    fs::write(container.join("config.v2.json"), described.to_string()).unwrap();

    let shown_image = shown(&imgmount, &data, ":app:1", &[]);
    comparable(Snapshot::described(&files)).assert_shown_by(&shown_image, "an image");
    tree.assert_shown_by(&shown(&imgmount, &data, "@web", &[]), "a container");
    let inspected = imgmount.run(&["inspect", "--json", &graph(&data, "@c0ffee")]).expect(0);
    let inspected: Value = serde_json::from_str(inspected.text()).unwrap();
    assert_eq!(inspected["format"], "docker-graph");
    assert_eq!(inspected["container"]["name"], "web");
    assert_eq!(inspected["container"]["mounts"][0]["destination"], "/data");
    let differences = imgmount.run(&["diff", &graph(&data, ":app:1"), &graph(&data, "@web")]).expect(1);
    assert_eq!(differences.text(), "M /etc/changed  content\nD /gone\nA /new\nA /new/file\n");
    let listed = imgmount.run(&["images", data.to_str().unwrap()]).expect(0);
    assert!(listed.text().contains("app:1") && listed.text().contains("web"), "{}", listed.text());
}
