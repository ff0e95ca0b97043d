//! Tests the calls of the kernel, one by one, through a mount of the fixture.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{RawDir, SeekFrom, StatVfsMountFlags, seek};
use rustix::io::Errno;

use crate::fixture::{
    Compression, Image, dir, docker_legacy, file, hardlink, oci, patterned, sample_tree, sparse, tar,
};
use crate::mounted::{Imgmount, Mounted, Need, have};

fn sample(imgmount: &Imgmount) -> PathBuf {
    imgmount.write("image.tar", &tar(&oci(&[Image::sample("", Compression::Gzip(6))])))
}

/// Returns every name below `dir` in the order of the listing, with inode number and link count.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, u64)> {
    let mut listed = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        listed.push((path.clone(), meta.ino(), meta.nlink()));
        if meta.is_dir() {
            listed.extend(listing(&path));
        }
    }
    listed
}

fn relative_listing(mounted: &Mounted) -> Vec<(PathBuf, u64, u64)> {
    let strip = |path: PathBuf| path.strip_prefix(mounted.path()).unwrap().to_owned();
    listing(mounted.path()).into_iter().map(|(path, ino, nlink)| (strip(path), ino, nlink)).collect()
}

#[test]
fn numbers_link_counts_and_order_are_the_same_at_every_mount() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let layers = [
        vec![dir("d"), file("d/b", b"1"), file("d/a", b"2"), hardlink("link", "d/b")],
        vec![file("d/c", b"3"), dir("e"), hardlink("e/link", "d/a")],
    ];
    let archive = |compression| {
        let image = layers
            .iter()
            .fold(Image::named("a:1"), |image, layer| image.layer_as("RUN", layer, "", compression));
        tar(&docker_legacy(&[image]))
    };
    // While indexing and from the store, in one process and in several, and from another file.
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive(Compression::Gzip(6)));
    let other = imgmount.write("other.tar", &archive(Compression::Plain));
    let first = relative_listing(&imgmount.mount(&image, &[]));
    assert_eq!(first.len(), 7);
    assert_eq!(relative_listing(&imgmount.mount(&image, &[])), first);
    assert_eq!(relative_listing(&imgmount.mount(&image, &["--no-cache"])), first);
    assert_eq!(relative_listing(&imgmount.mount(&other, &[])), first);
    let numbers: BTreeSet<u64> = first.iter().map(|(_, ino, _)| *ino).collect();
    assert_eq!(numbers.len(), 5, "two pairs of names share a number: {first:?}");
}

#[test]
fn a_directory_of_20000_names_is_listed_whole_and_once_through_a_small_buffer() {
    if !have(&[Need::Fuse]) {
        return;
    }
    const COUNT: usize = 20_000;
    let name = |at: usize| format!("a-name-that-takes-some-room-{at:05}");
    let mut items = vec![dir("many")];
    items.extend((0..COUNT).map(|at| file(format!("many/{}", name(at)), b"")));
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer_as("RUN", &items, "", Compression::Gzip(1));
    let mounted = imgmount.mount(imgmount.write("image.tar", &tar(&oci(&[image]))), &[]);

    let open = File::open(mounted.path().join("many")).unwrap();
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut raw = RawDir::new(&open, &mut buffer);
    let (mut names, mut offsets) = (Vec::new(), Vec::new());
    while let Some(entry) = raw.next() {
        let entry = entry.unwrap();
        names.push(entry.file_name().to_str().unwrap().to_owned());
        offsets.push(entry.next_entry_cookie());
    }
    let expected = [".".to_owned(), "..".to_owned()].into_iter().chain((0..COUNT).map(name));
    assert!(names.iter().eq(&expected.collect::<Vec<_>>()), "{} names", names.len());

    // Continues where an earlier listing stopped, as `telldir` and `seekdir` do.
    seek(&open, SeekFrom::Start(offsets[10_000])).unwrap();
    let resumed = RawDir::new(&open, &mut buffer).next().unwrap().unwrap().file_name().to_owned();
    assert_eq!(resumed.to_str().unwrap(), names[10_001]);
    assert_eq!(fs::metadata(mounted.path().join("many").join(name(19_999))).unwrap().len(), 0);
}

#[test]
fn statfs_says_what_is_there_and_that_nothing_is_free() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &[]);
    let found = rustix::fs::statvfs(mounted.path()).unwrap();
    // The merged sample has no hard links, so each name is an inode; the root is one of them.
    assert_eq!(found.f_files, sample_tree().len() as u64);
    assert_eq!((found.f_ffree, found.f_bfree, found.f_bavail), (0, 0, 0));
    assert_eq!(found.f_namemax, 255);
    assert!(found.f_flag.contains(StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID));
    let bytes: u64 = listing(mounted.path())
        .iter()
        .map(|(path, ..)| path.symlink_metadata().unwrap().len().div_ceil(found.f_frsize))
        .sum();
    assert_eq!(found.f_blocks, bytes);
}

