//! Compares the `--json` output of `history`, `deleted` and `diff` with docs/json.md.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::{
    Image, char_device, dir, docker_legacy, file, hardlink, oci, opaque, symlink, tar, whiteout,
};
use crate::json::{Schema, Seen};
use crate::mounted::{Imgmount, run};

/// Makes an image with every kind of change to a path, and with names that are not UTF-8.
fn image() -> Image {
    let base = [
        char_device("device", 1, 3),
        dir(b"caf\xe9"),
        file(b"caf\xe9/file", b"1").xattr("user.x", b"1"),
        symlink("gone", b"caf\xe9"),
        dir(b"hidden\xff"),
        file(b"hidden\xff/file", b"1"),
        dir("replaced"),
        file("replaced/file", b"1"),
        file("same", b"1"),
    ];
    let second = [
        whiteout("device"),
        file(b".wh.caf\xe9", b""),
        whiteout("gone"),
        file(b"hidden\xff/.wh..wh..opq", b""),
        opaque(""),
        file("replaced", b"2"),
        file("same", b"2"),
    ];
    let third = [hardlink("same", "same"), file("device", b"a file now")];
    Image::named("a:1").layer("ADD base", &base).layer("RUN second", &second).layer("RUN third", &third)
}

fn write(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[image()])))
}

fn printed(imgmount: &Imgmount, arguments: &[&str], image: &Path, code: i32) -> Vec<Value> {
    let out = run(imgmount.command(arguments).arg(image)).expect(code);
    out.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks an entry as `ls` prints it; `nlink` exists only if names are counted.
fn check_entry(entry: &Value, has_nlink: bool) {
    assert_eq!(entry.get("nlink").is_some(), has_nlink, "{entry}");
    let mut entry = entry.clone();
    entry["nlink"] = json!(1);
    Schema::of("ls --json").check(&entry, "entry", &mut Seen::new());
}

/// Asserts that each claim of a section occurred, except those in `never`.
#[track_caller]
fn assert_all_seen(section: &str, seen: &Seen, never: &[&str]) {
    let mut claims = Schema::of(section).claims("line");
    never.iter().for_each(|claim| assert!(claims.remove(*claim), "{claim} is no claim"));
    assert_eq!(*seen, claims, "each claim of the document is seen, and nothing else");
}

#[test]
fn history_of_an_image_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let schema = Schema::of("history --json");
    let mut seen = Seen::new();
    let full = json!({"created": "2026-01-02T03:04:05Z", "author": "me", "comment": "x", "created_by": "y"});
    let mut empty = full.clone();
    empty["empty_layer"] = json!(true);
    for (name, history) in [("a.tar", json!([full, full, full, empty])), ("b.tar", json!([full]))] {
        let image = imgmount.write(name, &tar(&oci(&[image().with_history(history)])));
        for line in printed(&imgmount, &["history", "--json"], &image, 0) {
            schema.check(&line, "line", &mut seen);
        }
    }
    assert_all_seen("history --json", &seen, &[]);
}

#[test]
fn history_of_paths_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &tar(&docker_legacy(&[image()])));
    let untold = image_without_history(&imgmount);
    let schema = Schema::of("history --json IMAGE:/path");
    let mut seen = Seen::new();
    let mut actions = std::collections::BTreeSet::new();
    let paths: [&[u8]; 5] = [b"caf\xe9/file", b"hidden\xff/file", b"replaced/file", b"same", b"device"];
    for path in paths {
        for image in [&image, &untold] {
            let mut reference = image.as_os_str().as_encoded_bytes().to_vec();
            reference.extend([b":/", path].concat());
            let reference = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(reference);
            for line in printed(&imgmount, &["history", "--json"], Path::new(&reference), 0) {
                schema.check(&line, "line", &mut seen);
                actions.insert(line["action"].as_str().unwrap().to_owned());
                if !line["entry"].is_null() {
                    check_entry(&line["entry"], false);
                }
            }
        }
    }
    assert_all_seen("history --json IMAGE:/path", &seen, &["line.diff_id: null"]);
    let expected = ["added", "changed", "deleted", "hidden-opaque", "hidden-replaced", "re-added"];
    assert_eq!(actions.into_iter().collect::<Vec<_>>(), expected);
}

fn image_without_history(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("untold.tar", &tar(&docker_legacy(&[image().with_history(json!([]))])))
}

#[test]
fn deleted_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let schema = Schema::of("deleted --json");
    let mut seen = Seen::new();
    for image in [write(&imgmount), image_without_history(&imgmount)] {
        for line in printed(&imgmount, &["deleted", "--json", "--overwritten"], &image, 0) {
            schema.check(&line, "line", &mut seen);
        }
    }
    let never = ["line.diff_id: null", "line.had_by.diff_id: null", "line.removed_by.diff_id: null"];
    assert_all_seen("deleted --json", &seen, &never);
}

#[test]
fn diff_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount);
    let (schema, mut seen) = (Schema::of("diff --json"), Seen::new());
    for line in printed(&imgmount, &["diff", "--a-upto", "0", "--json"], &image, 1) {
        schema.check(&line, "line", &mut seen);
        for side in ["a", "b"] {
            if !line[side].is_null() {
                check_entry(&line[side], true);
            }
        }
    }
    for line in printed(&imgmount, &["diff", "--a-upto", "2", "--b-upto", "0", "--json"], &image, 1) {
        schema.check(&line, "line", &mut seen);
    }
    assert_all_seen("diff --json", &seen, &[]);
}

#[test]
fn diff_stat_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount);
    let answers = printed(&imgmount, &["diff", "--a-upto", "0", "--stat", "--json"], &image, 1);
    let [answer] = answers.as_slice() else { panic!("one object: {answers:?}") };
    let mut seen = Seen::new();
    Schema::of("diff --stat --json").check(answer, "line", &mut seen);
    assert_all_seen("diff --stat --json", &seen, &[]);
}
