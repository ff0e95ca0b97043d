//! Tests the exact output and the exit codes of `imgmount diff`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::fixture::{
    Compression, Image, Item, char_device, dir, docker_legacy, fifo, file, hardlink, oci, opaque, patterned,
    sha256_hex, skopeo_dir, sparse, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Run, run};

fn write(imgmount: &Imgmount, name: &str, image: Image) -> PathBuf {
    imgmount.write(name, &tar(&docker_legacy(&[image])))
}

/// Writes two images of one layer each.
fn two(imgmount: &Imgmount, a: &[Item], b: &[Item]) -> (PathBuf, PathBuf) {
    let image = |items| Image::named("a:1").layer("ADD", items);
    (write(imgmount, "a.tar", image(a)), write(imgmount, "b.tar", image(b)))
}

fn diff(imgmount: &Imgmount, options: &[&str], (a, b): &(PathBuf, PathBuf)) -> Run {
    run(imgmount.command(&["diff"]).args(options).arg(a).arg(b))
}

/// Compares the output for two images of one layer each.
#[track_caller]
fn assert_diff(options: &[&str], a: &[Item], b: &[Item], expected: &str) {
    let imgmount = Imgmount::new();
    let images = two(&imgmount, a, b);
    let out = diff(&imgmount, options, &images);
    assert_eq!(out.text(), expected, "{}", out.stderr);
    assert_eq!(out.code, i32::from(!expected.is_empty()));
}

#[test]
fn paths_are_sorted_by_bytes_and_the_exit_code_tells_whether_there_are_any() {
    let a = [file("same", b"1"), file("changed", b"1"), file("gone", b"1"), dir("d"), file("d.x", b"1")];
    let b = [
        file("same", b"1").mtime(5, 5),
        file("changed", b"2").mode(0o600),
        dir("d"),
        file("d/new", b"1"),
        file("d.x", b"2"),
    ];
    let expected = "M /changed  content,mode\nM /d.x  content\nA /d/new\nD /gone\n";
    assert_diff(&[], &a, &b, expected);
    assert_diff(
        &["--only", "m", "--mtime"],
        &a,
        &b,
        "M /changed  content,mode\nM /d.x  content\nM /same  mtime\n",
    );
    assert_diff(&["--only", "a,D"], &a, &b, "A /d/new\nD /gone\n");
    assert_diff(&[], &a, &a, "");
}

#[test]
fn a_directory_comes_and_goes_with_all_that_is_in_it() {
    let there = [dir("d"), dir("d/e"), file("d/e/f", b"1"), symlink("d/l", "e")];
    assert_diff(&[], &[], &there, "A /d\nA /d/e\nA /d/e/f\nA /d/l\n");
    assert_diff(&[], &there, &[], "D /d\nD /d/e\nD /d/e/f\nD /d/l\n");
}

#[test]
fn every_field_has_its_word() {
    let check = |a: Item, b: Item, fields: &str| {
        assert_diff(&["--mtime"], &[a], &[b], &format!("M /x  {fields}\n"));
    };
    check(file("x", b"1"), file("x", b"2"), "content");
    check(file("x", b"1"), file("x", b"12"), "content");
    check(file("x", b"1"), file("x", b"1").mode(0o4644), "mode");
    check(file("x", b"1"), file("x", b"1").owner(1, 0), "owner");
    check(file("x", b"1"), file("x", b"1").owner(0, 1), "owner");
    check(char_device("x", 1, 3), char_device("x", 1, 5), "rdev");
    check(symlink("x", "a"), symlink("x", "b"), "target");
    check(file("x", b""), fifo("x").mode(0o644), "type");
    check(file("x", b"1"), symlink("x", "1"), "mode,type");
    check(file("x", b"1").xattr("user.x", b"1"), file("x", b"1").xattr("user.x", b"2"), "xattr");
    check(file("x", b"1"), file("x", b"1").xattr("user.x", b""), "xattr");
    check(dir("x"), dir("x").mtime(1, 0), "mtime");
    check(file("x", b"1"), file("x", b"1").mtime(1_700_000_000, 1), "mtime");
}

#[test]
fn the_order_of_extended_attributes_does_not_count() {
    let a = file("x", b"1").xattr("user.a", b"1").xattr("user.b", b"2");
    let b = file("x", b"1").xattr("user.b", b"2").xattr("user.a", b"1");
    assert_diff(&[], &[a], &[b], "");
}

#[test]
fn a_file_that_became_a_directory_is_one_change_and_what_is_in_it_is_added() {
    let expected = "M /x  mode,type\nA /x/f\n";
    assert_diff(&[], &[file("x", b"1")], &[dir("x"), file("x/f", b"1")], expected);
}

