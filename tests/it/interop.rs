//! Compares images that podman, skopeo, umoci and docker write, and trees that these tools make of
//! images.
//!
//! Each engine works in its own directories, below the test's temporary directory.

use std::fs;
use std::process::Command;

use crate::engines::{Docker, Podman, succeed};
use crate::fixture::{
    Compression, Image, Item, dir, docker_legacy, file, hardlink, oci, sample_layers, sample_tree, symlink,
    tar, without_sparse, write_dir,
};
use crate::mounted::{Imgmount, Need, find_program, have};
use crate::tree::{Field, Snapshot};

/// `cap_net_raw+ep` as the kernel stores it: struct vfs_cap_data, revision 2. This is the only
/// attribute that every engine keeps.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Paths that engines add to a container or an image that they build.
const ADDED: [&str; 9] =
    ["dev", "proc", "sys", "run", ".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"];

/// Returns the items of the base image.
fn base() -> Vec<Item> {
    vec![
        dir("bin"),
        file("bin/ping", b"#!/bin/sh\n").mode(0o4755).xattr("security.capability", CAPABILITY),
        hardlink("bin/ping6", "bin/ping").mode(0o4755).xattr("security.capability", CAPABILITY),
        dir("etc"),
        file("etc/deleted", b"1"),
        file("etc/kept", b"2").owner(1000, 1000).mode(0o600),
        symlink("etc/link", "kept"),
        dir("srv"),
        dir("srv/data"),
        file("srv/data/old", b"3"),
        file(b"srv/caf\xe9", b"4"),
        dir("tmp").mode(0o1777),
    ]
}

/// Leaves out the paths and fields in which a mount may differ from a directory or container of an
/// engine.
fn comparable(tree: Snapshot) -> Snapshot {
    tree.without_paths(&ADDED).without(Field::Root).without(Field::DirectoryLinks)
}

#[track_caller]
fn mounts_as(expected: &Snapshot, imgmount: &Imgmount, image: &str, fields: &[Field]) {
    let mounted = imgmount.mount(image, &[]);
    let drop_fields =
        |tree: Snapshot| fields.iter().fold(comparable(tree), |tree, field| tree.without(*field));
    let found = drop_fields(Snapshot::of(mounted.path()));
    assert!(found.len() > 5, "{image}: hardly anything is there");
    drop_fields(expected.clone()).assert_shown_by(&found, image);
}

/// Builds an image of several layers that add, change and delete, and names it `demo:1`.
fn podman_build(podman: &Podman) {
    let context = podman.dir.join("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("base.tar"), tar(&base())).unwrap();
    fs::write(context.join("new"), b"new").unwrap();
    fs::copy(find_program("busybox").unwrap(), context.join("busybox")).unwrap();
    let steps = "FROM scratch\nADD base.tar /\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\", \"rm\", \"/etc/deleted\", \"/bin/ping6\"]\n\
        RUN [\"/bin/busybox\", \"rm\", \"-r\", \"/srv/data\"]\nCOPY new /srv/data/\n\
        RUN [\"/bin/busybox\", \"chmod\", \"0640\", \"/etc/kept\"]\n";
    fs::write(context.join("Containerfile"), steps).unwrap();
    let build = ["build", "-q", "--isolation", "chroot", "--network", "host", "--layers", "-t", "demo:1"];
    succeed(podman.command(&build).arg("context"));
}

#[test]
fn podman_builds_saves_and_exports() {
    let tools = ["podman", "busybox", "umoci", "skopeo", "tar"].map(Need::Program);
    if !have(&[&[Need::Fuse, Need::Root], &tools[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    // The vfs driver works wherever root can write, nested in a container too.
    let podman = Podman::new(&imgmount, "vfs");
    podman_build(&podman);
    for format in ["docker-archive", "oci-archive"] {
        let file = format!("../{format}.tar");
        succeed(&mut podman.command(&["save", "-q", "--format", format, "-o", &file, "localhost/demo:1"]));
    }

    // A container's directories have the time of the container's creation.
    let exported = podman.export("localhost/demo:1");
    mounts_as(&exported, &imgmount, "docker-archive.tar", &[Field::DirectoryTimes, Field::Nanoseconds]);
    mounts_as(&exported, &imgmount, "oci-archive.tar", &[Field::DirectoryTimes, Field::Nanoseconds]);
    mounts_as(&exported, &imgmount, "rootfs:podman-vfs/exported.tar", &[]);

    let mut copy = skopeo(&imgmount);
    succeed(copy.args(["oci-archive:oci-archive.tar", "oci:layout:1"]));
    let unpacked = umoci_unpack(&imgmount, "layout:1", "bundle");
    mounts_as(&unpacked, &imgmount, "oci-archive.tar", &[Field::DirectoryTimes]);
}

#[test]
fn podman_loads_the_sample_and_shows_the_same_tree() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("podman"), Need::Program("tar")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let podman = Podman::new(&imgmount, "vfs");
    imgmount.write("sample.tar", &tar(&docker_legacy(&[Image::sample("", Compression::Plain)])));
    succeed(&mut podman.command(&["load", "-q", "-i", "../sample.tar"]));
    let exported = podman.export("example.com/sample:1");
    mounts_as(&exported, &imgmount, "sample.tar", &[Field::DirectoryTimes, Field::Nanoseconds]);
    mounts_as(&exported, &imgmount, "rootfs:podman-vfs/exported.tar", &[]);
}

fn skopeo(imgmount: &Imgmount) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "-q"]).current_dir(imgmount.dir());
    command
}

