//! Images and containers in the data directory of a real containerd, while it runs and after it has ended.
//!
//! The expected trees are those that containerd mounts.

mod faults;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::engines::{
    CHANGES, Containerd, DEMO, FURTHER_IDS, USER, comparable, demo, have_containerd, succeed, unique,
};
use crate::fixture::{Compression, Image, file, sample_tree, sha256_hex};
use crate::mounted::{Imgmount, Need, have};
use crate::tree::{Field, Snapshot};

/// Changes of a container whose users are not those of the host.
const CHANGES_IN_A_NAMESPACE: &str = "B=/bin/busybox; echo new > /etc/new; $B chown 5:6 /etc/owner; \
    $B chmod 0600 /etc/mode; $B rm /etc/deleted; $B mv /srv/moved /srv/moved-away";

/// Lists the tree in the current directory, with owners, modes and types.
const LIST: &str = "B=/bin/busybox; $B find bin etc srv tmp -exec $B stat -c '%n %u:%g %a %F' {} +";

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// An image with one file, `name`, with this content.
fn small(name: &str, content: &str) -> Image {
    Image::named(name).layer_as("ADD", &[file("name", content)], "", Compression::Gzip(6))
}

/// Returns the tree that the program mounts.
#[track_caller]
fn tree_of(imgmount: &Imgmount, reference: &str, options: &[&str]) -> Snapshot {
    let mounted = imgmount.mount(reference, options);
    comparable(Snapshot::of(mounted.path()))
}

#[test]
fn f35_images_are_as_containerd_mounts_them() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    for compression in [Compression::Plain, Compression::Gzip(6), Compression::Zstd] {
        engine.import("default", &[Image::sample("./", compression), demo(compression)], &[]);
        for name in ["example.com/sample:1", DEMO] {
            let reference = engine.reference(&format!(":{name}"));
            // containerd changes the time of a directory in which it deletes a file, and an overlay counts
            // deleted names of a file.
            let same = |tree: Snapshot| tree.without(Field::DirectoryTimes).without_paths(&["bin/tool"]);
            let expected = same(engine.image_tree(name));
            let live = same(tree_of(&imgmount, &reference, &[]));
            expected.assert_shown_by(&live, &format!("{name} {compression:?}, containerd runs"));
            imgmount.run(&["verify", &reference]).expect(0);
            engine.stop();
            let dead = same(tree_of(&imgmount, &reference, &[]));
            expected.assert_shown_by(&dead, &format!("{name} {compression:?}, containerd has ended"));
            engine.start_again();
        }
    }
    let sample = tree_of(&imgmount, &engine.reference(":example.com/sample:1"), &[]);
    comparable(Snapshot::described(&sample_tree())).assert_shown_by(&sample, "as described");
}

#[test]
fn f35_an_image_is_selected_by_name_digest_and_beginning_of_the_digest() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    let one = small("docker.io/library/one:1", "1");
    let two = small("docker.io/library/two:latest", "2").also_named("example.com/o/two:v2");
    engine.import("default", &[one, two.clone()], &[]);
    let digest = sha256_hex(&two.manifest());
    let root = engine.root().to_str().unwrap().to_owned();
    for (reference, content) in [
        (engine.reference(":one:1"), "1"),
        (engine.reference(":docker.io/library/one:1"), "1"),
        (engine.reference(":two"), "2"),
        (engine.reference(":example.com/o/two:v2"), "2"),
        (engine.reference(&format!(":sha256:{digest}")), "2"),
        (engine.reference(&format!(":{}", &digest[..10])), "2"),
        (format!("{root}:two"), "2"),
        (format!("{root}@0"), "1"),
        (format!("containerd://{root}:one:1"), "1"),
    ] {
        let read = imgmount.run(&["cat", &format!("{reference}:/name")]).expect(0);
        assert_eq!(read.text(), content, "{reference}");
    }
    let several = imgmount.run(&["ls", &root]).expect(2).says("holds several images");
    let several = several.says("docker.io/library/one:1 (");
    several.says(&format!("docker.io/library/two:latest, example.com/o/two:v2 ({:.12})", digest));
    imgmount.run(&["ls", &engine.reference(":three")]).expect(2).says("holds no image 'three'");
    imgmount.run(&["ls", &engine.reference("@none")]).expect(2).says("holds no image '@none'");
}

