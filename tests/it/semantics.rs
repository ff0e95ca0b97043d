//! Tests rows of the merge rules end to end: mounts images and compares the whole tree.
//!
//! Each row has closer tests beside the code that implements it. These tests show that the result
//! reaches the mount unchanged.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use serde_json::Value;

use crate::fixture::{
    Compression, Image, Item, Kind, block_device, char_device, dir, docker_legacy, fifo, file, hardlink, oci,
    opaque, raw, skopeo_dir, sparse, symlink, tar, whiteout,
};
use crate::mounted::{Imgmount, Need, have, inside, run};
use crate::tree::Snapshot;

fn archive(layers: &[Vec<Item>]) -> Vec<u8> {
    let image = layers.iter().fold(Image::named("a:1"), |image, layer| image.layer("RUN", layer));
    tar(&docker_legacy(&[image]))
}

/// Mounts an image of `layers` and compares the tree with the one that `expected` describes.
#[track_caller]
fn shows(layers: &[Vec<Item>], expected: &[Item]) {
    shows_with(&[], layers, expected);
}

#[track_caller]
fn shows_with(options: &[&str], layers: &[Vec<Item>], expected: &[Item]) {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive(layers));
    let mounted = imgmount.mount(image, options);
    Snapshot::described(expected).assert_shown_by(&Snapshot::of(mounted.path()), "the mounted tree");
}

/// An implied directory with nothing below it (M4).
fn implied(name: &str) -> Item {
    dir(name).mtime(0, 0)
}

#[test]
fn w1_a_whiteout_hides_a_file_and_itself() {
    shows(&[vec![file("x", b"1"), file("y", b"2")], vec![whiteout("x")]], &[file("y", b"2")]);
}

#[test]
fn w1_a_whiteout_hides_all_below_a_directory() {
    shows(&[vec![dir("d"), dir("d/e"), file("d/e/f", b"1")], vec![whiteout("d")]], &[]);
}

#[test]
fn w2_a_whiteout_of_nothing_does_nothing() {
    shows(&[vec![file("y", b"2")], vec![whiteout("x")]], &[file("y", b"2")]);
}

#[test]
fn w3_a_directory_remade_shows_lower_children_at_runtime_and_hides_them_by_the_specification() {
    let layers =
        [vec![dir("d"), file("d/old", b"1")], vec![whiteout("d"), dir("d").mode(0o700), file("d/new", b"2")]];
    let new = [dir("d").mode(0o700), file("d/new", b"2")];
    let both = [dir("d").mode(0o700), file("d/new", b"2"), file("d/old", b"1")];
    shows(&layers, &both);
    shows_with(&["--semantics", "runtime"], &layers, &both);
    shows_with(&["--semantics", "oci"], &layers, &new);
}

#[test]
fn w4_a_file_remade_is_new() {
    shows(&[vec![file("f", b"1")], vec![whiteout("f"), file("f", b"2")]], &[file("f", b"2")]);
}

#[test]
fn w5_a_late_whiteout_spares_its_own_layer() {
    let layers = [
        vec![file("f", b"1"), dir("d"), file("d/old", b"1")],
        vec![file("f", b"2"), whiteout("f"), file("d/new", b"2"), whiteout("d")],
    ];
    shows(&layers, &[file("f", b"2"), dir("d").mtime(0, 0), file("d/new", b"2")]);
}

#[test]
fn w8_an_opaque_mark_works_wherever_it_stands() {
    let lower = vec![dir("d"), file("d/old", b"1"), dir("d/sub"), file("d/sub/old", b"1")];
    let expected = [dir("d"), file("d/a", b"2"), file("d/b", b"3")];
    let (a, b) = (file("d/a", b"2"), file("d/b", b"3"));
    shows(&[lower.clone(), vec![dir("d"), opaque("d"), a.clone(), b.clone()]], &expected);
    shows(&[lower.clone(), vec![dir("d"), a.clone(), opaque("d"), b.clone()]], &expected);
    shows(&[lower, vec![dir("d"), a, b, opaque("d")]], &expected);
}

