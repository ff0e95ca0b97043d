//! Tests `imgmount history`, for images and for paths that layers added, changed, deleted, hid and
//! re-added.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{
    Image, Item, char_device, dir, docker_legacy, file, hardlink, opaque, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, find_program, have, inside, run};

fn write(imgmount: &Imgmount, image: Image) -> PathBuf {
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])))
}

/// Makes the layers for the tests of single paths.
fn life() -> Image {
    let base = [
        file("again", b"1"),
        file("changed", b"1"),
        char_device("device", 1, 3),
        dir("dir"),
        dir("dir/deep"),
        file("dir/deep/file", b"1"),
        dir("hidden"),
        file("hidden/file", b"1"),
        file("hidden/kept", b"1"),
        symlink("link", "a"),
        dir("replaced"),
        file("replaced/file", b"1"),
        file("same", b"1"),
        symlink("way", "dir"),
    ];
    let second = [
        whiteout("again"),
        file("changed", b"2").mode(0o600).owner(1, 2).mtime(5, 0).xattr("user.x", b"1"),
        char_device("device", 1, 5),
        whiteout("dir"),
        opaque("hidden"),
        file("hidden/kept", b"2"),
        symlink("link", "b"),
        file("replaced", b"a file now"),
        file("same", b"1"),
    ];
    let third = [
        file("again", b"22"),
        file("changed", b"2").mode(0o600).owner(1, 2).mtime(6, 0).xattr("user.x", b"1"),
    ];
    Image::named("a:1").layer("ADD base", &base).layer("RUN second", &second).layer("RUN third", &third)
}

/// Compares the output for a path.
#[track_caller]
fn assert_history(path: &str, expected: &str) {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, life());
    let out = run(imgmount.command(&["history"]).arg(inside(&image, path))).expect(0);
    assert_eq!(out.text(), expected, "{path}");
}

#[test]
fn of_a_file_that_was_deleted_and_came_back() {
    assert_history("/again", "0  added     ADD base\n1  deleted   RUN second\n2  re-added  RUN third\n");
}

#[test]
fn of_a_file_that_changed_in_every_way_and_then_in_its_time_only() {
    let expected = "0  added                                   ADD base\n\
                    1  changed content,mode,owner,xattr,mtime  RUN second\n\
                    2  changed mtime                           RUN third\n";
    assert_history("/changed", expected);
}

#[test]
fn of_targets_and_device_numbers() {
    assert_history("/link", "0  added           ADD base\n1  changed target  RUN second\n");
    assert_history("/device", "0  added         ADD base\n1  changed rdev  RUN second\n");
}

#[test]
fn of_what_a_layer_holds_again_just_as_it_was() {
    assert_history("/same", "0  added      ADD base\n1  unchanged  RUN second\n");
}

#[test]
fn of_what_went_with_the_directory_that_it_was_in() {
    assert_history("/dir/deep/file", "0  added              ADD base\n1  deleted with /dir  RUN second\n");
    assert_history("/dir", "0  added    ADD base\n1  deleted  RUN second\n");
}

#[test]
fn of_what_an_opaque_directory_hid_or_brought_again() {
    assert_history(
        "/hidden/file",
        "0  added                     ADD base\n1  hidden by opaque /hidden  RUN second\n",
    );
    assert_history("/hidden/kept", "0  added            ADD base\n1  changed content  RUN second\n");
    assert_history("/hidden", "0  added  ADD base\n");
}

#[test]
fn of_a_directory_that_became_a_file_and_of_what_was_in_it() {
    assert_history("/replaced", "0  added              ADD base\n1  changed mode,type  RUN second\n");
    assert_history(
        "/replaced/file",
        "0  added                    ADD base\n1  hidden by new /replaced  RUN second\n",
    );
}

#[test]
fn links_are_followed_only_where_nothing_ever_was() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer("ADD", &[dir("usr"), file("usr/f", b"1"), symlink("l", "usr")]);
    let image = write(&imgmount, image);
    let history = |path| run(imgmount.command(&["history"]).arg(inside(&image, path)));
    assert_eq!(history("/l").expect(0).text(), "0  added  ADD\n");
    assert_eq!(history("/l/f").expect(0).text(), "0  added  ADD\n");
    history("/l/nowhere").expect(2).says("'/l/nowhere'");
}

#[test]
fn of_a_hard_link_to_a_lower_layer() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1")
        .layer("ADD", &[file("a", b"1")])
        .layer("RUN ln", &[hardlink("b", "a")])
        .layer("RUN rm", &[whiteout("a")]);
    let image = write(&imgmount, image);
    let history = |path| run(imgmount.command(&["history"]).arg(inside(&image, path))).expect(0);
    assert_eq!(history("/a").text(), "0  added    ADD\n2  deleted  RUN rm\n");
    assert_eq!(history("/b").text(), "1  added  RUN ln\n");
}

#[test]
fn json_of_a_path_has_what_was_there_and_what_took_it_away() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, life());
    let out = run(imgmount.command(&["history", "--json"]).arg(inside(&image, "/dir/deep/file"))).expect(0);
    let lines: Vec<Value> = out.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let diff_ids: Vec<_> = life().layers.iter().map(crate::fixture::Layer::diff_id).collect();
    let added = json!({
        "layer": 0, "diff_id": diff_ids[0], "created_by": "ADD base", "action": "added", "fields": [], "by": null,
        "entry": {
            "path": "/dir/deep/file", "type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": 1,
            "mtime": "2023-11-14T22:13:20.000000000Z", "target": null, "rdev": null, "xattrs": {},
            "layer": 0, "diff_id": diff_ids[0],
        },
    });
    let deleted = json!({
        "layer": 1, "diff_id": diff_ids[1], "created_by": "RUN second", "action": "deleted", "fields": [],
        "by": "/dir", "entry": null,
    });
    assert_eq!(lines, [added, deleted]);
}

