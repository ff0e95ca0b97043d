//! Compares imgmount with the kernel: random layers, unpacked as engines do and merged by overlayfs,
//! must give the same tree.
//!
//! Engines unpack each layer into its own directory, turn whiteouts into 0/0 character devices and
//! opaque marks into an attribute, and leave merging to overlayfs (kernel documentation,
//! filesystems/overlayfs.rst). The layers here contain only what every engine accepts: parents have
//! entries, and whiteouts name existing paths.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::fixture::{Image, Item, Kind, dir, file, oci, opaque, symlink as link, tar, whiteout};
use crate::mounted::{Imgmount, Need, have};
use crate::numbers::Random;
use crate::seed;
use crate::tree::{Field, Snapshot};

const CASES: u64 = 40;
const LAYERS: usize = 5;
/// Few names, so that layers meet. Each may be a directory in one layer and a file in the next.
const NAMES: [&str; 12] =
    ["a", "b", "a/a", "a/b", "a/a/a", "a/a/b", "b/a", "b/a/a", "b/b", "b/b/b", "a/b/a", "c"];

#[test]
fn overlayfs_shows_the_same_tree() {
    if !have(&[Need::Fuse, Need::Root]) {
        return;
    }
    let seed = seed::seed();
    for case in 0..CASES {
        let imgmount = Imgmount::new();
        let mut random = Random::new(seed, case);
        let mut image = Image::named("a:1");
        let mut unpacked = vec![imgmount.dir().join("nothing")];
        fs::create_dir(&unpacked[0]).unwrap();
        for number in 0..LAYERS {
            let below = Overlay::mount(&imgmount, &unpacked).paths();
            let items = layer(&mut random, number, &below);
            image = image.layer("COPY", &items);
            unpacked.push(imgmount.dir().join(format!("layer{number}")));
            unpack(&items, unpacked.last().unwrap());
        }
        let path = imgmount.write("image.tar", &tar(&oci(&[image])));
        let mounted = imgmount.mount(&path, &[]);
        let overlay = Overlay::mount(&imgmount, &unpacked);
        let whole = |path: &Path| Snapshot::of(path).without(Field::Root).without(Field::DirectoryLinks);
        whole(&overlay.point).assert_shown_by(&whole(mounted.path()), &format!("case {case}"));
    }
}

/// Returns a random layer over a tree with the paths `below`, each with a flag for directories.
fn layer(random: &mut Random, number: usize, below: &BTreeMap<String, bool>) -> Vec<Item> {
    let mut own: BTreeMap<String, Item> = BTreeMap::new();
    let mut marks = Vec::new();
    for turn in 0..8_u8 {
        let name = *random.pick(&NAMES);
        let is_below = |other: &[u8]| other.starts_with(format!("{name}/").as_bytes());
        let mut others =
            own.keys().map(String::as_bytes).chain(marks.iter().map(|mark: &Item| &mark.name[..]));
        let has_children = others.any(is_below);
        let time = 1_600_000_000 + number as u64 * 100 + u64::from(turn);
        match random.below(6) {
            0 | 1 if !has_children => {
                let item = file(name, format!("{number}.{turn}")).mode(0o600 + u32::from(turn));
                put(&mut own, name, item.mtime(time, 5).owner(number as u64, 7).xattr("user.turn", [turn]));
            }
            2 if !has_children => put(&mut own, name, link(name, format!("to-{turn}")).mtime(time, 0)),
            3 => put(&mut own, name, dir(name).mode(0o700 + u32::from(turn)).mtime(time, 0)),
            4 => {
                put(&mut own, name, dir(name).mtime(time, 0));
                let marked: Option<&Item> = own.get(name);
                if marked.is_some_and(|item| matches!(item.kind, Kind::Dir)) {
                    marks.push(opaque(name));
                }
            }
            _ => {}
        }
    }
    let gone: Vec<&String> =
        below.keys().filter(|name| !own.contains_key(*name) && random.once_in(4)).collect();
    for name in gone {
        delete(&mut own, &mut marks, name, below);
    }
    // Marks hide only lower layers, whatever their position in the layer.
    let mut items: Vec<Item> = own.into_values().collect();
    for mark in marks {
        let parent = parent_of(std::str::from_utf8(&mark.name).unwrap()).unwrap_or_default().to_owned();
        let after = items.iter().position(|item| item.name == parent.as_bytes()).map_or(0, |at| at + 1);
        let at = after + random.below(items.len() - after + 1);
        items.insert(at, mark);
    }
    items
}

