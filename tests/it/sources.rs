//! Tests every form of image that the command line reaches, named after the rows of docs/formats.md.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::fixture::{
    Compression, Image, Item, Kind, dir, docker_legacy, docker_modern, file, oci, oci_nested, podman,
    sample_tree, skopeo_dir, symlink, tar, tar_prefixed, write_dir,
};
use crate::mounted::{Imgmount, Need, Run, have, run};
use crate::tree::Snapshot;

fn sample() -> Image {
    Image::sample("./", Compression::Gzip(6))
}

/// Makes an image with one file, `name`, that contains `content`.
fn small(reference: &str, name: &str, content: &str) -> Image {
    Image::named(reference).layer("COPY", &[file(name, content)])
}

/// Mounts `reference` and compares the whole tree with the sample.
#[track_caller]
fn shows_sample(imgmount: &Imgmount, reference: impl Into<OsString>) {
    if !have(&[Need::Fuse]) {
        return;
    }
    let reference = reference.into();
    let mounted = imgmount.mount(&reference, &[]);
    let about = format!("{}", reference.display());
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), &about);
}

fn prefixed(transport: &str, path: &Path) -> OsString {
    let mut reference = OsString::from(transport);
    reference.push(path);
    reference
}

/// Returns `path` followed by a selector.
fn selected(path: &Path, selector: &str) -> OsString {
    let mut reference = path.as_os_str().to_owned();
    reference.push(selector);
    reference
}

/// Runs `ls` on a docker-archive with these members.
fn ls(items: &[Item], options: &[&str]) -> Run {
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(items));
    let mut command = imgmount.command(&["ls"]);
    run(command.arg(path).args(options))
}

#[track_caller]
fn replace(items: &mut [Item], name: &str, change: impl FnOnce(String) -> String) {
    let item = items.iter_mut().find(|item| item.name == name.as_bytes()).unwrap();
    let Kind::File(content) = &mut item.kind else { panic!("{name} is no file") };
    *content = change(String::from_utf8(content.clone()).unwrap()).into_bytes();
}

#[test]
fn f1_docker_save_of_old() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[sample()])));
    shows_sample(&imgmount, &path);
    shows_sample(&imgmount, prefixed("docker-archive:", &path));
    shows_sample(&imgmount, prefixed("docker-archive://", &path));
}

#[test]
fn f1_a_layer_that_comes_again_is_a_symlink_in_the_archive() {
    let again = [file("etc/a", b"1")];
    let other = [file("etc/a", b"2")];
    let image = Image::named("a:1").layer("A", &again).layer("B", &other).layer("C", &again);
    let items = docker_legacy(&[image]);
    assert_eq!(items.iter().filter(|item| matches!(item.kind, Kind::Symlink(_))).count(), 1);
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&items));
    let out = run(imgmount.command(&["cat"]).arg(selected(&path, ":/etc/a"))).expect(0);
    assert_eq!(out.text(), "1");
}

#[test]
fn f1_a_cycle_of_symlinks_in_the_archive_is_refused() {
    let mut items = docker_legacy(&[small("a:1", "f", "1")]);
    let layer = items.iter_mut().find(|item| item.name.ends_with(b"/layer.tar")).unwrap();
    layer.kind = Kind::Symlink(b"layer.tar".to_vec());
    ls(&items, &[]).expect(2).says("layer.tar");
}

#[test]
fn f3_docker_save_of_today() {
    let imgmount = Imgmount::new();
    let image = Image::sample("", Compression::Plain);
    let path = imgmount.write("image.tar", &tar(&docker_modern(&[image])));
    shows_sample(&imgmount, &path);
    shows_sample(&imgmount, prefixed("docker-archive:", &path));
    shows_sample(&imgmount, prefixed("oci-archive:", &path));
}

#[test]
fn f3_manifest_json_and_index_json_must_name_one_config() {
    let mut items = docker_modern(&[small("a:1", "f", "1")]);
    let other = small("b:1", "g", "2");
    let other_config = format!("blobs/sha256/{}", crate::fixture::sha256_hex(&other.config()));
    items.push(file(&other_config, other.config()));
    let own = small("a:1", "f", "1");
    let own_config = format!("blobs/sha256/{}", crate::fixture::sha256_hex(&own.config()));
    replace(&mut items, "manifest.json", |text| text.replace(&own_config, &other_config));
    ls(&items, &[]).expect(2).says("config");
}