#[test]
fn w9_an_opaque_mark_alone_keeps_the_directorys_attributes() {
    let lower = vec![dir("d").mode(0o711).owner(7, 8).mtime(9, 10), file("d/old", b"1")];
    shows(&[lower, vec![opaque("d")]], &[dir("d").mode(0o711).owner(7, 8).mtime(9, 10)]);
}

#[test]
fn w11_an_opaque_root_counts_by_the_specification_only() {
    let layers = [vec![file("old", b"1")], vec![opaque(""), file("new", b"2")]];
    shows(&layers, &[file("old", b"1"), file("new", b"2")]);
    shows_with(&["--semantics", "oci"], &layers, &[file("new", b"2")]);
}

#[test]
fn w12_whiteouts_of_dot_and_dot_dot_do_nothing() {
    let odd = vec![file("d/.wh.", b""), file("d/.wh..", b""), file("d/.wh...", b"")];
    shows(&[vec![dir("d"), file("d/f", b"1")], odd], &[dir("d"), file("d/f", b"1")]);
}

#[test]
fn w14_the_prefix_on_a_middle_component_means_nothing() {
    // An entry for the directory itself would be a whiteout of `etc`: its name decides, not its type
    // (W13).
    shows(
        &[vec![dir("etc")], vec![dir(".wh.etc"), file(".wh.etc/f", b"1")]],
        &[implied(".wh.etc"), file(".wh.etc/f", b"1")],
    );
}

#[test]
fn w15_aufs_files_are_hidden_and_serve_as_link_targets() {
    let layer =
        vec![dir(".wh..wh.plnk"), file(".wh..wh.plnk/12.34", b"1"), hardlink("f", ".wh..wh.plnk/12.34")];
    shows(&[layer], &[file("f", b"1")]);
}

#[test]
fn w16_n1_a_directory_implied_over_a_lower_symlink_replaces_it() {
    let lower = vec![dir("etc").mode(0o700), file("etc/x", b"1"), symlink("l", "etc")];
    let kept = [dir("etc").mode(0o700), file("etc/x", b"1")];
    let replaced = dir("l").mode(0o700);
    shows(&[lower.clone(), vec![whiteout("l/x")]], &[kept.to_vec(), vec![replaced.clone()]].concat());
    let with_file = [kept.to_vec(), vec![replaced, file("l/y", b"2")]].concat();
    shows(&[lower.clone(), vec![file("l/y", b"2")]], &with_file);
    let followed = [kept.to_vec(), vec![file("etc/y", b"2"), symlink("l", "etc")]].concat();
    shows_with(&["--follow-dirlinks"], &[lower, vec![file("l/y", b"2")]], &followed);
}

#[test]
fn w17_a_device_of_number_zero_is_a_whiteout() {
    shows(&[vec![file("x", b"1")], vec![char_device("x", 0, 0)]], &[]);
}

#[test]
fn n2_a_parent_that_is_a_symlink_of_the_same_layer_is_followed_within_the_root() {
    let layer =
        vec![dir("a"), symlink("l", "/a"), symlink("out", "../../a"), file("l/x", b"1"), file("out/y", b"2")];
    let expected =
        [dir("a"), symlink("l", "/a"), symlink("out", "../../a"), file("a/x", b"1"), file("a/y", b"2")];
    shows(&[layer], &expected);
}

#[test]
fn n4_a_directory_over_a_directory_brings_its_attributes_and_keeps_the_children() {
    let lower = vec![dir("d").xattr("user.old", b"1"), file("d/f", b"1")];
    let upper = dir("d").mode(0o700).owner(1, 2).xattr("user.new", b"2");
    shows(&[lower, vec![upper.clone()]], &[upper, file("d/f", b"1")]);
}

#[test]
fn n5_another_type_in_an_upper_layer_replaces_all_below() {
    let lower = vec![dir("d"), file("d/f", b"1"), file("g", b"1")];
    shows(&[lower, vec![file("d", b"2"), dir("g")]], &[file("d", b"2"), dir("g")]);
}

