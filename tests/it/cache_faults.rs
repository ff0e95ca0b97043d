//! Tests of cache directories that are damaged, removed, full or read-only while a mount uses them. Rule X37 of
//! docs/security.md; `faults` has more.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::fixture::{Compression, Image, Item, Registry, dir, file, oci, patterned, tar};
use crate::mounted::{Imgmount, Mounted, Need, have, run};
use crate::tree::{Field, Snapshot};

/// Enough names for the merged tree to be stored, too.
const NAMES: usize = 10_500;
const SMALL_CACHE: [&str; 2] = ["--cache-size", "1M"];

/// A gzip layer with checkpoints, a layer of one frame with a seekable copy, and many names.
fn layers() -> [(Vec<Item>, Compression); 3] {
    let mut many = vec![dir("many")];
    many.extend((0..NAMES).map(|number| file(format!("many/{number}"), b"")));
    [
        (vec![file("large", patterned(4 << 20, 1))], Compression::Gzip(6)),
        (vec![file("frame", patterned(6 << 20, 2))], Compression::Zstd),
        (many, Compression::Gzip(1)),
    ]
}

fn image() -> Image {
    let add =
        |image: Image, (items, compression): (Vec<Item>, _)| image.layer_as("COPY", &items, "", compression);
    layers().into_iter().fold(Image::named("a:1"), add)
}

fn tree() -> Snapshot {
    let items: Vec<Item> = layers().into_iter().flat_map(|(items, _)| items).collect();
    Snapshot::described(&items)
}

#[track_caller]
fn assert_whole(mounted: &Mounted, about: &str) {
    let found = Snapshot::of(mounted.path()).without(Field::Root);
    tree().without(Field::Root).assert_shown_by(&found, about);
}

/// Reads the large files of a mount in parts. Each part must be right, or `EIO` if `may_fail`.
#[track_caller]
fn read_large(mounted: &Mounted, may_fail: bool, about: &str) {
    for (name, content) in [("large", patterned(4 << 20, 1)), ("frame", patterned(6 << 20, 2))] {
        let served = File::open(mounted.path().join(name)).unwrap();
        rustix::fs::fadvise(&served, 0, None, Advice::DontNeed).unwrap();
        for (number, part) in content.chunks(64 << 10).enumerate() {
            let mut bytes = vec![0; part.len()];
            match served.read_exact_at(&mut bytes, number as u64 * (64 << 10)) {
                Ok(()) => assert!(bytes == part, "{about}: other bytes in {name}"),
                Err(error) => {
                    assert!(may_fail && error.raw_os_error() == Some(libc::EIO), "{about}: {error}")
                }
            }
        }
    }
    assert_eq!(fs::read_dir(mounted.path().join("many")).unwrap().count(), NAMES, "{about}");
}

/// Returns the files of a cache directory whose names have this ending.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file() && path.to_str().unwrap().ends_with(ending)).collect()
}

type Damage = fn(&Path);

/// What can happen to a file. The file stays the same one, unless it is removed.
const DAMAGES: [(&str, Damage); 4] = [
    ("changed", |path| {
        let bytes: Vec<u8> = fs::read(path).unwrap().iter().map(|byte| !byte).collect();
        File::options().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
    }),
    ("truncated", |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("empty", |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap()),
    ("removed", |path| fs::remove_file(path).unwrap()),
];

#[test]
fn x37_each_kind_of_stored_file_that_is_damaged_in_use_costs_no_right_byte() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&oci(&[image()])));
    for kind in ["idx", "tree", "copy"] {
        for (how, damage) in DAMAGES {
            let about = format!("{kind} {how}");
            drop(imgmount.mount(&path, &[]));
            let mounted = imgmount.mount(&path, &SMALL_CACHE);
            let found = files(&imgmount.cache(), kind);
            assert!(!found.is_empty(), "{about}");
            found.iter().for_each(|path| damage(path));
            // The windows of checkpoints are read from the file of the index.
            read_large(&mounted, kind == "idx", &about);
            let next = imgmount.mount(&path, &SMALL_CACHE);
            assert_whole(&next, &format!("the mount after {about}"));
            read_large(&next, false, &about);
        }
    }
}

