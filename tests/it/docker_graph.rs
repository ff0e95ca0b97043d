//! Compares images and containers in the data directory of a real Docker engine with the trees that the
//! engine shows: its own overlay of the same layers, and its exports.

mod in_containerd;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use crate::engines::{Docker, succeed, unpack};
use crate::fixture::{
    Compression, Image, Item, Kind, block_device, char_device, dir, docker_legacy, fifo, file, hardlink,
    opaque, sample_layers, sample_tree, sha256_hex, symlink, whiteout,
};
use crate::mounted::{Imgmount, Need, find_program, have};
use crate::tree::{Field, Snapshot};

/// `cap_net_raw+ep` as the kernel stores it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What `docker export` leaves out: fractions of seconds and attributes `user.*`.
const NOT_EXPORTED: [Field; 5] =
    [Field::Root, Field::DirectoryLinks, Field::FileLinks, Field::Nanoseconds, Field::UserXattrs];

fn can_run() -> bool {
    let programs = ["dockerd", "docker", "tar", "busybox", "cp"].map(Need::Program);
    have(&[&[Need::Fuse, Need::Root], &programs[..]].concat())
}

/// Layers that Docker unpacks and that exercise the rules for which Docker and containerd agree; see
/// docs/semantics.md. The last layer changes what the ones below contain.
fn layers() -> Vec<Vec<Item>> {
    let base = vec![
        dir("").mtime(1_600_000_000, 0),
        dir("bin"),
        file("bin/tool", b"#!/bin/sh\n").mode(0o4755).xattr("security.capability", CAPABILITY),
        hardlink("bin/tool2", "bin/tool").mode(0o4755).xattr("security.capability", CAPABILITY),
        hardlink("bin/tool3", "bin/tool").mode(0o4755).xattr("security.capability", CAPABILITY),
        dir("dev"),
        char_device("dev/zero", 1, 5).mode(0o666),
        block_device("dev/sda", 8, 0).owner(0, 6),
        fifo("dev/pipe").mode(0o640),
        dir("etc"),
        file("etc/kept", b"kept").owner(1000, 3_000_000_000).mtime(1_234_567_890, 123_456_789),
        file("etc/gone", b"deleted later"),
        file("etc/empty", b""),
        file("etc/remade", b"first"),
        file("etc/device", b"hidden by a device 0/0"),
        file("etc/becomes-dir", b"a file"),
        dir("etc/becomes-file"),
        file("etc/becomes-file/inside", b"1"),
        symlink("etc/link", "/usr/lib"),
        symlink("lib", "usr/lib"),
        file(b"etc/caf\xe9", b"latin"),
        file("etc/attributes", b"x").xattr("user.text", b"two\nlines").xattr("user.binary", [0, 10, 255]),
        dir("etc/.wh.like").mode(0o700),
        dir("opaque"),
        file("opaque/old", b"hidden"),
        dir("opaque/deep"),
        file("opaque/deep/older", b"hidden"),
        dir("late"),
        file("late/old", b"hidden"),
        dir("merged").mode(0o711),
        file("merged/lower", b"lower"),
        dir("gone"),
        file("gone/file", b"1"),
        dir("tmp").mode(0o1777),
        dir("usr"),
        dir("usr/lib"),
        file("usr/lib/large", vec![7; 2_500_001]),
    ];
    let middle = vec![
        dir("etc"),
        whiteout("etc/gone"),
        whiteout("etc/never-was"),
        whiteout("etc/remade"),
        char_device("etc/device", 0, 0).mode(0),
        dir("opaque"),
        opaque("opaque"),
        file("opaque/new", b"new"),
        dir("late"),
        file("late/new", b"new"),
        opaque("late"),
        whiteout("gone"),
        dir("merged").mode(0o750).owner(5, 6).mtime(1_700_000_001, 5),
        file("merged/upper", b"upper"),
        // A directory hides the link, and the link's target stays as it is (N1).
        dir("lib"),
        file("lib/own", b"own"),
    ];
    let top = vec![
        dir("bin"),
        // One of three names is replaced; the others keep their content (H11).
        file("bin/tool2", b"another\n").mode(0o2755),
        hardlink("bin/tool4", "bin/tool2").mode(0o2755),
        dir("etc"),
        file("etc/remade", b"second"),
        dir("etc/becomes-dir").mode(0o750),
        file("etc/becomes-dir/inside", b"inside"),
        file("etc/becomes-file", b"a file"),
        symlink("etc/dangling", "nowhere"),
        hardlink("etc/same-link", "etc/dangling"),
    ];
    vec![base, middle, top, vec![]]
}