#[test]
fn which_names_share_an_inode_counts() {
    let apart = [file("a", b"1"), file("b", b"1"), file("c", b"1")];
    let linked = [file("a", b"1"), hardlink("b", "a"), file("c", b"1")];
    let otherwise = [file("a", b"1"), file("b", b"1"), hardlink("c", "b")];
    assert_diff(&[], &apart, &linked, "M /a  links\nM /b  links\n");
    assert_diff(&[], &linked, &otherwise, "M /a  links\nM /b  links\nM /c  links\n");
    assert_diff(&[], &linked, &linked[..2], "D /c\n");
    assert_diff(&[], &linked, &linked, "");
}

/// All names of a file were compared with all names of the other file, once for each name, which took quadratic
/// time.
#[test]
fn x11_many_names_of_one_file_are_compared_in_linear_time() {
    let image = |last: &str| {
        let links = (0..20_000).map(|n| hardlink(format!("{n}"), "file"));
        [file("file", b"1")].into_iter().chain(links).chain([hardlink(last, "file")]).collect::<Vec<_>>()
    };
    let (a, b) = (image("a"), image("b"));
    let imgmount = Imgmount::new();
    let images = two(&imgmount, &a, &b);
    let out = diff(&imgmount, &[], &images).expect(1);
    // Each name of the file has changed links, and one name was replaced.
    assert_eq!(out.lines().len(), 20_001 + 2);
    assert_eq!(diff(&imgmount, &[], &(images.0.clone(), images.0)).expect(0).text(), "");
}

#[test]
fn holes_are_zeros_and_no_difference() {
    let stored = [vec![0; 5000], b"x".to_vec(), vec![0; 4999]].concat();
    let hollow = sparse("x", 10_000, &[(5000, b"x")]);
    assert_diff(&[], std::slice::from_ref(&hollow), &[file("x", &stored)], "");
    assert_diff(&[], &[hollow], &[sparse("x", 10_000, &[(5000, b"y")])], "M /x  content\n");
}

#[test]
fn bytes_decide_across_spans_and_compressions() {
    let imgmount = Imgmount::new();
    let content = patterned(3_500_000, 1);
    let mut late = content.clone();
    late[3_400_000] ^= 1;
    let image = |bytes: &[u8], compression| {
        let items = [file("before", patterned(1_000, 2)), file("large", bytes)];
        oci(&[Image::named("a:1").layer_as("ADD", &items, "", compression)])
    };
    let write = |name, bytes: &[u8], compression| imgmount.write(name, &tar(&image(bytes, compression)));
    let plain = write("plain.tar", &content, Compression::Plain);
    let gzip = write("gzip.tar", &content, Compression::Gzip(6));
    let other = write("other.tar", &late, Compression::Gzip(6));
    assert_eq!(diff(&imgmount, &[], &(plain.clone(), gzip)).expect(0).text(), "");
    assert_eq!(diff(&imgmount, &[], &(plain, other)).expect(1).text(), "M /large  content\n");
}

#[test]
fn names_are_bytes_and_escaped_on_their_way_out() {
    let b = [file(b"caf\xe9", b"1"), file("red\x1b[31m", b"1"), file("line\nfeed", b"1")];
    assert_diff(&[], &[], &b, "A /caf\\xe9\nA /line\\x0afeed\nA /red\\x1b[31m\n");
}

#[test]
fn what_is_ignored_is_left_out_with_all_below_it() {
    let b = [
        dir("var"),
        dir("var/cache"),
        file("var/cache/x", b"1"),
        file("var/a.log", b"1"),
        file("b.log", b"1"),
    ];
    assert_diff(&["--ignore", "/var/cache"], &[], &b, "A /b.log\nA /var\nA /var/a.log\n");
    assert_diff(&["--ignore", "*.log", "--ignore", "/var/c*"], &[], &b, "A /var\n");
    assert_diff(&["--ignore", "**"], &[], &b, "");
}

/// Makes an image whose second layer makes every kind of change to the first.
fn story() -> Image {
    let base = [
        file("chmod", b"1"),
        dir("gone"),
        file("gone/f", b"12345"),
        dir("hidden"),
        file("hidden/old", b"1"),
        file("text", b"one\ntwo\nthree\n"),
        file("touched", b"1"),
    ];
    let second = [
        file("chmod", b"1").mode(0o600),
        whiteout("gone"),
        opaque("hidden"),
        file("hidden/new", b"123"),
        file("text", b"one\n2\nthree\n"),
        file("touched", b"1").mtime(1, 0),
    ];
    let third = [file("gone", b"a file now")];
    Image::named("a:1").layer("ADD base", &base).layer("RUN second", &second).layer("RUN third", &third)
}