#[test]
fn f4_blobs_of_other_platforms_may_be_absent() {
    let here = small("a:1", "here", "1");
    let absent = small("a:1", "there", "2").for_architecture("s390x", None);
    let mut items = oci_nested("a:1", &[here, absent.clone()], 1);
    let gone: Vec<String> = [absent.manifest(), absent.config(), absent.layers[0].blob.clone()]
        .iter()
        .map(|blob| format!("blobs/sha256/{}", crate::fixture::sha256_hex(blob)))
        .collect();
    items.retain(|item| !gone.iter().any(|name| item.name == name.as_bytes()));
    assert_eq!(ls(&items, &["--platform", "linux/amd64"]).expect(0).text(), "here\n");
    ls(&items, &["--platform", "linux/s390x"]).expect(2).says("missing");
}

#[test]
fn f5_podman_save() {
    let imgmount = Imgmount::new();
    let image = Image::sample("", Compression::Plain);
    let path = imgmount.write("image.tar", &tar(&podman(&[image])));
    shows_sample(&imgmount, path);
}

#[test]
fn f5_several_images_are_listed_and_selected() {
    let images = [small("example.com/a:1", "in-a", ""), small("example.com/b:2", "in-b", "")];
    let imgmount = Imgmount::new();
    for (form, items) in
        [("podman", podman(&images)), ("docker", docker_modern(&images)), ("oci", oci(&images))]
    {
        let path = imgmount.write(&format!("{form}.tar"), &tar(&items));
        let listed = run(imgmount.command(&["ls"]).arg(&path)).expect(2);
        listed.says("example.com/a:1").says("example.com/b:2");
        for (selector, shown) in [(":example.com/b:2", "in-b\n"), ("@0", "in-a\n"), ("@1", "in-b\n")] {
            let out = run(imgmount.command(&["ls"]).arg(selected(&path, selector))).expect(0);
            assert_eq!(out.text(), shown, "{form}, {selector}");
        }
        run(imgmount.command(&["ls"]).arg(selected(&path, ":example.com/c:3")))
            .expect(2)
            .says("example.com/a:1");
        run(imgmount.command(&["ls"]).arg(selected(&path, "@2"))).expect(2);
    }
}

#[test]
fn f6_layers_are_sniffed_whatever_their_names() {
    let image = Image::sample("./", Compression::Gzip(9));
    let mut items = podman(std::slice::from_ref(&image));
    let config = crate::fixture::sha256_hex(&image.config());
    let rename = |name: &str| {
        name.replace(".tar", ".tar.gz").replace(&format!("{config}.json"), &format!("sha256:{config}"))
    };
    items.retain(|item| matches!(item.kind, Kind::File(_)));
    for item in &mut items {
        item.name = rename(std::str::from_utf8(&item.name).unwrap()).into_bytes();
    }
    replace(&mut items, "manifest.json", |text| rename(&text));
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&items));
    shows_sample(&imgmount, path);
}

#[test]
fn f7_absolute_names_no_directories_and_the_manifest_last() {
    let mut items = docker_legacy(&[sample()]);
    items.retain(|item| !matches!(item.kind, Kind::Dir));
    items.sort_by_key(|item| item.name == b"manifest.json");
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar_prefixed(&items, "/"));
    shows_sample(&imgmount, path);
}

#[test]
fn f8_a_second_manifest_is_refused() {
    let mut items = docker_legacy(&[small("a:1", "f", "1")]);
    let manifest = items.iter().find(|item| item.name == b"manifest.json").unwrap().clone();
    items.push(manifest);
    ls(&items, &[]).expect(2).says("manifest.json");
}

#[test]
fn f9_as_many_layers_as_diff_ids() {
    let mut items = docker_legacy(&[small("a:1", "f", "1")]);
    replace(&mut items, "manifest.json", |text| {
        let layer = &text[text.find("[\"").unwrap()..];
        let path = layer.split('"').find(|part| part.ends_with("/layer.tar")).unwrap().to_owned();
        text.replace(&format!("[\"{path}\"]"), &format!("[\"{path}\",\"{path}\"]"))
    });
    ls(&items, &[]).expect(2).says("diff_id");
}