#[test]
fn f35_the_directory_of_dockers_own_containerd_is_found() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    engine.import("moby", &[small("docker.io/library/one:1", "1")], &["--no-unpack"]);
    engine.stop();
    let dockers = imgmount.dir().join("docker/containerd");
    fs::create_dir_all(&dockers).unwrap();
    let reference = format!("containerd:{}", dockers.display());
    imgmount.run(&["ls", &reference]).expect(2).says("'io.containerd.metadata.v1.bolt/meta.db' is missing");
    symlink(engine.root(), dockers.join("daemon")).unwrap();
    imgmount.run(&["ls", &reference]).expect(2).says("the path leads out of the directory");
    fs::remove_file(dockers.join("daemon")).unwrap();
    fs::rename(engine.root(), dockers.join("daemon")).unwrap();
    let read = imgmount.run(&["cat", &format!("{reference}:one:1:/name")]).expect(0);
    assert_eq!(read.text(), "1");
}

#[test]
fn f35_namespaces_are_searched_and_named_when_they_differ() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    for (namespace, content) in [("default", "d"), ("k8s.io", "k"), ("other", "k")] {
        let image = small("docker.io/library/a:1", content);
        engine.import(namespace, &[image, small(&format!("example.com/{namespace}:1"), namespace)], &[]);
    }
    let cat = |selector: &str, options: &[&str]| {
        let reference = format!("{}:/name", engine.reference(selector));
        imgmount.run(&[&["cat", &reference][..], options].concat())
    };
    assert_eq!(cat(":example.com/other:1", &[]).expect(0).text(), "other");
    let both = cat(":a:1", &[]).expect(2);
    let both = both.says("in namespace 'k8s.io'").says("in namespace 'default'");
    both.says("in namespace 'other'");
    for (namespace, content) in [("default", "d"), ("k8s.io", "k"), ("other", "k")] {
        assert_eq!(cat(":a:1", &["--namespace", namespace]).expect(0).text(), content, "{namespace}");
    }
    cat(":a:1", &["--namespace", "none"]).expect(2).says("no namespace 'none'; found k8s.io, default, other");
    cat(":example.com/other:1", &["--namespace", "default"]).expect(2).says("holds no image");
    // The same image in two namespaces is one image.
    succeed(&mut engine.ctr(&["images", "rm", "docker.io/library/a:1"]));
    assert_eq!(cat(":a:1", &[]).expect(0).text(), "k");
}