#[test]
fn two_states_of_one_image_are_compared_without_a_second_name() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, "a.tar", story());
    let diff = |options: &[&str]| run(imgmount.command(&["diff"]).args(options).arg(&image));
    let second = "M /chmod  mode\nD /gone\nD /gone/f\nA /hidden/new\nD /hidden/old\nM /text  content\n";
    assert_eq!(diff(&["--a-upto", "0", "--b-upto", "1"]).expect(1).text(), second);
    assert_eq!(diff(&["--a-upto", "1"]).expect(1).text(), "A /gone\n");
    assert_eq!(diff(&["--upto", "1", "--a-layer", "2", "--only", "d"]).expect(1).text(), "D /gone\n");
    assert_eq!(diff(&["--a-upto", "2"]).expect(0).text(), "");
    diff(&[]).expect(2).says("no second image");
    diff(&["--a-upto", "3"]).expect(2).says("no such layer");
    diff(&["--a-upto", "1", "--a-layer", "1"]).expect(2);
}

#[test]
fn upto_and_layer_hold_for_both_images() {
    let imgmount = Imgmount::new();
    let images = (write(&imgmount, "a.tar", story()), write(&imgmount, "b.tar", story()));
    assert_eq!(diff(&imgmount, &["--upto", "1"], &images).expect(0).text(), "");
    let other = Image::named("a:1").layer("ADD base", &[]).layer("RUN second", &[file("gone", b"1")]);
    let images = (images.0, write(&imgmount, "b.tar", other));
    assert_eq!(diff(&imgmount, &["--layer", "1", "--only", "a"], &images).expect(1).text(), "A /gone\n");
}

#[test]
fn standard_input_can_be_compared_with_itself() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, "a.tar", story());
    let mut command = imgmount.command(&["diff", "--a-upto", "1", "-"]);
    let out = run(command.stdin(fs::File::open(image).unwrap())).expect(1);
    assert_eq!(out.text(), "A /gone\n");
}

#[test]
fn shared_layers_are_not_read_from_the_second_image() {
    let imgmount = Imgmount::new();
    let a = write(&imgmount, "a.tar", story());
    let b = imgmount.dir().join("b.tar");
    // A damaged copy of a layer that the first image has undamaged: the copy is not read.
    let mut bytes = fs::read(&a).unwrap();
    let at = bytes.windows(14).position(|window| window == b"one\ntwo\nthree\n").unwrap();
    bytes[at] = b'X';
    fs::write(&b, bytes).unwrap();
    let options = ["--no-cache", "--only", "a,d,m"];
    assert_eq!(diff(&imgmount, &options, &(a.clone(), b.clone())).expect(0).text(), "");
    diff(&imgmount, &options, &(b, a)).expect(2).says("does not match");
}

/// Layers are shared by diff_id, which the config names. A manifest of the second image with a wrong
/// digest and size of the blob was not checked, and `diff` gave a result for an image that cannot be
/// opened.
#[test]
fn f20_a_shared_layer_is_shared_once_its_own_manifest_is_found_right() {
    let imgmount = Imgmount::new();
    let items = [file("f", b"content"), file("g", vec![0; 4096])];
    let packed = |compression| Image::named("a:1").layer_as("COPY", &items, "", compression);
    let (gzip, zstd) = (packed(Compression::Gzip(6)), packed(Compression::Zstd));
    let write = |name: &str, items: &[Item]| imgmount.write(name, &tar(items));
    let good = write("good.tar", &skopeo_dir(&gzip));
    // The same layer in another compression.
    let other = write("other.tar", &skopeo_dir(&zstd));
    for options in [&["--no-cache"][..], &[]] {
        assert_eq!(diff(&imgmount, options, &(good.clone(), other.clone())).expect(0).text(), "");
    }

    let blob = &gzip.layers[0].blob;
    let (digest, wrong) = (sha256_hex(blob), sha256_hex(b"another blob"));
    let size = |len: usize| format!("\"size\":{len}");
    let manifest = String::from_utf8(gzip.manifest()).unwrap();
    let wrong_digest = (wrong.as_str(), manifest.replace(&digest, &wrong), "blob digest does not match");
    let wrong_size = size(blob.len() + 1);
    let wrong_size =
        (digest.as_str(), manifest.replace(&size(blob.len()), &wrong_size), "size does not match");
    for (blob_name, manifest, why) in [wrong_digest, wrong_size] {
        let mut items = skopeo_dir(&gzip);
        items.retain(|item| item.name != b"manifest.json" && item.name != digest.as_bytes());
        items.extend([file("manifest.json", manifest), file(blob_name, blob)]);
        let bad = write("bad.tar", &items);
        for options in [&["--no-cache"][..], &[]] {
            diff(&imgmount, options, &(good.clone(), bad.clone())).expect(2).says("layer 0").says(why);
        }
    }
}

