//! Tests `verify` with every kind of damage.

use std::path::PathBuf;

use serde_json::Value;

use crate::fixture::{
    Compression, Image, Item, Kind, dir, docker_legacy, file, oci, oci_nested, patterned, sha256_hex,
    skopeo_dir, tar, write_dir,
};
use crate::mounted::{Imgmount, run};

fn image() -> Image {
    Image::named("a:1")
        .layer_as("COPY first", &[dir("d"), file("d/a", patterned(20_000, 1))], "", Compression::Gzip(6))
        .layer_as("RUN second", &[file("d/b", patterned(20_000, 2))], "", Compression::Zstd)
        .layer("RUN third", &[file("d/c", b"3")])
}

/// Returns the item of a layout that contains `bytes`, so that a test can damage it.
fn blob<'a>(items: &'a mut [Item], bytes: &[u8]) -> &'a mut Vec<u8> {
    let hex = sha256_hex(bytes);
    let found = items.iter_mut().find(|item| item.name.ends_with(hex.as_bytes())).unwrap();
    let Kind::File(content) = &mut found.kind else { panic!("a blob is a file") };
    content
}

fn remove(items: &mut Vec<Item>, bytes: &[u8]) {
    let hex = sha256_hex(bytes);
    items.retain(|item| !item.name.ends_with(hex.as_bytes()));
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    *bytes = text.replacen(from, to, 1).into_bytes();
}

/// Returns the failed checks, such as `mismatch layer 1 digest`, and asserts the exit code.
fn faults(items: &[Item], code: i32) -> Vec<String> {
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &tar(items));
    let out = run(imgmount.command(&["verify", "--json"]).arg(image)).expect(code);
    let objects = out.lines().into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let said = objects.map(|item| {
        let field = |name: &str| item[name].as_str().unwrap_or_default().to_owned();
        let number = item["layer"].as_u64().map(|number| format!(" {number}")).unwrap_or_default();
        format!("{} {}{number} {}", field("status"), field("item"), field("check"))
    });
    said.filter(|line| !line.starts_with("ok ")).collect()
}

fn damaged(damage: impl FnOnce(&mut Vec<Item>, &Image)) -> Vec<String> {
    let image = image();
    let mut items = oci(std::slice::from_ref(&image));
    damage(&mut items, &image);
    faults(&items, 1)
}

#[test]
fn a_sound_image_is_told_promise_by_promise() {
    let image = image();
    let items = oci_nested("a:1", std::slice::from_ref(&image), 1);
    let Kind::File(index_json) = &items.iter().find(|item| item.name == b"index.json").unwrap().kind else {
        panic!("index.json is a file")
    };
    let top: Value = serde_json::from_slice(index_json).unwrap();
    let top = &top["manifests"][0];
    let mut expected = format!(
        "ok        image index  size       {}\nok        image index  digest     {}\n",
        top["size"],
        top["digest"].as_str().unwrap()
    );
    for (name, bytes) in [("manifest", image.manifest()), ("config", image.config())] {
        expected += &format!("ok        {name:<11}  size       {}\n", bytes.len());
        expected += &format!("ok        {name:<11}  digest     sha256:{}\n", sha256_hex(&bytes));
    }
    for (number, layer) in image.layers.iter().enumerate() {
        expected += &format!("ok        layer {number}      size       {}\n", layer.blob.len());
        expected += &format!("ok        layer {number}      digest     sha256:{}\n", sha256_hex(&layer.blob));
        expected += &format!("ok        layer {number}      diff_id    {}\n", layer.diff_id());
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&items));
    let out = run(imgmount.command(&["verify"]).arg(path)).expect(0);
    assert_eq!(out.text(), expected);
    assert!(!imgmount.cache().exists(), "nothing is kept");
}

#[test]
fn every_form_of_a_sound_image_is_sound() {
    let imgmount = Imgmount::new();
    let layout = imgmount.dir().join("layout");
    write_dir(&oci(&[image()]), &layout);
    let skopeo = imgmount.dir().join("skopeo");
    write_dir(&skopeo_dir(&image()), &skopeo);
    let docker = tar(&docker_legacy(&[image()]));
    let compressed = imgmount.write("docker.tar.zst", &Compression::Zstd.compress(&docker));
    let docker = imgmount.write("docker.tar", &docker);
    for (path, lines) in [(layout, 13), (skopeo, 11), (docker, 4), (compressed, 4)] {
        let out = run(imgmount.command(&["verify"]).arg(&path)).expect(0);
        let ok = out.lines().iter().filter(|line| line.starts_with("ok ")).count();
        assert_eq!((ok, out.lines().len()), (lines, lines), "{}", path.display());
    }
}