fn two_layers() -> Image {
    let second: [Item; 2] = [file("a", b"22"), file("b", b"3")];
    Image::named("a:1").layer("COPY first", &[file("a", b"1")]).layer("RUN one\nRUN two", &second)
}

#[test]
fn of_an_image_shows_steps_without_a_layer_as_empty() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, two_layers());
    let out = run(imgmount.command(&["history"]).arg(&image)).expect(0);
    let expected = "\
LAYER  CREATED               STORED  UNPACKED  ENTRIES  COMMAND
0      2026-01-02T03:04:05Z    2048      2048        1  COPY first
empty  2026-01-02T03:04:05Z       -         -        -  ENV A=1
1      2026-01-02T03:04:05Z    3072      3072        2  RUN one\\x0aRUN two
empty  2026-01-02T03:04:05Z       -         -        -  ENV A=1
";
    assert_eq!(out.text(), expected);
    assert_eq!(out.stderr, "");
}

#[test]
fn of_an_image_whose_history_does_not_fit_guesses_nothing() {
    let imgmount = Imgmount::new();
    let history = json!([{"created_by": "only one", "created": "2026-01-02T03:04:05Z"}]);
    let image = write(&imgmount, two_layers().with_history(history));
    let out = run(imgmount.command(&["history"]).arg(&image)).expect(0);
    let expected = "\
LAYER  CREATED               STORED  UNPACKED  ENTRIES  COMMAND
0      unknown                 2048      2048        1  unknown
1      unknown                 3072      3072        2  unknown
?      2026-01-02T03:04:05Z       -         -        -  only one
";
    assert_eq!(out.text(), expected);
    let out = out.says("1 step(s) for 2 layer(s)");
    assert_eq!(out.stderr.lines().count(), 1);
    let out = run(imgmount.command(&["history"]).arg(inside(&image, "/b"))).expect(0);
    assert_eq!(out.text(), "1  added  unknown\n");
}

#[test]
fn json_of_an_image_has_layers_and_empty_steps() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, two_layers());
    let out = run(imgmount.command(&["history", "--json"]).arg(&image)).expect(0);
    let lines: Vec<Value> = out.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({
        "layer": 0, "empty_layer": false, "diff_id": two_layers().layers[0].diff_id(), "digest": null,
        "size": 2048, "tar_size": 2048, "entries": 1, "created": "2026-01-02T03:04:05Z", "author": null,
        "created_by": "COPY first", "comment": null,
    });
    let empty = json!({
        "layer": null, "empty_layer": true, "diff_id": null, "digest": null, "size": null, "tar_size": null,
        "entries": null, "created": "2026-01-02T03:04:05Z", "author": null, "created_by": "ENV A=1",
        "comment": null,
    });
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[0], &lines[1]), (&first, &empty));
}

#[test]
fn of_a_path_in_an_image_that_podman_built() {
    if !have(&[Need::Root, Need::Program("podman"), Need::Program("busybox")]) {
        return;
    }
    let imgmount = Imgmount::new();
    fs::create_dir(imgmount.dir().join("context")).unwrap();
    let busybox = fs::read(find_program("busybox").unwrap()).unwrap();
    let steps = "FROM scratch\nCOPY busybox /busybox\nCOPY f /f\nENV A=1\nRUN [\"/busybox\", \"rm\", \"/f\"]\n\
                 RUN [\"/busybox\", \"cp\", \"/busybox\", \"/f\"]\nRUN [\"/busybox\", \"chmod\", \"0600\", \"/f\"]\n";
    for (name, bytes) in [("Containerfile", steps.as_bytes()), ("f", b"1"), ("busybox", &busybox)] {
        imgmount.write(&format!("context/{name}"), bytes);
    }
    fs::set_permissions(imgmount.dir().join("context/busybox"), Permissions::from_mode(0o755)).unwrap();
    let podman = |args: &[&str]| {
        let mut podman = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            podman.arg(option).arg(imgmount.dir().join(name));
        }
        // The vfs driver works wherever root can write, nested in a container too.
        run(podman.args(["--storage-driver", "vfs"]).args(args).current_dir(imgmount.dir())).expect(0)
    };
    let build = ["build", "-q", "--isolation", "chroot", "--network", "host", "--layers", "-t", "f:1"];
    podman(&[&build[..], &["context"]].concat());
    podman(&["save", "-q", "--format", "oci-archive", "-o", "built.tar", "localhost/f:1"]);
    let out = run(imgmount.command(&["history"]).arg("built.tar:/f")).expect(0);
    let expected = [
        ("1  added", "COPY file:"),
        ("2  deleted", r#"["/busybox", "rm", "/f"]"#),
        ("3  re-added", r#"["/busybox", "cp", "/busybox", "/f"]"#),
        ("4  changed mode", r#"["/busybox", "chmod", "0600", "/f"]"#),
    ];
    assert_eq!(out.lines().len(), expected.len(), "{}", out.text());
    for (line, (start, command)) in out.lines().iter().zip(expected) {
        assert!(line.starts_with(start) && line.contains(command), "{}", out.text());
    }
}