#[test]
fn f10_an_archive_compressed_as_a_whole() {
    let imgmount = Imgmount::new();
    let plain = tar(&docker_legacy(&[Image::sample("", Compression::Plain)]));
    let ways = [
        Compression::Gzip(6),
        Compression::GzipMembers(6),
        Compression::Zstd,
        Compression::ZstdFrames,
        Compression::Xz,
        Compression::Bzip2,
    ];
    for way in ways {
        let path = imgmount.write(&format!("{way:?}"), &way.compress(&plain));
        shows_sample(&imgmount, path);
    }
}

#[test]
fn f10_compressed_layers_in_a_compressed_archive() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar.gz", &Compression::Gzip(6).compress(&tar(&oci(&[sample()]))));
    shows_sample(&imgmount, path);
}

#[test]
fn f11_a_layout_as_directory_and_as_archive() {
    let imgmount = Imgmount::new();
    let mut items = oci(&[sample()]);
    items.push(file("README.unknown", b"unknown files must not fail"));
    let archive = imgmount.write("layout.tar", &tar(&items));
    let layout = imgmount.dir().join("layout");
    write_dir(&items, &layout);
    shows_sample(&imgmount, &layout);
    shows_sample(&imgmount, prefixed("oci:", &layout));
    shows_sample(&imgmount, selected(&layout, ":1"));
    shows_sample(&imgmount, &archive);
    shows_sample(&imgmount, prefixed("oci-archive:", &archive));
}

#[test]
fn f11_a_blob_may_be_a_symlink_inside_the_layout_but_not_out_of_it() {
    let imgmount = Imgmount::new();
    let image = small("a:1", "f", "1");
    let name = format!("blobs/sha256/{}", crate::fixture::sha256_hex(&image.layers[0].blob));
    let mut items = oci(std::slice::from_ref(&image));
    items.retain(|item| item.name != name.as_bytes());
    items.push(file("shared/layer", &image.layers[0].blob));
    items.push(symlink(&name, "../../shared/layer"));
    let layout = imgmount.dir().join("layout");
    write_dir(&items, &layout);
    let out = run(imgmount.command(&["ls"]).arg(&layout)).expect(0);
    assert_eq!(out.text(), "f\n");

    let outside = imgmount.write("outside", &image.layers[0].blob);
    fs::remove_file(layout.join(&name)).unwrap();
    std::os::unix::fs::symlink(outside, layout.join(&name)).unwrap();
    // Uses a separate cache: an existing index would give the answer without the blob.
    run(Imgmount::new().command(&["ls"]).arg(&layout)).expect(2);
}

#[test]
fn f12_by_tag_by_full_name_and_by_option() {
    let images = [
        small("registry.example:5000/team/a:1.0", "in-a", "")
            .also_named("registry.example:5000/team/a:latest"),
        small("registry.example:5000/team/b:2.0", "in-b", ""),
    ];
    let imgmount = Imgmount::new();
    let layout = imgmount.dir().join("layout");
    write_dir(&oci(&images), &layout);
    for name in ["1.0", "latest", "registry.example:5000/team/a:1.0"] {
        let out = run(imgmount.command(&["ls", "--image", name]).arg(&layout)).expect(0);
        assert_eq!(out.text(), "in-a\n", "{name}");
    }
    let out = run(imgmount.command(&["ls"]).arg(selected(&layout, ":2.0"))).expect(0);
    assert_eq!(out.text(), "in-b\n");
}

#[test]
fn f12_an_ambiguous_tag_is_listed() {
    let images = [small("example.com/a:1", "in-a", ""), small("example.com/b:1", "in-b", "")];
    let listed = ls(&oci(&images), &["--image", "1"]).expect(2);
    listed.says("example.com/a:1").says("example.com/b:1");
}

#[test]
fn f13_image_indexes_nest_four_deep_and_no_deeper() {
    let image = [small("a:1", "f", "")];
    for depth in 1..=4 {
        assert_eq!(ls(&oci_nested("a:1", &image, depth), &[]).expect(0).text(), "f\n", "depth {depth}");
    }
    ls(&oci_nested("a:1", &image, 9), &[]).expect(2);
}

