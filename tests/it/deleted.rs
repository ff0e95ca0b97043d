//! Tests `imgmount deleted`: it lists files that no container sees, and every listed file can be read.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::{
    Image, Layer, dir, docker_legacy, file, hardlink, opaque, sparse, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Run, run};

fn image() -> Image {
    let base = [
        dir("d"),
        file("d/one", b"one"),
        file("d/two", b"two2"),
        dir("hidden"),
        file("hidden/file", b"hidden"),
        file("hidden/kept", b"old"),
        dir("replaced"),
        file("replaced/file", b"was in a directory"),
        file("secret", b"hunter2"),
        sparse("sparse", 1_000_000, &[(4096, b"in the middle")]),
        symlink("link", "secret"),
        file("versions", b"1"),
        file(b"caf\xe9", b"latin"),
    ];
    let second = [
        whiteout("d"),
        opaque("hidden"),
        file("hidden/kept", b"new"),
        file("replaced", b"now a file"),
        whiteout("secret"),
        whiteout("sparse"),
        whiteout("link"),
        file("versions", b"22"),
    ];
    let third = [file("secret", b"again"), whiteout("versions"), file(b".wh.caf\xe9", b"")];
    let fourth = [whiteout("secret")];
    Image::named("a:1")
        .layer("ADD base", &base)
        .layer("RUN second", &second)
        .layer("RUN third", &third)
        .layer("RUN fourth", &fourth)
}

fn write(imgmount: &Imgmount, image: Image) -> PathBuf {
    imgmount.write("image.tar", &tar(&docker_legacy(&[image])))
}

fn objects(run: &Run) -> Vec<Value> {
    run.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn deleted_files_are_listed_by_the_layers_that_removed_them() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, image());
    let out = run(imgmount.command(&["deleted"]).arg(&image)).expect(0);
    let expected = "\
removed by layer 1: RUN second
     from layer 0: ADD base
        3  /d/one
        4  /d/two
        6  /hidden/file
        6  /link
       18  /replaced/file
        7  /secret
  1000000  /sparse

removed by layer 2: RUN third
     from layer 0: ADD base
        5  /caf\\xe9

removed by layer 2: RUN third
     from layer 1: RUN second
        2  /versions

removed by layer 3: RUN fourth
     from layer 2: RUN third
        5  /secret
";
    assert_eq!(out.text(), expected);
}

#[test]
fn overwritten_adds_every_earlier_version() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, image());
    let list = |options: &[&str]| -> Vec<String> {
        let out = run(imgmount.command(&["deleted", "--json"]).args(options).arg(&image)).expect(0);
        let line = |one: &Value| {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            format!("{} {} {}", text(&one["path"]), one["had_by"]["layer"], text(&one["how"]))
        };
        objects(&out).iter().map(line).collect()
    };
    let (deleted, all) = (list(&[]), list(&["--overwritten"]));
    let more: Vec<_> = all.iter().filter(|line| !deleted.contains(line)).collect();
    assert_eq!(more, ["/hidden/kept 0 overwritten", "/versions 0 overwritten"]);
    assert_eq!(all.len(), deleted.len() + more.len());
}

#[test]
fn json_tells_both_layers() {
    let imgmount = Imgmount::new();
    let path = write(&imgmount, image());
    let out = run(imgmount.command(&["deleted", "--json"]).arg(&path)).expect(0);
    let diff_ids: Vec<_> = image().layers.iter().map(Layer::diff_id).collect();
    let expected = json!({
        "path": "/d/one", "type": "file", "mode": "0644", "uid": 0, "gid": 0, "size": 3,
        "mtime": "2023-11-14T22:13:20.000000000Z", "target": null, "rdev": null, "xattrs": {},
        "layer": 0, "diff_id": diff_ids[0], "how": "deleted", "by": "/d",
        "had_by": {"layer": 0, "diff_id": diff_ids[0], "created_by": "ADD base"},
        "removed_by": {"layer": 1, "diff_id": diff_ids[1], "created_by": "RUN second"},
    });
    let found = objects(&out);
    assert_eq!(found.iter().find(|one| one["path"] == "/d/one"), Some(&expected));
    let how = |path: &str| {
        let one = found.iter().find(|one| one["path"] == path).unwrap();
        (one["how"].as_str().unwrap(), one["by"].as_str().unwrap())
    };
    assert_eq!(how("/hidden/file"), ("hidden-opaque", "/hidden"));
    assert_eq!(how("/replaced/file"), ("hidden-replaced", "/replaced"));
    assert!(found.iter().any(|one| one["path_b64"] == "L2NhZuk="));
}

fn cat(imgmount: &Imgmount, options: &[String], image: &Path, path: &str) -> Vec<u8> {
    let mut reference = image.as_os_str().to_owned();
    reference.push(":");
    reference.push(path);
    run(imgmount.command(&["cat"]).args(options).arg(reference)).expect(0).stdout
}

#[test]
fn every_deleted_and_overwritten_file_can_be_read_with_cat() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, image());
    let out = run(imgmount.command(&["deleted", "--json", "--overwritten"]).arg(&image)).expect(0);
    let mut read = Vec::new();
    for one in objects(&out).iter().filter(|one| one["type"] == "file" && one["path_b64"].is_null()) {
        let path = one["path"].as_str().unwrap();
        let (had, removed) = (&one["had_by"]["layer"], one["removed_by"]["layer"].as_u64().unwrap());
        let content = cat(&imgmount, &["--layer".into(), had.to_string()], &image, path);
        assert_eq!(content.len() as u64, one["size"].as_u64().unwrap(), "{path}");
        let before = cat(&imgmount, &["--upto".into(), (removed - 1).to_string()], &image, path);
        assert!(content == before, "{path}");
        if content.len() < 100 {
            read.push(format!("{path} {had} {}", String::from_utf8(content).unwrap()));
        }
    }
    let expected = [
        "/d/one 0 one",
        "/d/two 0 two2",
        "/hidden/file 0 hidden",
        "/hidden/kept 0 old",
        "/replaced/file 0 was in a directory",
        "/secret 0 hunter2",
        "/secret 2 again",
        "/versions 0 1",
        "/versions 1 22",
    ];
    assert_eq!(read, expected);
}

#[test]
fn a_link_to_a_lower_layer_is_read_in_the_state_before_it_was_removed() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1")
        .layer("ADD", &[file("a", b"shared")])
        .layer("RUN ln", &[hardlink("b", "a")])
        .layer("RUN rm", &[whiteout("b")]);
    let image = write(&imgmount, image);
    let out = run(imgmount.command(&["deleted", "--json"]).arg(&image)).expect(0);
    let [lost] = &objects(&out)[..] else { panic!("{}", out.text()) };
    assert_eq!(
        (&lost["path"], &lost["had_by"]["layer"], &lost["layer"]),
        (&json!("/b"), &json!(1), &json!(0))
    );
    assert_eq!(cat(&imgmount, &["--upto".into(), "1".into()], &image, "/b"), b"shared");
}

#[test]
fn nothing_deleted_is_nothing_printed() {
    let imgmount = Imgmount::new();
    let image = write(&imgmount, Image::named("a:1").layer("ADD", &[file("a", b"1"), whiteout("never-was")]));
    assert_eq!(run(imgmount.command(&["deleted"]).arg(&image)).expect(0).text(), "");
}