/// Adds an entry, with entries for its parents, unless a parent is not a directory in this layer.
fn put(own: &mut BTreeMap<String, Item>, name: &str, item: Item) {
    let mut parents: Vec<&str> = std::iter::successors(parent_of(name), |name| parent_of(name)).collect();
    parents.reverse();
    let free = |name: &&str| own.get(*name).is_none_or(|item| matches!(item.kind, Kind::Dir));
    if parents.iter().all(free) {
        for parent in parents {
            own.entry(parent.to_owned()).or_insert_with(|| dir(parent));
        }
        own.insert(name.to_owned(), item);
    }
}

/// Adds a whiteout if its directory is a directory in all layers, so that the kernel merges all of
/// them.
fn delete(
    own: &mut BTreeMap<String, Item>,
    marks: &mut Vec<Item>,
    name: &str,
    below: &BTreeMap<String, bool>,
) {
    let parents: Vec<&str> = std::iter::successors(parent_of(name), |name| parent_of(name)).collect();
    let is_opaque = |name: &str| marks.iter().any(|mark| mark.name == opaque(name).name);
    let merged = |name: &&str| {
        below.get(*name) == Some(&true)
            && !is_opaque(name)
            && own.get(*name).is_none_or(|item| matches!(item.kind, Kind::Dir))
    };
    let deleted = |name: &&str| marks.iter().any(|mark| mark.name == whiteout(name).name);
    if parents.iter().all(merged) && !parents.iter().any(deleted) {
        for parent in parents.iter().rev() {
            own.entry((*parent).to_owned()).or_insert_with(|| dir(parent));
        }
        marks.push(whiteout(name));
    }
}

fn parent_of(name: &str) -> Option<&str> {
    name.rsplit_once('/').map(|(parent, _)| parent)
}

/// Unpacks a layer as an engine does.
fn unpack(items: &[Item], to: &Path) {
    fs::create_dir(to).unwrap();
    for item in items {
        let path = to.join(std::ffi::OsStr::from_bytes(&item.name));
        let (parent, name) = (path.parent().unwrap(), path.file_name().unwrap().to_str().unwrap());
        if name == ".wh..wh..opq" {
            rustix::fs::lsetxattr(parent, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        } else if let Some(name) = name.strip_prefix(".wh.") {
            mknodat(CWD, parent.join(name), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        } else {
            make(item, &path);
        }
    }
    // Times are set last, since each new entry changes the time of its directory.
    for item in items.iter().rev() {
        let path = to.join(std::ffi::OsStr::from_bytes(&item.name));
        if !item.name.rsplit(|byte| *byte == b'/').next().unwrap().starts_with(b".wh.") {
            let time = Timespec { tv_sec: item.mtime.0.cast_signed(), tv_nsec: item.mtime.1.into() };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
    }
}

fn make(item: &Item, path: &Path) {
    match &item.kind {
        Kind::File(content) => fs::write(path, content).unwrap(),
        Kind::Dir => fs::create_dir(path).unwrap(),
        Kind::Symlink(target) => return symlink(std::ffi::OsStr::from_bytes(target), path).unwrap(),
        other => panic!("not in these layers: {other:?}"),
    }
    let id = |id: u64| Some(u32::try_from(id).unwrap());
    chown(path, id(item.uid), id(item.gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(item.mode)).unwrap();
    for (name, value) in &item.xattrs {
        rustix::fs::lsetxattr(path, name.as_str(), value, XattrFlags::empty()).unwrap();
    }
}

/// An overlay of directories, the lowest first, unmounted when dropped.
struct Overlay {
    point: PathBuf,
}

impl Overlay {
    fn mount(imgmount: &Imgmount, layers: &[PathBuf]) -> Self {
        let point = imgmount.mount_point();
        let mut lower: Vec<&str> = layers.iter().rev().map(|path| path.to_str().unwrap()).collect();
        // The kernel requires at least two layers.
        if lower.len() == 1 {
            lower.push(imgmount.dir().to_str().unwrap());
            return Overlay { point };
        }
        let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
        rustix::mount::mount("overlay", &point, "overlay", MountFlags::RDONLY, options.as_c_str()).unwrap();
        Overlay { point }
    }

    /// Returns every path, and whether it is a directory.
    fn paths(&self) -> BTreeMap<String, bool> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.point.clone()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
                let is_directory = entry.file_type().unwrap().is_dir();
                let name = entry.path().strip_prefix(&self.point).unwrap().to_str().unwrap().to_owned();
                found.insert(name, is_directory);
                if is_directory {
                    todo.push(entry.path());
                }
            }
        }
        found
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // Fails for the first one, which is a plain directory.
        let _ = rustix::mount::unmount(&self.point, UnmountFlags::DETACH);
    }
}