#[test]
fn skopeo_copies_to_every_form() {
    if !have(&[Need::Fuse, Need::Program("skopeo")]) {
        return;
    }
    let imgmount = Imgmount::new();
    imgmount.write("sample.tar", &tar(&docker_legacy(&[Image::sample("./", Compression::Plain)])));
    let copies: [(&str, &[&str]); 5] = [
        ("oci:layout:1", &[]),
        ("oci:zstd-layout:1", &["--dest-compress-format", "zstd"]),
        ("oci-archive:oci.tar:1", &[]),
        ("docker-archive:docker.tar:example.com/copy:1", &[]),
        ("dir:directory", &[]),
    ];
    let expected = Snapshot::described(&sample_tree());
    for (destination, options) in copies {
        if let Some(directory) = destination.strip_prefix("dir:") {
            fs::create_dir(imgmount.dir().join(directory)).unwrap();
        }
        succeed(skopeo(&imgmount).args(options).arg("docker-archive:sample.tar").arg(destination));
        let mounted = imgmount.mount(destination, &[]);
        expected.assert_shown_by(&Snapshot::of(mounted.path()), destination);
    }
}

/// Unpacks `image` with umoci into a new directory `bundle`, and returns the tree.
fn umoci_unpack(imgmount: &Imgmount, image: &str, bundle: &str) -> Snapshot {
    let mut command = Command::new("umoci");
    command.args(["unpack", "--image", image, bundle]).current_dir(imgmount.dir());
    succeed(&mut command);
    Snapshot::of(&imgmount.dir().join(bundle).join("rootfs"))
}

#[test]
fn umoci_unpacks_the_sample_to_the_same_tree() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("umoci")]) {
        return;
    }
    let imgmount = Imgmount::new();
    for compression in [Compression::Plain, Compression::Gzip(6)] {
        let name = format!("{compression:?}").replace(['(', ')'], "-");
        write_dir(&oci(&[Image::sample("./", compression)]), &imgmount.dir().join(&name));
        let unpacked = umoci_unpack(&imgmount, &format!("{name}:1"), &format!("bundle-{name}"));
        mounts_as(&unpacked, &imgmount, &name, &[Field::DirectoryTimes]);
    }
}