/// The image `rows:1` of [`layers`].
fn rows() -> Image {
    let steps = ["ADD base", "RUN middle", "RUN top", "RUN nothing"];
    let layers = layers();
    steps.iter().zip(&layers).fold(Image::named("rows:1"), |image, (step, layer)| image.layer(step, layer))
}

/// A kernel's overlay of directories, unmounted on drop.
struct Overlay(PathBuf);

impl Overlay {
    /// Mounts the layers of an image or container as Docker describes them, read-only.
    fn of(docker: &Docker, name: &str) -> Self {
        let text = docker.run(&["inspect", "-f", "{{json .GraphDriver.Data}}", name]);
        let data: Value = serde_json::from_str(&text).unwrap();
        let upper = data["UpperDir"].as_str().map(PathBuf::from);
        let lower = data["LowerDir"].as_str().unwrap_or_default().split(':').filter(|path| !path.is_empty());
        Overlay::mount(&docker.dir, upper.into_iter().chain(lower.map(PathBuf::from)).collect())
    }

    /// Mounts these directories read-only, the first on top.
    fn mount(dir: &Path, mut layers: Vec<PathBuf>) -> Self {
        let new = |prefix| tempfile::Builder::new().prefix(prefix).tempdir_in(dir).unwrap().keep();
        // The kernel refuses an overlay of one directory.
        layers.push(new("empty"));
        let layers: Vec<_> = layers.iter().map(|path| path.to_str().unwrap()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":"))).unwrap();
        let point = new("overlay");
        rustix::mount::mount("overlay", &point, "overlay", MountFlags::RDONLY, options.as_c_str()).unwrap();
        Overlay(point)
    }

    fn tree(&self) -> Snapshot {
        comparable(Snapshot::of(&self.0))
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // This may run during a panic, so failures are ignored.
        let _ = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Leaves out what an overlay of the kernel does not show as a container's root does.
fn comparable(tree: Snapshot) -> Snapshot {
    tree.without(Field::Root).without(Field::DirectoryLinks).without(Field::FileLinks)
}

fn graph(data: &Path, selector: &str) -> String {
    format!("docker-graph:{}{selector}", data.display())
}

/// Returns the tree that imgmount shows of an image or container.
#[track_caller]
fn shown(imgmount: &Imgmount, data: &Path, selector: &str, options: &[&str]) -> Snapshot {
    comparable(Snapshot::of(imgmount.mount(graph(data, selector), options).path()))
}

#[track_caller]
fn exported(docker: &Docker, container: &str) -> Snapshot {
    let archive = docker.dir.join(format!("{container}.tar"));
    docker.run(&["export", "-o", archive.to_str().unwrap(), container]);
    without(unpack(&archive, &archive.with_extension("")), &NOT_EXPORTED)
}

fn without(tree: Snapshot, fields: &[Field]) -> Snapshot {
    fields.iter().fold(tree, |tree, field| tree.without(*field))
}

fn ls(imgmount: &Imgmount, image: &str) -> String {
    imgmount.run(&["ls", "-R", "-l", image]).expect(0).text().to_owned()
}

#[test]
fn f25_images_are_shown_as_the_engine_shows_them() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut docker = Docker::start_with(&imgmount, "overlay2").expect("a docker daemon with overlay2");
    let dense = sample_layers()
        .into_iter()
        .fold(Image::named("dense:1"), |image, (by, items)| image.layer(by, &not_sparse(items)));
    docker.load(&docker_legacy(&[rows(), dense]));
    let data = docker.data();
    let rows = Overlay::of(&docker, "rows:1").tree();
    rows.assert_shown_by(&shown(&imgmount, &data, ":rows:1", &[]), "with a running engine");
    rows.assert_shown_by(&shown(&imgmount, &data, ":rows:1", &["--verify", "off"]), "without verification");
    docker.run(&["create", "--name", "dense", "dense:1", "/none"]);
    let expected = exported(&docker, "dense").without(Field::DirectoryTimes);
    let added = [".dockerenv", "dev", "etc", "proc", "sys"];
    let found =
        without(shown(&imgmount, &data, ":dense:1", &[]), &NOT_EXPORTED).without(Field::DirectoryTimes);
    expected.without_paths(&added).assert_shown_by(&found.without_paths(&added), "an export");

    docker.stop();
    rows.assert_shown_by(&shown(&imgmount, &data, ":rows:1", &[]), "with a stopped engine");
    let sample = Snapshot::described(&not_sparse(sample_tree()));
    sample.assert_shown_by(&Snapshot::of(imgmount.mount(graph(&data, ":dense:1"), &[]).path()), "the sample");
    imgmount.run(&["verify", &graph(&data, ":rows:1")]).expect(0);
    let listed = imgmount.run(&["ls", data.to_str().unwrap()]).expect(2);
    listed.says("rows:1 (").says("dense:1 (");
    let deleted = imgmount.run(&["deleted", &graph(&data, ":rows:1")]).expect(0);
    assert!(deleted.text().contains("/etc/gone"), "{}", deleted.text());
}

