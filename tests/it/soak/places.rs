//! Cache directories, and what happens to them: damage, removal, a full disk, a file system that cannot be
//! written.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use super::Soak;
use crate::mounted::{Imgmount, is_root};
use crate::numbers::Random;

/// The size of a cache directory that can become full: more than all images need.
const TMPFS_OPTIONS: &CStr = c"size=96M,mode=0700";

/// A cache directory, shared by slots.
pub(super) struct Place {
    pub(super) imgmount: Imgmount,
    /// Whether the cache directory is a small file system of its own.
    is_small: bool,
    /// How often an index, tree or seekable copy was damaged.
    index_damages: AtomicU64,
    /// How many file systems that cannot be written cover the cache directory.
    covers: AtomicU64,
}

impl Place {
    /// Returns a place whose cache directory can become full or read-only, if the tests run as root.
    pub(super) fn new(is_small: bool) -> Self {
        let (imgmount, is_small) = (Imgmount::new(), is_small && is_root());
        if is_small {
            fs::create_dir(imgmount.cache()).expect("a cache directory");
            mount("tmpfs", imgmount.cache(), "tmpfs", MountFlags::empty(), Some(TMPFS_OPTIONS))
                .expect("a tmpfs");
        }
        Place { imgmount, is_small, index_damages: AtomicU64::new(0), covers: AtomicU64::new(0) }
    }

    pub(super) fn index_damages(&self) -> u64 {
        self.index_damages.load(Ordering::SeqCst)
    }

    /// Removes all files.
    pub(super) fn clear(&self) {
        // In a file system of its own, the directory itself stays.
        let _ = fs::remove_dir_all(self.imgmount.cache());
    }

    fn fill(&self) {
        if let Ok(mut filler) = File::create(self.filler()) {
            while filler.write_all(&[0; 64 << 10]).is_ok() {}
        }
    }

    fn filler(&self) -> PathBuf {
        self.imgmount.cache().join("filler")
    }

    fn make_read_only(&self) {
        let cache = self.imgmount.cache();
        mount_bind(&cache, &cache).expect("a bind mount");
        mount_remount(&cache, MountFlags::BIND | MountFlags::RDONLY, c"").expect("a read-only bind mount");
        self.covers.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes the directory writable again, with free space.
    pub(super) fn repair(&self) {
        for _ in 0..self.covers.swap(0, Ordering::SeqCst) {
            unmount(self.imgmount.cache(), UnmountFlags::DETACH).expect("removing a bind mount");
        }
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.repair();
        if self.is_small {
            let _ = unmount(self.imgmount.cache(), UnmountFlags::DETACH);
        }
    }
}

/// Truncates, changes or removes something in a cache directory, or makes it full or read-only.
pub(super) fn damage(soak: &Soak, random: &mut Random) {
    thread::sleep(Duration::from_millis(random.next() % 150));
    let place = random.pick(&soak.places);
    let cache = place.imgmount.cache();
    let blobs = listed(&cache.join("blobs"));
    let indexes = listed(&cache);
    let what = match random.below(24) {
        0..4 => {
            blobs.iter().for_each(|path| change(path, |file| file.set_len(0)));
            "downloads truncated"
        }
        4 => {
            blobs.iter().for_each(|path| drop(fs::remove_file(path)));
            "downloads removed"
        }
        5 => {
            let folder = random.pick(&["blobs", "docs", "refs"]);
            drop(fs::remove_dir_all(cache.join(folder)));
            "folders of a cache removed"
        }
        6 => {
            indexes.iter().for_each(|path| drop(fs::remove_file(path)));
            "indexes removed"
        }
        7..9 if !blobs.is_empty() => {
            drop(fs::remove_file(random.pick::<PathBuf>(&blobs)));
            "downloads removed"
        }
        9..12 if !blobs.is_empty() => {
            cut(random.pick::<PathBuf>(&blobs), random);
            "downloads truncated"
        }
        12..16 if !blobs.is_empty() => {
            flip(random.pick::<PathBuf>(&blobs), random);
            "downloads changed"
        }
        16 => {
            let folder = cache.join(random.pick(&["docs", "refs"]));
            listed(&folder).iter().for_each(|path| flip(path, random));
            "documents changed"
        }
        17 if !indexes.is_empty() => {
            place.index_damages.fetch_add(1, Ordering::SeqCst);
            cut(random.pick::<PathBuf>(&indexes), random);
            "indexes truncated"
        }
        18..20 if !indexes.is_empty() => {
            place.index_damages.fetch_add(1, Ordering::SeqCst);
            flip(random.pick::<PathBuf>(&indexes), random);
            "indexes changed"
        }
        20 if place.is_small && random.once_in(3) => {
            place.fill();
            "caches full"
        }
        21 if place.is_small && random.once_in(3) => {
            place.make_read_only();
            "caches read-only"
        }
        22 if random.once_in(2) => {
            place.repair();
            "caches repaired"
        }
        _ => return,
    };
    soak.count(what);
}

/// Returns the files in a directory, which can be gone.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

fn cut(path: &Path, random: &mut Random) {
    change(path, |file| {
        let size = file.metadata()?.len();
        file.set_len(random.next() % (size + 1))
    });
}

fn flip(path: &Path, random: &mut Random) {
    change(path, |file| {
        let size = file.metadata()?.len().max(1);
        (0..=random.below(20)).try_for_each(|_| {
            let byte = *random.pick(&[0, 1, 255]);
            file.write_all_at(&[byte], random.next() % size)
        })
    });
}

/// Changes a file. It can be gone, and the directory can be full or read-only: then nothing happens.
fn change(path: &Path, change: impl FnOnce(&File) -> std::io::Result<()>) {
    if let Ok(file) = File::options().read(true).write(true).open(path) {
        let _ = change(&file);
    }
}