#[test]
fn n6_n8_the_later_entry_of_a_layer_wins() {
    let layer = vec![file("a", b"1"), file("a", b"2"), dir("d"), file("d/f", b"1"), symlink("d", "a")];
    shows(&[layer], &[file("a", b"2"), symlink("d", "a")]);
}

#[test]
fn n7_a_directory_replaces_the_file_that_is_its_name() {
    shows(&[vec![file("foo", b"1"), file("foo/baz", b"2")]], &[implied("foo"), file("foo/baz", b"2")]);
}

#[test]
fn n9_n10_names_are_cleaned_and_stay_inside() {
    let layer = vec![file("/a", b"1"), file("./b", b"2"), file("x/../c", b"3"), file("../../d", b"4")];
    shows(&[layer], &[file("a", b"1"), file("b", b"2"), file("c", b"3"), file("d", b"4")]);
}

#[test]
fn n14_names_are_bytes() {
    shows(
        &[vec![file(b"caf\xe9", b"1"), file("new\nline", b"2")]],
        &[file(b"caf\xe9", b"1"), file("new\nline", b"2")],
    );
}

#[test]
fn m1_an_implied_directory_keeps_what_lies_below() {
    let lower = dir("tmp").mode(0o1777).owner(1, 2).mtime(3, 4).xattr("user.a", b"1");
    shows(&[vec![lower.clone()], vec![file("tmp/f", b"1")]], &[lower, file("tmp/f", b"1")]);
}

#[test]
fn m4_an_implied_directory_over_nothing_is_plain() {
    shows(&[vec![file("a/b/c", b"1")]], &[implied("a"), implied("a/b"), file("a/b/c", b"1")]);
}

#[test]
fn m5_the_root_takes_the_time_of_the_topmost_entry_and_nothing_else() {
    let root = |time| dir("").mode(0o700).owner(5, 5).mtime(time, 0);
    shows(&[vec![root(10)], vec![root(20)]], &[dir("").mtime(20, 0)]);
}

#[test]
fn m6_m7_m9_mode_time_and_attributes_are_exact() {
    let layer = vec![
        file("setuid", b"1").mode(0o6755).mtime(1, 999_999_999),
        file("attributes", b"1").xattr("user.nul", [0, 1, 10]).xattr("security.selinux", b"dropped"),
        dir("sticky").mode(0o1777).xattr("user.d", b"dir"),
    ];
    let mut expected = layer.clone();
    expected[1].xattrs.pop();
    shows(&[layer], &expected);
}

/// A layer packed on macOS, one with labels of its host, and one by a tool that labels links: the mount
/// listed all of these attributes, `rsync -aX` exited with 23 and `extract -a` with 2.
#[test]
fn m9_attributes_that_linux_cannot_hold_are_left_out_of_every_view() {
    const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut expected = vec![
        dir("dir").xattr("user.d", b"1"),
        file("file", b"1").xattr("security.capability", CAPABILITY).xattr("user.f", b"2"),
        symlink("link", "file").xattr("security.ima", b"3"),
        fifo("pipe").xattr("security.ima", b"4"),
    ];
    let mut layer = expected.clone();
    for item in &mut layer {
        *item = item.clone().xattr("com.apple.quarantine", b"0081").xattr("trusted.md5sum", b"5");
        if !matches!(item.kind, Kind::Dir | Kind::File(_)) {
            *item = item.clone().xattr("user.note", b"6");
        }
    }
    layer
        .push(file("broken", b"7").xattr("security.capability", b"?").xattr("system.posix_acl_access", b"?"));
    expected.push(file("broken", b"7"));
    shows(std::slice::from_ref(&layer), &expected);
    let imgmount = Imgmount::new();
    let full = imgmount.write("full.tar", &archive(&[layer]));
    let clean = imgmount.write("clean.tar", &archive(&[expected]));
    let xattrs = |image: &Path, options: &[&str]| {
        let out = run(imgmount.command(&["ls", "-R", "--json"]).args(options).arg(image)).expect(0);
        let entries = out.lines().into_iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        entries.map(|entry| format!("{} {}", entry["path"], entry["xattrs"])).collect::<Vec<_>>()
    };
    for options in [&[][..], &["--layer", "0"]] {
        assert_eq!(xattrs(&full, options), xattrs(&clean, options), "{options:?}");
    }
    let exported = |image: &Path| run(imgmount.command(&["export"]).arg(image)).expect(0).stdout;
    assert!(exported(&full) == exported(&clean), "the exported tars differ");
    run(imgmount.command(&["diff"]).args([&full, &clean])).expect(0);
    run(imgmount.command(&["ls", "--strict"]).arg(&full)).expect(2).says("left out: extended attributes");
    if have(&[Need::Root]) {
        run(imgmount.command(&["extract", "-a"]).arg(&full).arg(imgmount.dir().join("out"))).expect(0);
    }
}