#[test]
fn damage_in_a_layer_is_told_of_that_layer_alone() {
    for (number, tell) in [(0, 10), (1, 10)] {
        let found = damaged(|items, image| {
            let blob = blob(items, &image.layers[number].blob);
            let middle = blob.len() / 2;
            blob[middle] ^= tell;
        });
        let digest = format!("mismatch layer {number} digest");
        assert_eq!(found, [digest, format!("mismatch layer {number} diff_id")]);
    }
}

#[test]
fn a_layer_that_cannot_be_decoded_says_why() {
    let image = image();
    let mut items = oci(std::slice::from_ref(&image));
    blob(&mut items, &image.layers[0].blob).truncate(100);
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&items));
    let out = run(imgmount.command(&["verify"]).arg(path)).expect(1);
    let lines: Vec<_> = out.lines().into_iter().filter(|line| line.contains("layer 0")).collect();
    let (blob, diff_id) = (&image.layers[0].blob, image.layers[0].diff_id());
    assert_eq!(lines[0], format!("mismatch  layer 0      size       {}  found 100", blob.len()));
    let (promised, found) = (sha256_hex(blob), sha256_hex(&blob[..100]));
    assert_eq!(
        lines[1],
        format!("mismatch  layer 0      digest     sha256:{promised}  found sha256:{found}")
    );
    let why = format!(
        "mismatch  layer 0      diff_id    {diff_id}  layer 0: damaged gzip data at compressed offset"
    );
    assert!(lines[2].starts_with(&why), "{}", lines[2]);
}

#[test]
fn a_blob_that_is_the_promised_one_can_still_hold_another_tar() {
    let mut other = image();
    other.layers[0].tar = b"what the config is made from".to_vec();
    let items = oci(std::slice::from_ref(&other));
    assert_eq!(faults(&items, 1), ["mismatch layer 0 diff_id"]);
}

/// An image whose config was made from a broken tar has matching digests. It cannot be mounted, but
/// `verify` reported no mismatch.
#[test]
fn a_layer_with_the_right_digests_must_hold_a_tar_that_can_be_read() {
    let imgmount = Imgmount::new();
    for compression in [Compression::Plain, Compression::Gzip(6), Compression::Zstd] {
        let mut stream = tar(&[file("a", b"1"), file("b", b"2")]);
        // One bit of the second header is flipped, so its checksum is wrong.
        stream[1024 + 50] ^= 1;
        let image = image().layer_of_tar("RUN broken", stream, compression);
        for (name, items) in
            [("oci.tar", oci(std::slice::from_ref(&image))), ("docker.tar", docker_legacy(&[image]))]
        {
            let path = imgmount.write(name, &tar(&items));
            let refused = run(imgmount.command(&["ls"]).arg(&path)).expect(2);
            assert!(refused.stderr.contains("at offset 1024: "), "{}", refused.stderr);
            let out = run(imgmount.command(&["verify"]).arg(&path)).expect(1);
            let bad: Vec<_> = out.lines().into_iter().filter(|line| !line.starts_with("ok ")).collect();
            assert_eq!(
                bad,
                [
                    "mismatch  layer 3      tar        layer 3: entry at offset 1024: the header checksum does not match"
                ]
            );
        }
    }
    let cut = tar(&[file("a", b"1"), file("b", b"2")])[..1500].to_vec();
    let cut = image().layer_of_tar("RUN cut", cut, Compression::Gzip(6));
    assert_eq!(faults(&oci(&[cut]), 1), ["mismatch layer 3 tar"]);
    // Header faults in damaged bytes follow from the damage.
    let damaged = damaged(|items, image| blob(items, &image.layers[2].blob)[0] ^= 1);
    assert_eq!(damaged, ["mismatch layer 2 digest", "mismatch layer 2 diff_id"]);
}

