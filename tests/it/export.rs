//! Tests `export` and `cp -`: a tar keeps everything, and is the same every time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::fixture::{
    Compression, Image, Item, block_device, char_device, dir, docker_legacy, fifo, file, hardlink, oci,
    patterned, sample_tree, sparse, symlink, tar,
};
use crate::mounted::{Imgmount, Need, have, inside, run, wait};
use crate::tree::{Field, Snapshot};

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

fn image_of(imgmount: &Imgmount, items: &[Item]) -> PathBuf {
    imgmount.write("image.tar", &tar(&docker_legacy(&[Image::named("a:1").layer("ADD", items)])))
}

fn export(imgmount: &Imgmount, options: &[&str], image: &Path) -> Vec<u8> {
    run(imgmount.command(&["export"]).args(options).arg(image)).expect(0).stdout
}

/// Returns the names that GNU tar lists.
fn names(archive: &[u8]) -> Vec<String> {
    let mut reader = tar::Archive::new(archive);
    let name = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned()
    };
    reader.entries().unwrap().map(name).collect()
}

/// Unpacks a tar with GNU tar.
fn unpacked(imgmount: &Imgmount, archive: &[u8]) -> PathBuf {
    let into = imgmount.mount_point();
    let path = imgmount.write("exported.tar", archive);
    let mut command = Command::new("tar");
    command
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(path)
        .arg("-C")
        .arg(&into);
    run(&mut command).expect(0);
    into
}

/// Returns items that a ustar header cannot hold, and items at its limits.
fn edges() -> Vec<Item> {
    let long = |len: usize| "n".repeat(len);
    let mut items = vec![
        dir(""),
        file(long(100), b"name of 100"),
        file(long(101), b"name of 101"),
        dir(long(150)),
        file(format!("{}/{}", long(150), long(100)), b"prefix and name"),
        file(format!("{}/{}", long(150), long(101)), b"too long for both"),
        dir(format!("{}/{}", long(150), long(99))),
        file([&b"latin-\xe9-"[..], long(100).as_bytes()].concat(), b"neither short nor UTF-8"),
        symlink("link-100", long(100)),
        symlink("link-101", long(101)),
        symlink("link-latin", [&b"\xe9"[..], long(101).as_bytes()].concat()),
        file("ids", b"").owner(2_097_151, 2_097_152),
        file("large-ids", b"").owner(4_294_967_294, 4_000_000_000),
        file("nanos", b"").mtime(1, 1),
        file("tenths", b"").mtime(1, 100_000_000),
        file("year-2242", b"").mtime(8_589_934_591, 0),
        file("year-2243", b"").mtime(8_589_934_592, 0),
        file("xattrs", b"1").xattr("user.a=b", b"2").xattr("user.bin", b"\0\n=\xff").xattr("user.empty", b""),
        dir("xattr-dir").xattr("user.d", "v".repeat(95)),
        char_device("char", 4095, 1_048_575),
        block_device("block", 8, 1),
        fifo("fifo"),
        file("z-first", b"shared").xattr("user.x", b"1"),
        hardlink("z-second", "z-first").xattr("user.x", b"1"),
        symlink("y-link", "target"),
        hardlink("y-link2", "y-link").mode(0o777),
        file("block-multiple", patterned(1024, 1)),
        sparse("sparse-end-hole", 1 << 20, &[(4096, &[7; 600])]),
        sparse("sparse-no-data", 1 << 20, &[]),
        sparse("sparse-small", 2000, &[(1990, b"too small")]),
        sparse(format!("{}/sparse-{}", long(150), long(100)), 1 << 20, &[(1 << 19, b"x")]),
    ];
    // `SCHILY.xattr.user.a=b` cannot be distinguished from an attribute `user.a`.
    items.iter_mut().for_each(|item| item.xattrs.retain(|(name, _)| !name.contains('=')));
    items
}