#[test]
fn f14_the_platform_is_chosen_by_containerds_rules() {
    let for_platform =
        |name, architecture, variant| small("a:1", name, "").for_architecture(architecture, variant);
    let images = [for_platform("in-arm-v7", "arm", Some("v7")), for_platform("in-riscv64", "riscv64", None)];
    let items = oci_nested("a:1", &images, 1);
    for (wanted, shown) in [
        ("linux/riscv64", "in-riscv64\n"),
        ("linux/arm/v7", "in-arm-v7\n"),
        ("linux/arm", "in-arm-v7\n"),
        ("linux/arm64", "in-arm-v7\n"),
    ] {
        assert_eq!(ls(&items, &["--platform", wanted]).expect(0).text(), shown, "{wanted}");
    }
    let refused = ls(&items, &["--platform", "linux/s390x"]).expect(2);
    refused.says("linux/arm/v7").says("linux/riscv64");
}

#[test]
fn f15_attestations_are_no_images() {
    let items = oci_nested("a:1", &[small("a:1", "f", "")], 1);
    let out = ls(&items, &[]).expect(0);
    assert_eq!(out.text(), "f\n");
    assert!(!out.stderr.contains("unknown"), "{}", out.stderr);
}

#[test]
fn a_skopeo_directory() {
    let imgmount = Imgmount::new();
    let path = imgmount.dir().join("image");
    write_dir(&skopeo_dir(&sample()), &path);
    shows_sample(&imgmount, &path);
    shows_sample(&imgmount, prefixed("dir:", &path));
}

#[test]
fn standard_input() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[small("a:1", "f", "piped")])));
    let mut command = imgmount.command(&["cat", "-:/f"]);
    let out = run(command.stdin(Stdio::from(fs::File::open(path).unwrap()))).expect(0);
    assert_eq!(out.text(), "piped");
}

#[test]
fn a_path_with_colons() {
    let imgmount = Imgmount::new();
    let path = imgmount.write("a:b@0.tar", &tar(&docker_legacy(&[small("a:1", "f", "")])));
    let out = run(imgmount.command(&["ls", "--image", "a:1"]).arg(path)).expect(0);
    assert_eq!(out.text(), "f\n");
}

#[test]
fn a_relative_path_holds_after_the_program_went_to_the_background() {
    let imgmount = Imgmount::new();
    imgmount.write("image.tar", &tar(&docker_legacy(&[sample()])));
    shows_sample(&imgmount, "./image.tar");
}

#[test]
fn what_is_no_image_is_named() {
    let imgmount = Imgmount::new();
    imgmount.write("text", b"hello");
    imgmount.write("other.tar", &tar(&[dir("a"), file("a/b", b"1")]));
    fs::create_dir(imgmount.dir().join("empty")).unwrap();
    for name in ["text", "other.tar", "empty", "absent"] {
        imgmount.run(&["ls", name]).expect(2).says(name);
    }
}

/// A change of a document's text.
type Edit<'a> = &'a dyn Fn(String) -> String;

/// `--verify off` announces that nothing is verified, but refused a wrong size in a descriptor, and a
/// config or manifest that was edited after the image was made.
#[test]
fn verify_off_reads_documents_that_are_not_what_their_descriptors_promise() {
    let image = small("a:1", "f", "");
    let blob = |bytes: Vec<u8>| format!("blobs/sha256/{}", crate::fixture::sha256_hex(&bytes));
    let (manifest, config) = (blob(image.manifest()), blob(image.config()));
    let sizes = |text: String| text.replace("\"size\":", "\"size\":1");
    let edits: [(&str, &str, Edit<'_>); 3] = [
        ("index.json", "size does not match", &sizes),
        (&manifest, "does not match", &sizes),
        (&config, "does not match", &|text| text + " "),
    ];
    for (name, why, edit) in edits {
        let mut items = oci(std::slice::from_ref(&image));
        replace(&mut items, name, edit);
        ls(&items, &[]).expect(2).says(why);
        let shown = ls(&items, &["--verify", "off"]).expect(0);
        assert_eq!(shown.text(), "f\n", "{name}");
        shown.says("warn: ").says(why);
    }
}