fn not_sparse(items: Vec<Item>) -> Vec<Item> {
    items.into_iter().filter(|item| !matches!(item.kind, Kind::Sparse(..))).collect()
}

#[test]
fn f26_an_index_is_shared_with_the_saved_archive_of_the_image() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut docker = Docker::start_with(&imgmount, "overlay2").expect("a docker daemon with overlay2");
    docker.load(&docker_legacy(&[rows()]));
    docker.run(&["save", "-o", "../saved.tar", "rows:1"]);
    docker.stop();
    let from_archive = ls(&imgmount, "saved.tar");
    // No layer is read again: the layout of the tars and the files of the layers are gone.
    for layout in find(&docker.data(), "tar-split.json.gz") {
        fs::write(layout, b"damaged").unwrap();
    }
    let directories: Vec<PathBuf> = find(&docker.data().join("overlay2"), "diff");
    assert_eq!(directories.len(), 4);
    for directory in directories {
        fs::remove_dir_all(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
    }
    assert_eq!(ls(&imgmount, &graph(&docker.data(), ":rows:1")), from_archive);
    // Contents cannot be read.
    imgmount.run(&["cat", &graph(&docker.data(), ":rows:1:/etc/kept")]).expect(2).says("cannot read layer 0");
}

/// Returns the paths below `dir` whose last name is `name`.
fn find(dir: &Path, name: &str) -> Vec<PathBuf> {
    let found = succeed(Command::new("find").arg(dir).args(["-maxdepth", "6", "-name", name]));
    found.lines().map(PathBuf::from).collect()
}

/// Makes the image `busy:1`: busybox, and files for a container to change.
fn busy() -> Vec<Item> {
    let busybox = fs::read(find_program("busybox").unwrap()).unwrap();
    let items = vec![
        dir("bin"),
        file("bin/busybox", busybox).mode(0o755),
        dir("etc"),
        file("etc/changed", b"before\n"),
        file("etc/longer", b"before\n"),
        file("etc/mode", b"m"),
        file("etc/owner", b"o"),
        file("etc/gone", b"g"),
        file("etc/moved", b"moved"),
        file("etc/first", b"linked"),
        hardlink("etc/second", "etc/first"),
        file("etc/becomes-dir", b"f"),
        dir("etc/becomes-file"),
        file("etc/becomes-file/inside", b"i"),
        file("etc/attributes", b"x").xattr("user.text", b"kept").xattr("security.capability", CAPABILITY),
        dir("srv"),
        dir("srv/removed"),
        file("srv/removed/inside", b"1"),
        dir("srv/removed/deep"),
        dir("srv/anew"),
        file("srv/anew/old", b"1"),
        dir("srv/moved"),
        file("srv/moved/inside", b"1"),
        dir("srv/mode"),
        file("srv/mode/inside", b"1"),
        dir("tmp").mode(0o1777),
    ];
    docker_legacy(&[Image::named("busy:1").layer_as("ADD busy", &items, "./", Compression::Plain)])
}