#[test]
fn m14_seek_data_and_seek_hole_find_each_part_of_a_sparse_file() {
    if !have(&[Need::Fuse]) {
        return;
    }
    const SIZE: u64 = 3_000_000;
    let (front, middle, end) = (patterned(5000, 1), patterned(70_000, 2), patterned(100, 3));
    let parts: [(u64, &[u8]); 3] = [(0, &front), (1_000_000, &middle), (SIZE - 100, &end)];
    let imgmount = Imgmount::new();
    let items = [sparse("f", SIZE, &parts), sparse("hole", SIZE, &[]), file("dense", b"12345")];
    let image = Image::named("a:1").layer_as("RUN", &items, "", Compression::Zstd);
    let mounted = imgmount.mount(imgmount.write("image.tar", &tar(&oci(&[image]))), &[]);
    let open = |name: &str| File::open(mounted.path().join(name)).unwrap();

    let found = segments(&open("f"));
    // Whole blocks of 4 KiB: a hole that is shorter counts as data.
    let blocks = |offset: u64, len: usize| {
        (offset / 4096 * 4096, (offset + len as u64).next_multiple_of(4096).min(SIZE))
    };
    let expected: Vec<_> = parts.iter().map(|(offset, bytes)| blocks(*offset, bytes.len())).collect();
    assert_eq!(found, expected);
    assert_eq!(segments(&open("hole")), []);
    assert_eq!(segments(&open("dense")), [(0, 5)]);
    let past_end = SeekFrom::Data(SIZE);
    assert_eq!(seek(open("f"), past_end).unwrap_err(), Errno::NXIO);
    for (offset, bytes) in parts {
        let mut read = vec![0; bytes.len()];
        open("f").read_exact_at(&mut read, offset).unwrap();
        assert!(read == bytes, "the part at {offset}");
    }
}

/// Returns start and end of each range of data, as `cp --sparse` finds them.
fn segments(file: &File) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(start) = seek(file, SeekFrom::Data(at)) {
        at = seek(file, SeekFrom::Hole(start)).unwrap();
        found.push((start, at));
    }
    found
}

#[test]
fn m14_a_sparse_file_of_more_than_4_gib_is_read_at_its_far_end() {
    if !have(&[Need::Fuse]) {
        return;
    }
    const SIZE: u64 = (6 << 30) + 7;
    const FAR: u64 = (5 << 30) + 1;
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer("RUN", &[sparse("huge", SIZE, &[(3, b"near"), (FAR, b"far")])]);
    let mounted = imgmount.mount(imgmount.write("image.tar", &tar(&oci(&[image]))), &[]);
    let huge = File::open(mounted.path().join("huge")).unwrap();
    let meta = huge.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks()), (SIZE, 1));
    let read = |offset: u64, len: usize| {
        let mut buffer = vec![0xEE; len];
        let filled = huge.read_at(&mut buffer, offset).unwrap();
        buffer.truncate(filled);
        buffer
    };
    assert_eq!(read(0, 8), b"\0\0\0near\0");
    assert_eq!(read(FAR - 2, 7), b"\0\0far\0\0");
    assert_eq!(read(4 << 30, 4), [0; 4]);
    assert_eq!(read(SIZE - 2, 10), [0; 2], "short at the end");
    assert_eq!(read(SIZE, 1), b"");
    // Data begins with its block.
    assert_eq!(seek(&huge, SeekFrom::Data(1 << 30)).unwrap(), FAR / 4096 * 4096);
}

#[test]
fn m9_attributes_answer_as_those_of_any_file_system() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let mounted = imgmount.mount(sample(&imgmount), &[]);
    let path = mounted.path().join("opt/attributes");
    let get = |name: &str, room: usize| {
        let mut value = vec![0; room];
        let len = rustix::fs::lgetxattr(&path, name, &mut value[..])?;
        value.truncate(len);
        Ok::<_, Errno>(value)
    };
    assert_eq!(get("user.text", 100).unwrap(), b"two\nlines");
    assert_eq!(get("user.binary", 3).unwrap(), [0, 10, 255]);
    assert_eq!(get("user.binary", 2).unwrap_err(), Errno::RANGE);
    assert_eq!(get("user.absent", 100).unwrap_err(), Errno::NODATA);
    let list = |room: usize| {
        let mut names = vec![0; room];
        let len = rustix::fs::llistxattr(&path, &mut names[..])?;
        names.truncate(len);
        Ok::<_, Errno>(names)
    };
    let names = list(100).unwrap();
    let mut names: Vec<_> = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    assert_eq!(names, [&b"user.binary"[..], b"user.text"]);
    assert_eq!(list(5).unwrap_err(), Errno::RANGE);
}

#[test]
fn n14_names_that_are_not_utf8_are_found_by_their_bytes() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let items = [dir(b"caf\xe9"), file(b"caf\xe9/\xff\xfe", b"inside"), file("caf\u{e9}", b"another name")];
    let image = Image::named("a:1").layer("RUN", &items);
    let path = imgmount.dir().join(OsStr::from_bytes(b"image-\xe9.tar"));
    fs::write(&path, tar(&docker_legacy(&[image]))).unwrap();
    let mounted = imgmount.mount(&path, &[]);
    let at = |name: &[u8]| mounted.path().join(OsStr::from_bytes(name));
    assert_eq!(fs::read(at(b"caf\xe9/\xff\xfe")).unwrap(), b"inside");
    assert_eq!(fs::read(at("caf\u{e9}".as_bytes())).unwrap(), b"another name");
    let listed: Vec<_> =
        fs::read_dir(at(b"caf\xe9")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(listed, [OsStr::from_bytes(b"\xff\xfe")]);
    assert_eq!(fs::metadata(at(b"caf\xe8")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}