/// Returns the trees and options for the tests of whole trees.
fn trees_and_options() -> [(&'static str, Vec<Item>, &'static [&'static str]); 4] {
    [
        ("sample", sample_tree(), &[]),
        ("sparse sample", sample_tree(), &["--sparse"]),
        ("edges", edges(), &[]),
        ("sparse edges", edges(), &["--sparse"]),
    ]
}

#[test]
fn the_same_image_gives_the_same_bytes_in_every_form() {
    let imgmount = Imgmount::new();
    let gzip = sample(&imgmount);
    let first = export(&imgmount, &[], &gzip);
    assert!(first == export(&imgmount, &[], &gzip));
    let zstd = tar(&oci(&[Image::sample("./", Compression::Zstd)]));
    let zstd = imgmount.write("zstd.tar", &zstd);
    assert!(first == export(&imgmount, &[], &zstd));
    run(imgmount.command(&["export", "-o", "file.tar"]).arg(&gzip)).expect(0);
    assert!(first == fs::read(imgmount.dir().join("file.tar")).unwrap());
}

#[test]
fn members_are_sorted_relative_and_begin_with_the_root() {
    let imgmount = Imgmount::new();
    let items = [file("b", b""), dir("a"), file("a/z", b""), file("a-b", b""), hardlink("0", "b")];
    let archive = export(&imgmount, &[], &image_of(&imgmount, &items));
    assert_eq!(names(&archive), ["./", "0", "a/", "a/z", "a-b", "b"]);
    assert_eq!(archive.len() % 512, 0);
    assert_eq!(archive[archive.len() - 1024..], [0; 1024]);
}

#[test]
fn a_mounted_export_shows_the_tree_it_was_made_from() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    for (what, items, options) in trees_and_options() {
        let archive = export(&imgmount, options, &image_of(&imgmount, &items));
        let flat = Image::named("flat:1").layer_of_tar("import", archive, Compression::Gzip(1));
        let flat = imgmount.write("flat.tar", &tar(&docker_legacy(&[flat])));
        let mounted = imgmount.mount(flat, &[]);
        Snapshot::described(&items).assert_shown_by(&Snapshot::of(mounted.path()), what);
    }
}

#[test]
fn gnu_tar_makes_the_same_tree_of_it() {
    if !have(&[Need::Root, Need::Program("tar")]) {
        return;
    }
    let imgmount = Imgmount::new();
    for (what, items, options) in trees_and_options() {
        let into = unpacked(&imgmount, &export(&imgmount, options, &image_of(&imgmount, &items)));
        let links = Field::DirectoryLinks;
        let found = Snapshot::of(&into).without(links);
        Snapshot::described(&items).without(links).assert_shown_by(&found, what);
    }
}

#[test]
fn holes_are_zeros_unless_asked_for_and_where_that_saves_nothing() {
    let imgmount = Imgmount::new();
    let large = image_of(&imgmount, &[sparse("large", 1 << 30, &[(1 << 29, b"middle")])]);
    assert!(export(&imgmount, &["--sparse"], &large).len() < 8192);
    let small = image_of(&imgmount, &[sparse("small", 2048, &[(2000, b"end")])]);
    let archive = export(&imgmount, &[], &small);
    // Root, header, content, end.
    assert_eq!(archive.len(), 512 + 512 + 2048 + 1024);
    assert_eq!(archive[1024 + 1999..1024 + 2004], *b"\0end\0");
    assert!(archive == export(&imgmount, &["--sparse"], &small));
}

/// Returns the records of the first member after the root, and its ustar header.
fn first_member(archive: &[u8]) -> (String, tar::Header) {
    let header = |at: usize| tar::Header::from_byte_slice(&archive[at..at + 512]).clone();
    assert_eq!(header(512).entry_type(), tar::EntryType::XHeader);
    let len = usize::try_from(header(512).entry_size().unwrap()).unwrap();
    let records = archive[1024..1024 + len].escape_ascii().to_string();
    (records.replace("\\n", "\n"), header(1024 + len.next_multiple_of(512)))
}

#[test]
fn what_ustar_cannot_say_stands_in_pax_records() {
    let imgmount = Imgmount::new();
    let name = [&b"caf\xe9"[..], "n".repeat(100).as_bytes()].concat();
    let item = file(&name, b"x").owner(3_000_000, 5).mtime(9, 500_000_000).xattr("user.a", b"1\0");
    let (records, header) = first_member(&export(&imgmount, &[], &image_of(&imgmount, &[item])));
    let expected = format!(
        "21 hdrcharset=BINARY\n114 path=caf\\xe9{}\n15 uid=3000000\n13 mtime=9.5\n26 SCHILY.xattr.user.a=1\\x00\n",
        "n".repeat(100)
    );
    assert_eq!(records, expected);
    let ustar = header.as_ustar().unwrap();
    assert_eq!((&ustar.uid, &ustar.gid), (b"0000000\0", b"0000005\0"));
    assert_eq!((&ustar.size, &ustar.mtime), (b"00000000001\0", b"00000000011\0"));
    assert_eq!((&ustar.uname, &ustar.gname), (&[0; 32], &[0; 32]));
    assert_eq!(ustar.name[..], name[..100]);
}

#[test]
fn a_sparse_file_stands_as_gnu_tar_writes_it_with_runs_of_whole_blocks() {
    let imgmount = Imgmount::new();
    let parts: [(u64, &[u8]); 3] = [(4100, b"one"), (4700, b"two"), (99_999, b"!")];
    let image = image_of(&imgmount, &[sparse("d", 100_000, &parts)]);
    let archive = export(&imgmount, &["-S"], &image);
    let (records, header) = first_member(&archive);
    assert_eq!(
        records,
        "21 GNU.sparse.name=d\n22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n30 GNU.sparse.realsize=100000\n"
    );
    assert_eq!(header.path_bytes().as_ref(), b"GNUSparseFile.0/d");
    // The map, two adjacent blocks, and the file's bytes in the last block.
    assert_eq!(header.entry_size().unwrap(), 512 + 1024 + 160);
    let map = b"2\n4096\n1024\n99840\n160\n\0";
    assert_eq!(archive[2048..2048 + map.len()], *map);
    assert_eq!(archive[2560..2568], *b"\0\0\0\0one\0");
}

#[test]
fn layers_can_be_exported_alone() {
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let out = run(imgmount.command(&["export", "--layer", "1"]).arg(&image)).expect(0);
    assert_eq!(names(&out.stdout), ["./", "etc/", "etc/passwd", "var/", "var/cache/", "var/cache/new"]);
    let out = run(imgmount.command(&["export", "--upto", "0"]).arg(&image)).expect(0);
    assert!(names(&out.stdout).contains(&"etc/motd".to_owned()));
}

#[test]
fn cp_to_a_dash_names_members_after_what_is_copied() {
    let imgmount = Imgmount::new();
    let items = [
        dir("d"),
        dir("d/e"),
        file("d/e/f", b"1"),
        hardlink("d/e/g", "d/e/f"),
        hardlink("outside", "d/e/f"),
        symlink("l", "d/e"),
    ];
    let image = image_of(&imgmount, &items);
    let rows: [(&str, &[&str], &[&str]); 7] = [
        ("/d/e", &[], &["e/", "e/f", "e/g"]),
        ("/d/e/", &[], &["e/", "e/f", "e/g"]),
        ("/d/e/.", &[], &["./", "f", "g"]),
        ("/d/e/g", &[], &["g"]),
        ("/l", &[], &["l"]),
        ("/l", &["-L"], &["l/", "l/f", "l/g"]),
        ("/", &[], &["./", "d/", "d/e/", "d/e/f", "d/e/g", "l", "outside"]),
    ];
    for (path, options, expected) in rows {
        let out = run(imgmount.command(&["cp"]).args(options).arg(inside(&image, path)).arg("-")).expect(0);
        assert_eq!(names(&out.stdout), expected, "{path} {options:?}");
    }
    let out = run(imgmount.command(&["cp"]).arg(inside(&image, "/d/e")).arg("-")).expect(0);
    let mut archive = tar::Archive::new(&out.stdout[..]);
    let link = archive.entries().unwrap().map(Result::unwrap).nth(2).unwrap();
    assert_eq!(link.link_name_bytes().unwrap().as_ref(), b"e/f");
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let imgmount = Imgmount::new();
    let large = patterned(3 << 20, 1);
    let image = image_of(&imgmount, &[file("large", &large)]);
    run(imgmount.command(&["export", "-o", "good.tar"]).arg(&image)).expect(0);
    let mode = fs::metadata(imgmount.dir().join("good.tar")).unwrap().permissions().mode();
    assert_eq!(mode & 0o133, 0, "an ordinary file's permissions: {mode:o}");
    let mut bytes = fs::read(&image).unwrap();
    let at = bytes.windows(64).position(|window| window == &large[2 << 20..][..64]).unwrap();
    bytes[at] ^= 1;
    fs::write(&image, bytes).unwrap();
    fs::write(imgmount.dir().join("kept.tar"), b"what was there").unwrap();
    for name in ["new.tar", "kept.tar"] {
        run(imgmount.command(&["export", "-o", name]).arg(&image)).expect(2).says("changed");
    }
    let mut left: Vec<_> = fs::read_dir(imgmount.dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["cache", "good.tar", "image.tar", "kept.tar"]);
    assert_eq!(fs::read(imgmount.dir().join("kept.tar")).unwrap(), b"what was there");
}

#[test]
fn a_tar_is_not_written_to_a_terminal() {
    if !have(&[Need::Program("script")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let program = env!("CARGO_BIN_EXE_imgmount");
    for arguments in [format!("export '{}'", image.display()), format!("cp '{}:/etc' -", image.display())] {
        let mut terminal = Command::new("script");
        terminal.args(["-qec", &format!("'{program}' {arguments}"), "/dev/null"]).stdin(Stdio::null());
        let said = run(&mut terminal);
        assert_eq!(said.code, 2, "{arguments}");
        assert_eq!(
            said.text().trim_end(),
            "imgmount: cannot write a tar to a terminal; redirect it to a file or a pipe"
        );
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let imgmount = Imgmount::new();
    let mut command = imgmount.command(&["export"]);
    let mut child = command.arg(sample(&imgmount)).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(wait(&mut child).unwrap().code(), Some(0));
}

#[test]
fn podman_imports_what_export_writes() {
    if !have(&[Need::Root, Need::Fuse, Need::Program("podman")]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = sample(&imgmount);
    let original = Snapshot::of(imgmount.mount(&image, &[]).path());
    run(imgmount.command(&["export", "-o", "flat.tar"]).arg(&image)).expect(0);
    let store = imgmount.mount_point();
    let podman = |arguments: &[&str]| {
        let mut command = Command::new("podman");
        for (option, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(store.join(name));
        }
        command.args(["--storage-driver", "vfs"]).args(arguments).current_dir(imgmount.dir());
        run(&mut command).expect(0);
    };
    podman(&["import", "-q", "flat.tar", "flat:1"]);
    podman(&["save", "-q", "--format", "oci-archive", "-o", "imported.tar", "flat:1"]);
    let mounted = imgmount.mount("imported.tar", &[]);
    // The engine sets its own time on the root, and rounds all times to seconds.
    let comparable = |tree: Snapshot| tree.without(Field::Root).without(Field::Nanoseconds);
    comparable(original).assert_shown_by(&comparable(Snapshot::of(mounted.path())), "the imported image");
}