#[test]
fn x37_downloads_and_documents_that_are_damaged_in_use_are_requested_again() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &image());
    let reference = registry.reference("app:1");
    for folder in ["blobs", "docs", "refs"] {
        for (how, damage) in DAMAGES {
            let about = format!("{folder} {how}");
            let mounted = imgmount.mount(&reference, &SMALL_CACHE);
            let found = files(&imgmount.cache().join(folder), "");
            assert!(!found.is_empty(), "{about}");
            found.iter().for_each(|path| damage(path));
            read_large(&mounted, false, &about);
            assert_whole(&imgmount.mount(&reference, &SMALL_CACHE), &format!("the mount after {about}"));
        }
    }
}

#[test]
fn x37_a_cache_directory_that_is_removed_in_use_is_made_again() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &image());
    let path = imgmount.write("image.tar", &tar(&oci(&[image()])));
    let references = [path.display().to_string(), registry.reference("app:1")];
    let mounts: Vec<Mounted> = references.iter().map(|from| imgmount.mount(from, &SMALL_CACHE)).collect();
    fs::remove_dir_all(imgmount.cache()).unwrap();
    for (mounted, reference) in mounts.iter().zip(&references) {
        assert_whole(mounted, reference);
        assert_whole(&imgmount.mount(reference, &SMALL_CACHE), &format!("the mount after {reference}"));
    }
    assert!(!files(&imgmount.cache(), "idx").is_empty());
}

/// A file system of limited size on the cache directory.
struct SmallCache(PathBuf);

impl SmallCache {
    fn new(imgmount: &Imgmount, options: &CStr) -> Self {
        let cache = imgmount.cache();
        let _ = fs::create_dir(&cache);
        mount("tmpfs", &cache, "tmpfs", MountFlags::empty(), Some(options)).unwrap();
        SmallCache(cache)
    }
}

impl Drop for SmallCache {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Wherever the disk becomes full, the mount is whole, and so is the next one with more space.
#[test]
fn x37_a_disk_that_becomes_full_at_any_point_costs_no_right_byte() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let registry = Registry::start();
    registry.push("app:1", &image());
    let imgmount = Imgmount::new();
    let path = imgmount.write("image.tar", &tar(&oci(&[image()])));
    for reference in [path.display().to_string(), registry.reference("app:1")] {
        for size in [c"size=8K,mode=0700", c"size=64K,mode=0700", c"size=1M,mode=0700", c"size=4M,mode=0700"]
        {
            let about = format!("{reference} with a cache of {size:?}");
            let cache = SmallCache::new(&imgmount, size);
            let mounted = imgmount.mount(&reference, &SMALL_CACHE);
            assert_whole(&mounted, &about);
            mount_remount(&cache.0, MountFlags::empty(), c"size=64M,mode=0700").unwrap();
            let next = imgmount.mount(&reference, &SMALL_CACHE);
            assert_whole(&next, &format!("the mount after {about}"));
            read_large(&mounted, false, &about);
            assert!(!files(&cache.0, "idx").is_empty(), "{about}: no index is stored");
        }
    }
}

#[test]
fn x37_a_cache_directory_that_becomes_read_only_in_use_costs_a_warning_and_no_right_byte() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &image());
    let path = imgmount.write("image.tar", &tar(&oci(&[image()])));
    for reference in [path.display().to_string(), registry.reference("app:1")] {
        let _ = fs::remove_dir_all(imgmount.cache());
        let mounted = imgmount.mount(&reference, &SMALL_CACHE);
        let cache = imgmount.cache();
        // Nothing but a few blocks and indexes is left, so that something is to be written.
        for folder in [cache.clone(), cache.join("blobs")].iter().filter(|folder| folder.exists()) {
            files(folder, "").iter().for_each(|path| fs::remove_file(path).unwrap());
        }
        mount_bind(&cache, &cache).unwrap();
        let cover = SmallCache(cache.clone());
        mount_remount(&cache, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
        read_large(&mounted, false, &reference);
        let next = imgmount.mount(&reference, &SMALL_CACHE);
        assert!(next.run.stderr.contains("cache"), "{reference}: {}", next.run.stderr);
        assert_whole(&next, &reference);
        run(imgmount.command(&["cache", "clear"]).arg("-q"));
        drop((next, cover));
        assert_whole(&imgmount.mount(&reference, &SMALL_CACHE), &reference);
    }
}