#[test]
fn f37_a_database_that_is_written_to_is_read_whole() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    engine.import("default", &[small("docker.io/library/kept:1", "1")], &[]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let name = |number: u32| format!("docker.io/library/tag:{number}");
            for number in 0.. {
                succeed(&mut engine.ctr(&["images", "tag", "docker.io/library/kept:1", &name(number)]));
                if number >= 5 {
                    succeed(&mut engine.ctr(&["images", "rm", &name(number - 5)]));
                }
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let read = imgmount.run(&["cat", &engine.reference(":kept:1:/name")]);
            assert_eq!((read.code, &read.stdout[..]), (0, &b"1"[..]), "{}", read.stderr);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn f39_containers_are_as_their_runtime_mounts_them() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    engine.import("default", &[demo(Compression::Zstd)], &[]);
    let (ended, running) = (unique("ended"), unique("running"));
    let host = imgmount.dir().join("host");
    fs::create_dir(&host).unwrap();
    let volume = format!("type=bind,src={},dst=/srv/volume,options=rbind:rw", host.display());
    engine.run(&ended, &["--label", "nerdctl/name=web", "--mount", &volume], CHANGES);
    let script = format!("{CHANGES}; echo ready > /tmp/ready; exec $B sleep 1000");
    engine.run(&running, &["-d"], &script);
    let rootfs = engine.rootfs(&running);
    assert!(crate::mounted::wait_until(|| rootfs.join("tmp/ready").exists()), "the container hangs");

    let expected = comparable(Snapshot::of(&rootfs));
    let live = tree_of(&imgmount, &engine.reference(&format!("@{running}")), &[]);
    expected.assert_shown_by(&live, "a container that runs");
    let of_ended = comparable(Snapshot::of(&engine.mount_snapshot(&ended)));
    engine.stop();
    for (selector, expected) in [("@web", &of_ended), (&*format!("@{running}"), &expected)] {
        let shown = tree_of(&imgmount, &engine.reference(selector), &[]);
        expected.assert_shown_by(&shown, &format!("{selector}, containerd has ended"));
    }
    container_is_described(&imgmount, &engine, &ended, &host);
    container_differs_from_its_image(&imgmount, &engine);
}

fn container_is_described(imgmount: &Imgmount, engine: &Containerd, id: &str, host: &Path) {
    let shown = imgmount.run(&["inspect", "--json", &engine.reference("@web")]).expect(0);
    let shown: Value = serde_json::from_str(shown.text()).unwrap();
    let container = &shown["container"];
    assert_eq!([&container["id"], &container["name"], &container["image"]], [id, "web", DEMO]);
    assert!(container["created"].as_str().unwrap().ends_with('Z'), "{container}");
    let mounts = json!([
        {"destination": "/run", "source": null, "kind": "tmpfs"},
        {"destination": "/srv/volume", "source": host.to_str().unwrap(), "kind": "bind"},
    ]);
    assert_eq!(container["mounts"], mounts);
    let layers = shown["layers"].as_array().unwrap();
    let origins: Vec<_> = layers.iter().map(|layer| layer["origin"].as_str().unwrap()).collect();
    assert_eq!(origins, ["image", "image", "container"]);
    assert_eq!(layers[2]["created_by"], "container web");

    let verified = imgmount.run(&["verify", &engine.reference("@web")]).expect(0);
    let last = *verified.lines().last().unwrap();
    let words: Vec<_> = last.split_whitespace().take(4).collect();
    assert_eq!(words, ["unchecked", "layer", "2", "diff_id"], "{last}");
}

fn container_differs_from_its_image(imgmount: &Imgmount, engine: &Containerd) {
    let image = engine.reference(&format!(":{DEMO}"));
    let out = imgmount.run(&["diff", &image, &engine.reference("@web")]).expect(1);
    // The runtime makes directories to mount on.
    let made = ["A /dev", "A /proc", "A /run", "A /srv/volume", "A /sys"];
    let lines: Vec<_> = out.lines().into_iter().filter(|line| !made.contains(line)).collect();
    assert_eq!(
        lines,
        [
            "M /etc/changed  content",
            "D /etc/deleted",
            "M /etc/mode  mode",
            "A /etc/new",
            "A /etc/new-link",
            "A /etc/new-symlink",
            "A /etc/other-name",
            "M /etc/owner  owner",
            "D /etc/renamed",
            "M /etc/type  mode,type",
            "A /srv/holes",
            "D /srv/moved",
            "A /srv/moved-away",
            "A /srv/moved-away/caf\\xe9",
            "D /srv/moved/caf\\xe9",
            "A /srv/null",
            "A /srv/pipe",
            "M /srv/replaced  mode",
            "A /srv/replaced/new",
            "D /srv/replaced/old",
        ]
    );
}

#[test]
fn f39_owners_are_those_that_a_user_namespace_shows() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    engine.import("default", &[demo(Compression::Gzip(6))], &[]);
    let id = unique("users");
    let script = format!("{CHANGES_IN_A_NAMESPACE}; cd /; {LIST}");
    let ranges = "0:100000:65536";
    let seen = engine.run(&id, &["--uidmap", ranges, "--gidmap", ranges], &script);
    let mounted = imgmount.mount(engine.reference(&format!("@{id}")), &[]);
    let mut here = std::process::Command::new("sh");
    let found = succeed(here.args(["-ec", LIST]).current_dir(mounted.path()));
    assert_eq!(sorted(&found), sorted(&seen));
    for line in ["etc/owner 5:6 644 regular file", "etc/new 0:0 644 regular file"] {
        assert!(sorted(&seen).contains(&line), "{line}: {seen}");
    }
    let layers = imgmount.run(&["inspect", "--json", &engine.reference(&format!("@{id}"))]).expect(0);
    let layers: Value = serde_json::from_str(layers.text()).unwrap();
    let origins: Vec<_> = layers["layers"].as_array().unwrap().iter().map(|layer| &layer["origin"]).collect();
    assert_eq!(origins, ["image", "image", "engine", "container"]);
}