#[test]
fn what_is_missing_is_told_once_and_the_rest_is_checked() {
    let found = damaged(|items, image| remove(items, &image.layers[1].blob));
    assert_eq!(found, ["missing layer 1 digest"]);
    let found = damaged(|items, image| {
        remove(items, &image.config());
        blob(items, &image.layers[2].blob)[700] ^= 1;
    });
    assert_eq!(found, ["missing config digest", "mismatch layer 2 digest"]);
    let found = damaged(|items, image| remove(items, &image.manifest()));
    assert_eq!(found, ["missing manifest digest"]);
}

#[test]
fn damaged_documents_are_followed_as_far_as_they_can_be_read() {
    let found = damaged(|items, image| {
        replace(blob(items, &image.config()), "amd64", "amd46");
        blob(items, &image.layers[0].blob)[50] ^= 1;
    });
    assert_eq!(found[..2], ["mismatch config digest", "mismatch layer 0 digest"]);
    let found = damaged(|items, image| blob(items, &image.manifest()).push(b'\n'));
    assert_eq!(found, ["mismatch manifest size", "mismatch manifest digest"]);
    let found = damaged(|items, image| blob(items, &image.manifest()).fill(b'x'));
    assert_eq!(found, ["mismatch manifest digest"]);
    let found = damaged(|items, image| blob(items, &image.config()).fill(b'x'));
    assert_eq!(found, ["mismatch config digest"]);
}

#[test]
fn a_docker_archive_promises_its_config_and_its_tars() {
    let image = image();
    let archive = |damage: &dyn Fn(&mut Vec<Item>)| {
        let mut items = docker_legacy(std::slice::from_ref(&image));
        damage(&mut items);
        faults(&items, 1)
    };
    let layers = |items: &mut Vec<Item>| -> Vec<usize> {
        let is_layer = |item: &Item| item.name.ends_with(b"layer.tar");
        items.iter().enumerate().filter(|(_, item)| is_layer(item)).map(|(at, _)| at).collect()
    };
    let flipped = archive(&|items| {
        let at = layers(items)[2];
        let Kind::File(tar) = &mut items[at].kind else { panic!("a layer is a file") };
        tar[700] ^= 1;
    });
    assert_eq!(flipped, ["mismatch layer 2 diff_id"]);
    let missing = archive(&|items| {
        let at = layers(items)[1];
        items.remove(at);
    });
    assert_eq!(missing, ["missing layer 1 diff_id"]);
    let config = format!("{}.json", sha256_hex(&image.config()));
    let changed = archive(&|items| {
        let item = items.iter_mut().find(|item| item.name == config.as_bytes()).unwrap();
        let Kind::File(bytes) = &mut item.kind else { panic!("a config is a file") };
        replace(bytes, "amd64", "amd46");
    });
    assert_eq!(changed, ["mismatch config digest"]);
    let gone = archive(&|items| items.retain(|item| item.name != config.as_bytes()));
    assert_eq!(gone, ["missing config digest"]);
}

#[test]
fn the_index_store_is_not_believed() {
    let imgmount = Imgmount::new();
    let image = image();
    let mut items = oci(std::slice::from_ref(&image));
    let path = imgmount.write("image.tar", &tar(&items));
    run(imgmount.command(&["ls"]).arg(&path)).expect(0);
    blob(&mut items, &image.layers[0].blob)[50] ^= 1;
    imgmount.write("image.tar", &tar(&items));
    run(imgmount.command(&["ls"]).arg(&path)).expect(0);
    run(imgmount.command(&["verify"]).arg(&path)).expect(1);
}

#[test]
fn what_cannot_be_opened_at_all_has_no_verdict() {
    let imgmount = Imgmount::new();
    let none = |path: PathBuf| {
        let out = run(imgmount.command(&["verify"]).arg(path)).expect(2);
        assert_eq!(out.text(), "");
    };
    none(imgmount.dir().join("absent.tar"));
    none(imgmount.write("text", b"no image at all, but long enough to be looked at"));
    let mut other = image();
    other.names = vec!["b:1".to_owned()];
    other.layers.pop();
    none(imgmount.write("two.tar", &tar(&oci(&[image(), other]))));
}