#[test]
fn unified_shows_what_changed_within_texts() {
    let text = |lines: &[u8]| [file("text", lines)];
    let expected = "M /text  content\n--- a/text\n+++ b/text\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
    assert_diff(&["-u"], &text(b"one\ntwo\nthree\n"), &text(b"one\n2\nthree\n"), expected);
    let expected = "M /text  content\nBinary files a/text and b/text differ\n";
    assert_diff(&["-u"], &text(b"\0"), &text(b"1"), expected);
    let large = vec![b'\n'; (1 << 20) + 1];
    let expected =
        "M /text  content\nFiles a/text and b/text differ, and are too large to compare by lines\n";
    assert_diff(&["-u"], &text(&large), &text(b"1"), expected);
    assert_diff(&["-u"], &[], &text(b"1"), "A /text\n");
}

#[test]
fn unified_is_what_patch_takes() {
    let imgmount = Imgmount::new();
    if !crate::mounted::have(&[crate::mounted::Need::Program("patch")]) {
        return;
    }
    let (a, b) = (b"one\ntwo\n\xff\r\n".as_slice(), b"zero\none\n\xff\r\nlast".as_slice());
    let images = two(&imgmount, &[file("text", a)], &[file("text", b)]);
    let out = diff(&imgmount, &["-u"], &images).expect(1);
    let copy = imgmount.write("text", a);
    let patch = imgmount.write("changes", &out.stdout);
    let mut command = std::process::Command::new("patch");
    run(command.args(["--binary", "-p1", "-d"]).arg(imgmount.dir()).arg("-i").arg(patch)).expect(0);
    assert_eq!(fs::read(copy).unwrap(), b);
}

#[test]
fn stat_counts_by_kind_and_by_directory() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, "a.tar", story());
    let diff = |options: &[&str]| {
        run(imgmount.command(&["diff", "--a-upto", "0", "--stat"]).args(options).arg(&image))
    };
    let expected = "          PATHS  A BYTES  B BYTES
added         1        0        3
deleted       2        6        0
modified      3       15       23
total         6       21       26

DIRECTORY  ADDED  DELETED  MODIFIED  A BYTES  B BYTES
/              0        0         3       15       23
/gone          0        1         0        5        0
/hidden        1        1         0        1        3
";
    assert_eq!(diff(&[]).expect(1).text(), expected);
    let out = diff(&["--json"]).expect(1);
    let amount = |paths: u64, a: u64, b: u64| json!({"paths": paths, "a_size": a, "b_size": b});
    let none = amount(0, 0, 0);
    let expected = json!({
        "added": amount(1, 0, 3), "deleted": amount(2, 6, 0), "modified": amount(3, 15, 23),
        "directories": [
            {"path": "/", "added": none, "deleted": none, "modified": amount(3, 15, 23)},
            {"path": "/gone", "added": none, "deleted": amount(1, 5, 0), "modified": none},
            {"path": "/hidden", "added": amount(1, 0, 3), "deleted": amount(1, 1, 0), "modified": none},
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(out.text()).unwrap(), expected);
    assert_eq!(run(imgmount.command(&["diff", "--a-upto", "2", "--stat"]).arg(&image)).expect(0).text(), "");
}

#[test]
fn json_has_both_entries() {
    let imgmount = Imgmount::new();
    let a = [file("x", b"1"), file("d", b"1")];
    let b = [file("x", b"22").mode(0o600), file(b"caf\xe9", b"1")];
    let images = two(&imgmount, &a, &b);
    let out = diff(&imgmount, &["--json"], &images).expect(1);
    let lines: Vec<Value> = out.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let entry = |image: &[Item], path: &str, mode: &str, size: u64| {
        json!({
            "path": path, "type": "file", "mode": mode, "uid": 0, "gid": 0, "size": size,
            "mtime": "2023-11-14T22:13:20.000000000Z", "nlink": 1, "target": null, "rdev": null, "xattrs": {},
            "layer": 0, "diff_id": Image::named("a:1").layer("", image).layers[0].diff_id(),
        })
    };
    let mut latin = entry(&b, "/caf\u{fffd}", "0644", 1);
    latin["path_b64"] = json!("L2NhZuk=");
    let expected = [
        json!({"change": "added", "path": "/caf\u{fffd}", "path_b64": "L2NhZuk=", "fields": [], "a": null, "b": latin}),
        json!({"change": "deleted", "path": "/d", "fields": [], "a": entry(&a, "/d", "0644", 1), "b": null}),
        json!({"change": "modified", "path": "/x", "fields": ["content", "mode"],
            "a": entry(&a, "/x", "0644", 1), "b": entry(&b, "/x", "0600", 2)}),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn formats_that_exclude_each_other_are_wrong_usage() {
    let imgmount = Imgmount::new();
    let images = two(&imgmount, &[], &[]);
    for options in [&["-u", "--json"][..], &["-u", "--stat"], &["--html", "x", "--json"], &["--only", "x"]] {
        diff(&imgmount, options, &images).expect(2);
    }
}