#[test]
fn f39_a_rootless_containerd_shows_the_owners_that_its_containers_see() {
    let needs = ["unshare", "nsenter", "chroot"].map(Need::Program);
    if !have_containerd() || !have(&needs) {
        return;
    }
    let imgmount = Imgmount::new();
    let host = imgmount.dir().join("host");
    fs::create_dir_all(host.join("etc")).unwrap();
    fs::write(host.join("etc/passwd"), format!("ann:x:{USER}:{USER}::/home/ann:/bin/sh\n")).unwrap();
    for file in ["etc/subuid", "etc/subgid"] {
        fs::write(host.join(file), format!("ann:{FURTHER_IDS}:65536\n")).unwrap();
    }
    let root = host.join("home/ann/.local/share/containerd");
    let mut engine = Containerd::start_rootless(&imgmount, root);
    let image = demo(Compression::Gzip(6));
    engine.import("default", std::slice::from_ref(&image), &[]);
    let id = unique("rootless");
    succeed(&mut engine.ctr(&["containers", "create", DEMO, &id, "/bin/busybox"]));
    let script = format!(
        "{CHANGES_IN_A_NAMESPACE}; $B rm -r /srv/opaque; $B mkdir /srv/opaque; cd /; {LIST}; \
         $B find etc srv -type f -exec $B sha256sum {{}} +"
    );
    let seen = engine.run_in_snapshot(&id, &script);
    assert!(seen.contains("etc/owner 5:6 644 regular file") && !seen.contains("srv/opaque/"), "{seen}");
    let list = format!("{LIST}; $B find etc srv -type f -exec $B sha256sum {{}} +");
    let shows = |options: &[&str]| {
        let mounted = imgmount.mount(engine.reference(&format!("@{id}")), options);
        let mut here = std::process::Command::new("sh");
        let found = succeed(here.args(["-ec", &list]).current_dir(mounted.path()));
        assert_eq!(sorted(&found), sorted(&seen), "{options:?}");
    };
    shows(&[]);
    engine.discard_layers(&image);
    shows(&["--verify", "off"]);
}

#[test]
fn f36_a_database_of_many_pages_is_read_as_containerd_reads_it() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    let name = |number: u32| format!("example.com/{}/name:{number}", "x".repeat(number as usize % 90 + 1));
    let many = (0..400).fold(small("example.com/many:1", "1"), |image, n| image.also_named(&name(n)));
    engine.import("default", &[many, demo(Compression::Gzip(6))], &[]);
    let listed = succeed(&mut engine.ctr(&["images", "ls", "-q"]));
    let several = imgmount.run(&["ls", engine.root().to_str().unwrap()]).expect(2);
    let mut found: Vec<&str> = several.stderr.split(&[',', ' ', '\n'][..]).collect();
    found.retain(|word| word.starts_with("example.com/") || word.starts_with("docker.io/"));
    found.sort_unstable();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
    assert_eq!(listed.len(), 402);
    for number in (0..400).step_by(40) {
        let reference = engine.reference(&format!(":{}:/name", name(number)));
        assert_eq!(imgmount.run(&["cat", &reference]).expect(0).text(), "1");
    }
    // The spec is longer than a page.
    let (id, large) = (unique("large"), format!("LARGE={}", "x".repeat(100_000)));
    succeed(&mut engine.ctr(&["containers", "create", "--env", &large, DEMO, &id, "/bin/busybox"]));
    let shown = imgmount.run(&["inspect", "--json", &engine.reference(&format!("@{id}"))]).expect(0);
    assert!(shown.text().contains(r#""destination":"/run""#), "{}", shown.text());
}

#[test]
fn f38_layers_whose_blobs_were_discarded_come_from_snapshots() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    let image = demo(Compression::Gzip(6));
    engine.import("default", std::slice::from_ref(&image), &[]);
    let id = unique("discarded");
    engine.run(&id, &[], CHANGES);
    let expected = engine.image_tree(DEMO);
    let of_container = comparable(Snapshot::of(&engine.mount_snapshot(&id)));
    engine.discard_layers(&image);

    for _ in ["containerd runs", "containerd has ended"] {
        for (selector, expected) in [(format!(":{DEMO}"), &expected), (format!("@{id}"), &of_container)] {
            let reference = engine.reference(&selector);
            let refused = imgmount.run(&["ls", &reference]).expect(2);
            let refused = refused.says("layer 0 (sha256:").says("cannot be verified: its blob was discarded");
            refused.says("hint: --verify off shows");
            let shown = tree_of(&imgmount, &reference, &["--verify", "off"]);
            expected.assert_shown_by(&shown, &selector);
        }
        engine.stop();
    }
    let verified = imgmount.run(&["verify", &engine.reference(&format!(":{DEMO}"))]).expect(1);
    let unchecked: Vec<_> =
        verified.lines().into_iter().filter(|line| line.starts_with("unchecked")).collect();
    let diff_ids = image.layers.iter().map(|layer| layer.diff_id());
    for (number, (line, diff_id)) in unchecked.iter().zip(diff_ids).enumerate() {
        assert!(line.contains(&format!("layer {number}")) && line.contains(&diff_id), "{line}");
        assert!(line.contains("its blob was discarded"), "{line}");
    }
    assert_eq!(unchecked.len(), 2);
    engine.start_again();
}