/// Creates, changes, renames, deletes, and changes modes and owners, in a container.
const CHANGES: &str = "set -e
cd /etc
echo changed > changed
echo more >> longer
chmod 4711 mode
chown 5:6 owner
rm gone
mv moved moved-to
echo linked >> second
rm becomes-dir && mkdir becomes-dir && echo 1 > becomes-dir/inside
rm -r becomes-file && echo 1 > becomes-file
chmod 0600 attributes
cd /srv
rm -r removed
rm -r anew && mkdir anew && echo new > anew/new
mv moved moved-to
chmod 0700 mode
mkdir -p new/deep && echo 1 > new/deep/file && ln new/deep/file new/link && ln -s deep/file new/symlink
mkfifo new/pipe && mknod new/device c 1 3 && chown 1000:1000 new/pipe
dd if=/dev/zero of=new/large bs=1000 count=3000 2>/dev/null
echo x | dd of=new/sparse bs=1 seek=2000000 2>/dev/null
touch -d '2001-02-03 04:05:06' new/time /etc/mode
mkdir new/empty && chmod 2775 new/empty
";

#[test]
fn f27_a_container_is_shown_as_the_engine_shows_it() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut docker = Docker::start_with(&imgmount, "overlay2").expect("a docker daemon with overlay2");
    docker.load(&busy());
    let script =
        format!("B=/bin/busybox; $B mkdir /sbin && $B --install -s /sbin; PATH=/sbin\n{CHANGES}sleep 1000");
    let args = ["--network", "none", "-v", "vol:/data", "busy:1", "/bin/busybox", "sh", "-c", &script];
    docker.run(&[&["run", "-d", "--name", "busy"][..], &args].concat());
    let data = docker.data();
    let merged = docker.run(&["inspect", "-f", "{{.GraphDriver.Data.MergedDir}}", "busy"]);
    // The last step of the script is done.
    let ready = crate::mounted::wait_until(|| Path::new(&merged).join("srv/new/empty").exists());
    assert!(ready, "{}", docker.run(&["logs", "busy"]));
    let running = comparable(Snapshot::of(Path::new(&merged)));
    running.assert_shown_by(&shown(&imgmount, &data, "@busy", &[]), "a running container");

    docker.run(&["kill", "busy"]);
    let stopped = Overlay::of(&docker, "busy").tree();
    stopped.assert_shown_by(&shown(&imgmount, &data, "@busy", &[]), "a stopped container");
    let without_verification = shown(&imgmount, &data, "@busy", &["--verify", "off"]);
    stopped.assert_shown_by(&without_verification, "without verification");
    let found = without(shown(&imgmount, &data, "@busy", &[]), &NOT_EXPORTED);
    exported(&docker, "busy").assert_shown_by(&found, "an export");
    differs_as_docker_says(&imgmount, &docker);

    docker.stop();
    stopped.assert_shown_by(&shown(&imgmount, &data, "@busy", &[]), "with a stopped engine");
    describes_the_container(&imgmount, &data);
}