#[test]
fn umoci_inserts_and_whites_out() {
    if !have(&[Need::Fuse, Need::Root, Need::Program("umoci")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let umoci = |args: &[&str]| succeed(Command::new("umoci").args(args).current_dir(imgmount.dir()));
    write_dir(&oci(&[Image::named("base:1").layer("ADD", &base())]), &imgmount.dir().join("layout"));
    let new = imgmount.dir().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("file"), b"inserted").unwrap();
    umoci(&["insert", "--image", "layout:1", "--whiteout", "/etc/deleted"]);
    umoci(&["insert", "--image", "layout:1", "--opaque", "new", "/srv/data"]);
    umoci(&["insert", "--image", "layout:1", "--tag", "2", "new/file", "/etc/inserted"]);

    let unpacked = umoci_unpack(&imgmount, "layout:2", "bundle");
    mounts_as(&unpacked, &imgmount, "layout:2", &[Field::DirectoryTimes]);
    let mounted = imgmount.mount("layout:2", &[]);
    assert_eq!(fs::read(mounted.path().join("etc/inserted")).unwrap(), b"inserted");
    assert!(!mounted.path().join("srv/data/old").exists());
}

/// Attributes that docker does not export, and fractions of seconds, which it drops.
const NOT_EXPORTED: [Field; 3] = [Field::DirectoryTimes, Field::Nanoseconds, Field::UserXattrs];

#[test]
fn docker_builds_imports_loads_saves_and_exports() {
    let tools = ["dockerd", "docker", "tar", "busybox"].map(Need::Program);
    if !have(&[&[Need::Fuse, Need::Root], &tools[..]].concat()) {
        return;
    }
    let imgmount = Imgmount::new();
    let docker = Docker::start(&imgmount);
    let context = docker.dir.join("context");
    fs::write(context.join("base.tar"), tar(&base())).unwrap();
    fs::write(context.join("more.tar"), tar(&[dir("more").mode(0o700), file("more/f", b"5")])).unwrap();
    fs::write(context.join("new"), b"new").unwrap();
    fs::copy(find_program("busybox").unwrap(), context.join("busybox")).unwrap();
    docker_builds_layers_that_add_change_delete_and_hide(&imgmount, &docker);
    docker_builds_on_an_imported_tree(&imgmount, &docker);
    docker_loads_the_sample(&imgmount, &docker);
}

/// Each step is a layer: deleted files, a directory created anew (which overlay2 marks opaque), another
/// directory deleted and then created again, and a changed mode.
fn docker_builds_layers_that_add_change_delete_and_hide(imgmount: &Imgmount, docker: &Docker) {
    let steps = "FROM scratch\nADD base.tar /\nCOPY busybox /bin/busybox\n\
        RUN [\"/bin/busybox\", \"rm\", \"/etc/deleted\", \"/bin/ping6\"]\n\
        RUN [\"/bin/busybox\", \"sh\", \"-c\", \"B=/bin/busybox; $B rm -r /srv/data && $B mkdir /srv/data && \
        echo 6 > /srv/data/anew\"]\n\
        RUN [\"/bin/busybox\", \"rm\", \"-r\", \"/tmp\"]\nCOPY new /tmp/\n\
        RUN [\"/bin/busybox\", \"chmod\", \"0640\", \"/etc/kept\"]\n";
    docker.build("built:1", steps);
    succeed(&mut docker.command(&["save", "-o", "../built.tar", "built:1"]));
    let exported = docker.export("built:1");
    mounts_as(&exported, imgmount, "built.tar", &NOT_EXPORTED);
    let mounted = imgmount.mount("built.tar", &[]);
    assert_eq!(fs::read(mounted.path().join("srv/data/anew")).unwrap(), b"6\n");
    for gone in ["etc/deleted", "bin/ping6", "srv/data/old"] {
        assert!(!mounted.path().join(gone).exists(), "{gone}");
    }
    // One step deletes the file, and the next creates it again.
    let out = imgmount.run(&["history", "built.tar:/tmp"]).expect(0);
    let told: Vec<Vec<&str>> =
        out.lines().iter().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert_eq!(told, [["0", "added"], ["4", "deleted"], ["5", "re-added"]], "{}", out.text());
    for (line, step) in out.lines().iter().zip(["ADD file:", "/bin/busybox rm -r /tmp", "COPY file:"]) {
        assert!(line.contains(step), "{line}");
    }
}

fn docker_builds_on_an_imported_tree(imgmount: &Imgmount, docker: &Docker) {
    succeed(&mut docker.command(&["import", "context/base.tar", "base:1"]));
    let steps = "FROM base:1\nCOPY new /srv/data/new\nCOPY new /etc/kept\nENV A=1\nADD more.tar /srv/\n";
    docker.build("imported:1", steps);
    succeed(&mut docker.command(&["save", "-o", "../imported.tar", "imported:1"]));
    mounts_as(&docker.export("imported:1"), imgmount, "imported.tar", &NOT_EXPORTED);
}

/// The image that is saved again has no sparse file, because docker could not save it.
fn docker_loads_the_sample(imgmount: &Imgmount, docker: &Docker) {
    imgmount.write("sample.tar", &tar(&docker_legacy(&[Image::sample("", Compression::Plain)])));
    succeed(&mut docker.command(&["load", "-q", "-i", "../sample.tar"]));
    mounts_as(&docker.export("example.com/sample:1"), imgmount, "sample.tar", &NOT_EXPORTED);

    let image = sample_layers()
        .into_iter()
        .fold(Image::named("dense:1"), |image, (by, items)| image.layer(by, &without_sparse(items)));
    imgmount.write("dense.tar", &tar(&docker_legacy(&[image])));
    succeed(&mut docker.command(&["load", "-q", "-i", "../dense.tar"]));
    succeed(&mut docker.command(&["save", "-o", "../resaved.tar", "dense:1"]));
    Snapshot::described(&without_sparse(sample_tree())).assert_shown_by(
        &Snapshot::of(imgmount.mount("resaved.tar", &[]).path()),
        "loaded and saved by docker",
    );
}