#[test]
fn m21_an_extension_header_at_the_end_is_ignored_with_a_warning() {
    let with_attribute = tar(&[file("f", b"1"), file("gone", b"").xattr("user.a", b"1")]);
    // The first file takes two blocks; the PAX header of the second and its body take two more.
    let layer = vec![file("f", b"1"), raw(with_attribute[1024..2048].to_vec())];
    shows(std::slice::from_ref(&layer), &[file("f", b"1")]);
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive(&[layer]));
    run(imgmount.command(&["ls", "-v"]).arg(image)).expect(0).says("1 warning(s) while merging");
}

#[test]
fn x9_inspect_counts_warnings_that_it_does_not_list() {
    let links = (0..1500).map(|at| hardlink(format!("link{at:04}"), "nothing"));
    let items: Vec<_> = [file("../up", b"1")].into_iter().chain(links).collect();
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive(&[items]));
    let out = run(imgmount.command(&["inspect", "--json"]).arg(&image)).expect(0);
    let answer: Value = serde_json::from_str(out.text()).unwrap();
    let expected = serde_json::json!({ "escaping-name": 1, "link-to-nothing": 1500 });
    assert_eq!(answer["warning_counts"], expected);
    let listed = answer["warnings"].as_array().unwrap();
    assert_eq!((listed.len(), &listed[1000]["path"]), (1001, &serde_json::json!("link0999")));
    let out = run(imgmount.command(&["inspect"]).arg(&image)).expect(0);
    let text = out.text();
    assert!(text.contains("\n1501 warning(s):\n"), "{text}");
    assert!(text.ends_with("\n  and 500 more (link-to-nothing)\n"), "{text}");
    run(imgmount.command(&["ls", "-v"]).arg(&image))
        .expect(0)
        .says("500 more warning(s) are not listed")
        .says("1501 warning(s) while merging");
    run(imgmount.command(&["ls", "--strict"]).arg(&image)).expect(2).says("gives 1501 warning(s), first:");
}

#[test]
fn m8_an_owner_beyond_32_bits_is_cut() {
    shows(&[vec![file("f", b"1").owner((1 << 32) + 7, 70_000)]], &[file("f", b"1").owner(7, 70_000)]);
}

#[test]
fn m14_holes_read_as_zeros_and_show_as_holes() {
    if !have(&[Need::Fuse]) {
        return;
    }
    const LEN: u64 = 40 << 20;
    const DATA: u64 = 20 << 20;
    let item = sparse("f", LEN, &[(DATA, &[7; 8192])]);
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive(&[vec![item.clone()]]));
    let mounted = imgmount.mount(image, &[]);
    Snapshot::described(&[item]).assert_shown_by(&Snapshot::of(mounted.path()), "a sparse file");
    let file = File::open(mounted.path().join("f")).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), 8192 / 512);
    assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), DATA);
    assert_eq!(seek(&file, SeekFrom::Hole(DATA)).unwrap(), DATA + 8192);
    assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
}