/// Compares `imgmount diff` of a container and its image with `docker diff`. Docker does not list what was in
/// a directory that is gone or became a file.
fn differs_as_docker_says(imgmount: &Imgmount, docker: &Docker) {
    let (image, container) = (graph(&docker.data(), ":busy:1"), graph(&docker.data(), "@busy"));
    let ours = imgmount.run(&["diff", "--mtime", &image, &container]).expect(1).text().to_owned();
    let theirs = docker.run(&["diff", "busy"]);
    assert_eq!(paths(&ours, "A"), paths(&theirs, "A"));
    // Docker lists neither the root nor a file that only lost another name.
    let listed = |line: &&str| !line.starts_with("M /  ") && !line.ends_with("  links");
    let changed: Vec<&str> = ours.lines().filter(listed).collect();
    assert_eq!(paths(&changed.join("\n"), "M"), paths(&theirs, "C"));
    let deleted = paths(&ours, "D");
    let with_type = ours.lines().filter(|line| line.starts_with("M ") && line.contains("type"));
    let gone = [deleted.clone(), with_type.flat_map(|line| paths(line, "M")).collect()].concat();
    let below = |path: &String| gone.iter().any(|top| path.starts_with(&format!("{top}/")));
    let tops: Vec<String> = deleted.into_iter().filter(|path| !below(path)).collect();
    assert_eq!(tops, paths(&theirs, "D"));
    let text = imgmount.run(&["diff", "-u", &image, &container, "--only", "m"]).expect(1);
    assert!(text.text().contains("-before\n+changed\n"), "{}", text.text());
}

/// Returns the paths after `kind` in lines such as `A /etc/new`, sorted.
fn paths(text: &str, kind: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{kind} ")));
    let mut paths: Vec<String> =
        lines.map(|rest| rest.split("  ").next().unwrap_or(rest).to_owned()).collect();
    paths.sort();
    paths
}

fn describes_the_container(imgmount: &Imgmount, data: &Path) {
    let container = graph(data, "@busy");
    let described = imgmount.run(&["inspect", "--json", &container]).expect(0);
    let described: Value = serde_json::from_str(described.text()).unwrap();
    assert_eq!(described["container"]["name"], "busy");
    assert_eq!(described["container"]["image"], "busy:1");
    let mounts: Vec<&str> = described["container"]["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(mounts, ["/data", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]);
    // The layers of the container have no digest to be compared with.
    let verified = imgmount.run(&["verify", &container]).expect(0);
    assert_eq!(verified.text().matches("unchecked").count(), 2, "{}", verified.text());
    let history = imgmount.run(&["history", &format!("{container}:/etc/changed")]).expect(0);
    assert_eq!(history.lines().len(), 2, "{}", history.text());
    assert!(history.lines()[1].contains("container busy"), "{}", history.text());
}

#[test]
fn f28_vfs_keeps_whole_trees() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let mut docker = Docker::start_with(&imgmount, "vfs").expect("a docker daemon with vfs");
    // The driver cannot keep a device 0/0, which it would take for a file.
    let layers: Vec<Vec<Item>> = layers()
        .into_iter()
        .map(|items| items.into_iter().filter(|item| !matches!(item.kind, Kind::Char(0, 0))).collect())
        .collect();
    let image = layers.iter().fold(Image::named("rows:1"), |image, layer| image.layer("RUN", layer));
    docker.load(&docker_legacy(&[image]));
    docker.load(&busy());
    let data = docker.data();
    let top = docker.run(&["create", "rows:1", "/none"]);
    let id = fs::read_to_string(data.join(format!("image/vfs/layerdb/mounts/{top}/init-id"))).unwrap();
    let added = [".dockerenv", "dev", "etc", "proc", "sys"];
    let tree = |tree: Snapshot| comparable(tree).without_paths(&added).without(Field::DirectoryTimes);
    tree(Snapshot::of(&data.join("vfs/dir").join(id)))
        .assert_shown_by(&tree(shown(&imgmount, &data, ":rows:1", &[])), "an image");
    imgmount.run(&["verify", &graph(&data, ":rows:1")]).expect(0);

    let script = format!("B=/bin/busybox; $B mkdir /sbin && $B --install -s /sbin; PATH=/sbin\n{CHANGES}");
    let args = ["--network", "none", "busy:1", "/bin/busybox", "sh", "-c", &script];
    docker.run(&[&["run", "--name", "busy"][..], &args].concat());
    let found = shown(&imgmount, &data, "@busy", &[]);
    exported(&docker, "busy").assert_shown_by(&without(found.clone(), &NOT_EXPORTED), "an export");
    docker.stop();
    found.assert_shown_by(&shown(&imgmount, &data, "@busy", &[]), "with a stopped engine");
}