#[test]
fn f38_a_container_whose_image_is_gone_or_was_replaced_comes_from_snapshots() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    engine.import("default", &[demo(Compression::Zstd)], &[]);
    let id = unique("orphan");
    engine.run(&id, &[], CHANGES);
    let expected = comparable(Snapshot::of(&engine.mount_snapshot(&id)));
    let reference = engine.reference(&format!("@{id}"));

    engine.import("default", &[small(DEMO, "another image")], &[]);
    let unverified = ["--verify", "off"];
    let refused = imgmount.run(&["ls", &reference]).expect(2);
    refused.says("layer 0: cannot be verified").says("--verify off shows the layer's files");
    let out = imgmount.run(&["ls", "--verify", "off", &reference]).expect(0);
    out.says(&format!("'{DEMO}' now names another image"));
    expected.assert_shown_by(&tree_of(&imgmount, &reference, &unverified), "the name is another image");

    succeed(&mut engine.ctr(&["images", "rm", "--sync", DEMO]));
    imgmount.run(&["ls", &reference]).expect(2).says("cannot be verified");
    let out = imgmount.run(&["ls", "--verify", "off", &reference]).expect(0);
    out.says(&format!("its image '{DEMO}' is not stored"));
    expected.assert_shown_by(&tree_of(&imgmount, &reference, &unverified), "the image is gone");
    let verified = imgmount.run(&["verify", &reference]).expect(1);
    let unchecked = verified.lines().into_iter().filter(|line| line.starts_with("unchecked")).count();
    assert_eq!(unchecked, 3, "{}", verified.text());
}

#[test]
fn f38_other_snapshotters_are_named() {
    if !have_containerd() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut engine = Containerd::start(&imgmount);
    let image = demo(Compression::Gzip(6));
    engine.import("default", std::slice::from_ref(&image), &["--snapshotter", "native"]);
    let id = unique("native");
    engine.run(&id, &["--snapshotter", "native"], "true");
    let refusal = "unpacked by the snapshotter 'native'; only snapshots of 'overlayfs' are read";
    imgmount.run(&["ls", &engine.reference(&format!("@{id}"))]).expect(2).says(refusal);
    imgmount.run(&["ls", &engine.reference(&format!(":{DEMO}"))]).expect(0);
    engine.discard_layers(&image);
    for options in [&[][..], &["--verify", "off"]] {
        let reference = engine.reference(&format!(":{DEMO}"));
        let out = imgmount.run(&[&["ls", &reference][..], options].concat());
        out.expect(2).says("layer 0 (").says(refusal);
    }
}