#[test]
fn m16_devices_and_pipes_are_nodes() {
    let layer = vec![char_device("c", 1, 3), block_device("b", 259, 70), fifo("p").mode(0o620)];
    shows(std::slice::from_ref(&layer), &layer);
}

#[test]
fn m20_h1_links_to_an_empty_file_share_one_inode_with_the_last_headers_attributes() {
    let layer = vec![file("a", b""), hardlink("b", "a").mode(0o600).owner(3, 4).mtime(5, 6)];
    shows(&[layer], &[file("a", b"").mode(0o600).owner(3, 4).mtime(5, 6), hardlink("b", "a")]);
}

#[test]
fn h2_h11_a_link_to_a_lower_file_shares_its_inode_and_outlives_its_name() {
    let lower = vec![file("a", b"1")];
    let link = vec![hardlink("b", "a")];
    shows(&[lower.clone(), link.clone()], &[file("a", b"1"), hardlink("b", "a")]);
    shows(&[lower, link, vec![file("a", b"2")]], &[file("a", b"2"), file("b", b"1")]);
}

#[test]
fn h3_h9_links_forward_are_bound_and_links_to_nothing_left_out() {
    let layer =
        vec![hardlink("b", "a"), file("a", b"1"), hardlink("self", "self"), dir("d"), hardlink("e", "d")];
    shows(&[layer], &[file("a", b"1"), hardlink("b", "a"), dir("d")]);
}

#[test]
fn h4_a_link_to_a_symlink_is_the_symlink() {
    let layer = vec![symlink("s", "nowhere"), hardlink("t", "s").mode(0o777)];
    shows(&[layer], &[symlink("s", "nowhere"), hardlink("t", "s")]);
}

#[test]
fn h5_a_link_to_what_its_layer_deletes() {
    let layers = [vec![file("a", b"1")], vec![whiteout("a"), hardlink("b", "a")]];
    shows(&layers, &[file("b", b"1")]);
}

#[test]
fn h7_h8_targets_are_rooted_and_clamped() {
    let layer = vec![file("a", b"1"), hardlink("b", "/a"), hardlink("c", "../../a")];
    shows(&[layer], &[file("a", b"1"), hardlink("b", "a"), hardlink("c", "a")]);
}

#[test]
fn z1_z2_z4_the_end_of_a_tar_is_where_it_says() {
    let body = tar(&[file("f", b"1")]);
    let without_end = body[..1024].to_vec();
    let followed = [body.clone(), tar(&[file("after", b"the end")])].concat();
    for (name, stream) in [("no end blocks", without_end), ("bytes after the end", followed)] {
        let image = Image::named("a:1").layer_of_tar("RUN", stream, Compression::Gzip(6));
        let imgmount = Imgmount::new();
        let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
        let out = run(imgmount.command(&["ls"]).arg(path)).expect(0);
        assert_eq!(out.text(), "f\n", "{name}");
    }
}

#[test]
fn z1_a_truncated_payload_is_an_error_that_names_layer_and_entry() {
    let stream = tar(&[file("whole", b"1"), file("cut", [7; 5000])])[..2048].to_vec();
    let image = Image::named("a:1").layer_of_tar("RUN", stream, Compression::Plain);
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    run(imgmount.command(&["ls"]).arg(path)).expect(2).says("layer 0").says("cut");
}

#[test]
fn z6_empty_layers() {
    let image = Image::named("a:1")
        .layer("A", &[file("f", b"1")])
        .layer_of_tar("B", Vec::new(), Compression::Plain)
        .layer_of_tar("C", vec![0; 1024], Compression::Gzip(6));
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&docker_legacy(&[image])));
    let out = run(imgmount.command(&["ls"]).arg(path)).expect(0);
    assert_eq!(out.text(), "f\n");
}