/// Returns a copy of a data directory, with attributes.
fn copy(imgmount: &Imgmount, data: &Path) -> PathBuf {
    let copy = imgmount.dir().join("copy");
    if copy.exists() {
        fs::remove_dir_all(&copy).unwrap();
    }
    succeed(Command::new("cp").arg("-a").arg(data).arg(&copy));
    copy
}

/// A data directory with the image `rows:1` and the container `made` of it, without an engine.
fn stopped_engine(imgmount: &Imgmount) -> PathBuf {
    let mut docker = Docker::start_with(imgmount, "overlay2").expect("a docker daemon with overlay2");
    docker.load(&docker_legacy(&[rows()]));
    docker.run(&["create", "--name", "made", "rows:1", "/none"]);
    docker.stop();
    docker.data()
}

/// Returns the entries of the layers of `rows:1` in the layer database, lowest first.
fn entries(data: &Path) -> Vec<PathBuf> {
    let mut chain: Option<String> = None;
    let layers = rows().layers;
    let ids = layers.iter().map(|layer| {
        let diff_id = sha256_hex(&layer.tar);
        let id = match &chain {
            None => diff_id,
            Some(below) => sha256_hex(format!("sha256:{below} sha256:{diff_id}").as_bytes()),
        };
        chain = Some(id.clone());
        data.join("image/overlay2/layerdb/sha256").join(id)
    });
    ids.collect()
}

/// Returns the directory of a layer.
fn directory(data: &Path, entry: &Path) -> PathBuf {
    let id = fs::read_to_string(entry.join("cache-id")).unwrap();
    data.join("overlay2").join(id).join("diff")
}

/// Returns the directory of the lowest layer, and its entry in the layer database.
fn lowest_layer(data: &Path) -> (PathBuf, PathBuf) {
    let entry = entries(data).swap_remove(0);
    (directory(data, &entry), entry)
}

#[test]
fn f26_damage_is_named_and_the_rest_can_be_recovered() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let data = stopped_engine(&imgmount);
    let image = |data: &Path| graph(data, ":rows:1");
    let fails_with = |change: &dyn Fn(&Path, &Path), expected: &str, recoverable: bool| {
        let copy = copy(&imgmount, &data);
        let (layer, entry) = lowest_layer(&copy);
        change(&layer, &entry);
        let refused = imgmount.run(&["ls", "--no-cache", &image(&copy)]).expect(2).says(expected);
        assert_eq!(refused.stderr.contains("hint: --verify off shows"), recoverable, "{}", refused.stderr);
        imgmount.run(&["verify", &image(&copy)]).expect(1);
        copy
    };
    let fails = |change: &dyn Fn(&Path, &Path), expected: &str| fails_with(change, expected, true);
    // A changed file: the same length, another length, none.
    let copied = fails(&|layer, _| fs::write(layer.join("etc/kept"), b"KEPT").unwrap(), "'etc/kept' in '");
    let out = imgmount.run(&["cat", "--verify", "off", &format!("{}:/etc/kept", image(&copied))]).expect(0);
    assert_eq!(out.text(), "KEPT");
    let copied = fails(
        &|layer, _| fs::write(layer.join("etc/kept"), b"longer").unwrap(),
        "has changed since the image was stored: it has 6 bytes, not 4",
    );
    shows_the_directories(&imgmount, &copied, "it has 6 bytes, not 4");
    let copied = fails(&|layer, _| fs::remove_file(layer.join("etc/kept")).unwrap(), "is missing");
    shows_the_directories(&imgmount, &copied, "'etc/kept' in '");
    // A damaged layout of the tar.
    let split = "tar-split.json.gz";
    let copied = fails(&|_, entry| truncate(&entry.join(split), 700), "damaged gzip data");
    shows_the_directories(&imgmount, &copied, "damaged gzip data");
    let copied = fails(&|_, entry| fs::remove_file(entry.join(split)).unwrap(), "cannot be verified");
    shows_the_directories(&imgmount, &copied, "did not keep the layout of its tar");
    // What the image needs in any case.
    let missing = "the directory of a layer is missing";
    let copied = fails_with(&|layer, _| fs::remove_dir_all(layer).unwrap(), missing, false);
    imgmount.run(&["ls", "--verify", "off", &image(&copied)]).expect(2).says(missing);
    fails_with(&|_, entry| fs::remove_dir_all(entry).unwrap(), "the layer is missing", false);
}

/// Compares the image without verification with the kernel's overlay of the directories as they are now.
#[track_caller]
fn shows_the_directories(imgmount: &Imgmount, data: &Path, warning: &str) {
    let mounted = imgmount.mount(graph(data, ":rows:1"), &["--verify", "off"]);
    assert!(mounted.run.stderr.contains(warning), "{}", mounted.run.stderr);
    let now = comparable(Snapshot::of(mounted.path()));
    let directories = entries(data).iter().rev().map(|entry| directory(data, entry)).collect();
    Overlay::mount(imgmount.dir(), directories).tree().assert_shown_by(&now, warning);
}

fn truncate(path: &Path, len_bytes: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(len_bytes).unwrap();
}

#[test]
fn f25_damaged_lists_and_planted_links_are_refused() {
    if !can_run() {
        return;
    }
    let imgmount = Imgmount::new();
    let data = stopped_engine(&imgmount);
    let repositories = data.join("image/overlay2/repositories.json");
    let names = fs::read(&repositories).unwrap();
    fs::write(&repositories, b"garbage").unwrap();
    imgmount
        .run(&["ls", &graph(&data, ":rows:1")])
        .expect(2)
        .says("'repositories.json' in '")
        .says("bad JSON");
    fs::write(&repositories, names).unwrap();

    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("secret"), b"secret").unwrap();
    let (layer, entry) = lowest_layer(&data);
    // The whole directory of a layer, and a directory in it.
    let plant = |path: &Path, expected: &str| {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).unwrap();
        std::os::unix::fs::symlink(secret.path(), path).unwrap();
        imgmount.run(&["ls", "--no-cache", &graph(&data, ":rows:1")]).expect(2).says(expected);
        fs::remove_file(path).unwrap();
        fs::rename(&aside, path).unwrap();
    };
    plant(&layer, "leads out of the directory");
    plant(&entry, "leads out of the directory");
    plant(&layer.join("etc"), "is missing");
    fs::write(entry.join("cache-id"), format!("../../../{}", secret.path().display())).unwrap();
    imgmount.run(&["ls", &graph(&data, ":rows:1")]).expect(2).says("not the name of a layer's directory");
    let mount = find(&data.join("image/overlay2/layerdb/mounts"), "mount-id");
    fs::write(&mount[0], secret.path().to_str().unwrap()).unwrap();
    imgmount.run(&["ls", &graph(&data, "@made")]).expect(2).says("not the name of a layer's directory");
}

#[test]
fn f27_without_privilege_a_container_is_refused_and_an_image_is_not() {
    if !can_run() || !have(&[Need::Program("setpriv"), Need::Program("chmod")]) {
        return;
    }
    let root = Imgmount::new();
    let data = stopped_engine(&root);
    let user = Imgmount::as_ordinary_user();
    let copied = copy(&user, &data);
    succeed(Command::new("chmod").args(["-R", "a+rX"]).arg(&copied));
    let listed = ls(&user, &graph(&copied, ":rows:1"));
    assert!(listed.contains("/etc/kept"), "{listed}");
    user.run(&["ls", &graph(&copied, "@made")]).expect(2).says("trusted.overlay.*, which need root");
}