#[test]
fn z7_the_bytes_decide_the_compression_and_a_wrong_media_type_is_a_warning() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer_as("COPY", &[file("f", b"1")], "", Compression::Zstd);
    let mut items = skopeo_dir(&image);
    let manifest = String::from_utf8(image.manifest()).unwrap().replace("+zstd", "+gzip");
    items.retain(|item| item.name != b"manifest.json");
    items.push(file("manifest.json", manifest));
    let path = imgmount.write("image.tar", &tar(&items));
    assert_eq!(run(imgmount.command(&["cat"]).arg(inside(&path, "/f"))).expect(0).text(), "1");
    let answer = run(imgmount.command(&["inspect", "--json"]).arg(&path)).expect(0);
    let answer: Value = serde_json::from_str(answer.text()).unwrap();
    assert_eq!(answer["layers"][0]["compression"], "zstd");
    assert_eq!(answer["warnings"][0]["kind"], "compression-mismatch");
    assert_eq!(answer["warnings"][0]["path"], "application/vnd.oci.image.layer.v1.tar+gzip");
}

/// `podman save --uncompressed --format oci-dir` of podman 4.3 writes plain tars as `.tar+gzip`, and
/// `skopeo copy` from a docker-archive to `dir:` does so too. The tree of a layer does not depend on
/// its compression, so `--strict` has nothing to refuse.
#[test]
fn z7_strict_accepts_layers_that_are_packed_in_another_way_than_their_type_says() {
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer_as("COPY", &[file("f", b"1")], "", Compression::Plain);
    let mut items = skopeo_dir(&image);
    let manifest = String::from_utf8(image.manifest()).unwrap();
    items.retain(|item| item.name != b"manifest.json");
    items.push(file("manifest.json", manifest.replace(".v1.tar\"", ".v1.tar+gzip\"")));
    let path = imgmount.write("image.tar", &tar(&items));
    let listed = run(imgmount.command(&["-v", "ls", "--strict"]).arg(&path)).expect(0);
    assert_eq!(listed.text(), "f\n");
    listed.says("the compression differs from the one in the media type");
}

#[test]
fn z8_the_files_that_estargz_adds_are_ordinary_files() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let items = [file(".no.prefetch.landmark", b"\x0f"), file("f", b"1"), file("stargz.index.json", b"{}")];
    let image = Image::named("a:1").layer_as("COPY", &items, "", Compression::GzipMembers(9));
    let path = imgmount.write("image.tar", &tar(&oci(&[image])));
    let mounted = imgmount.mount(path, &[]);
    Snapshot::described(&items).assert_shown_by(&Snapshot::of(mounted.path()), "the mounted tree");
}

#[test]
fn m13_raw_headers_a_pax_size_governs_the_payload() {
    // The header declares 1 byte, the PAX record 700: a reader that uses the header would read the rest of
    // the payload, itself a tar, as members (CVE-2025-62518).
    let smuggled = tar(&[file("smuggled", b"!")])[..700].to_vec();
    let mut header = tar(&[file("f", b"x")])[..512].to_vec();
    header.splice(148..156, *b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    let mut record_header = tar::Header::new_ustar();
    record_header.set_entry_type(tar::EntryType::XHeader);
    record_header.set_path("pax").unwrap();
    record_header.set_size(12);
    record_header.set_cksum();
    let mut record = b"12 size=700\n".to_vec();
    record.resize(512, 0);
    let mut payload = smuggled.clone();
    payload.resize(1024, 0);
    let blocks = [record_header.as_bytes().to_vec(), record, header, payload].concat();
    shows(&[vec![raw(blocks), file("after", b"2")]], &[file("f", smuggled), file("after", b"2")]);
}

#[test]
fn strict_refuses_what_is_else_a_warning() {
    let imgmount = Imgmount::new();
    let odd = archive(&[vec![file("foo", b"1"), file("foo/baz", b"2")]]);
    let path = imgmount.write("odd.tar", &odd);
    let point = imgmount.mount_point();
    let args = ["mount", "--strict", path.to_str().unwrap(), point.to_str().unwrap()];
    imgmount.run(&args).expect(2).says("foo");
}
