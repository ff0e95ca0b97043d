//! Reads whole trees through the file system, and compares them path by path.
//!
//! [`Snapshot::of`] reads a directory with the calls that any program would use;
//! [`Snapshot::described`] is the expected tree. Neither uses imgmount.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::fixture::{Item, Kind};

/// Number of differences that are printed; the others are only counted.
const MAX_REPORTED: usize = 40;

/// A tree: every path below its root, and the root itself as an empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    nodes: BTreeMap<Vec<u8>, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    /// Size in bytes; 0 unless the node is a file or a symlink.
    size: u64,
    mtime: (i64, i64),
    nlink: u64,
    /// Major and minor number.
    rdev: Option<(u32, u32)>,
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sha256: Option<[u8; 32]>,
    /// For a file with several names, the first name in the order of bytes.
    shared_with: Option<Vec<u8>>,
}

/// A field that a comparison leaves out, because one side does not have it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    /// Mode, owner, time and attributes of the root.
    Root,
    /// Link counts of directories, which overlay and btrfs do not keep.
    DirectoryLinks,
    /// Link counts of files: the kernel's overlay shows those of the layer's directory, although other names
    /// may be deleted or changed.
    FileLinks,
    /// Times of directories, which engines set when they add to one.
    DirectoryTimes,
    /// The fraction of a second of each time.
    Nanoseconds,
    /// Attributes named `user.*`, which docker does not export.
    UserXattrs,
}

impl Snapshot {
    /// Reads the tree below `dir`.
    pub(crate) fn of(dir: &Path) -> Self {
        let paths = walk(dir);
        let next = AtomicUsize::new(0);
        let work = || {
            let mut read = Vec::new();
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let node = read_node(&dir.join(path));
                read.push((path.as_os_str().as_bytes().to_vec(), node));
            }
            read
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let mut read: Vec<_> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("a reader panicked")).collect()
        });
        read.sort_by(|(a, _), (b, _)| a.cmp(b));

        let mut first_name = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for (path, (mut node, inode)) in read {
            if node.kind != "directory" && node.nlink > 1 {
                node.shared_with = Some(first_name.entry(inode).or_insert_with(|| path.clone()).clone());
            }
            nodes.insert(path, node);
        }
        Snapshot { nodes }
    }

    /// Returns the tree that consists of these items. Each directory must be among them. The root need not
    /// be; its defaults are mode 0755, owner 0:0 and the time of the epoch. A hard link is a further name
    /// of a file.
    pub(crate) fn described(items: &[Item]) -> Self {
        let mut nodes = BTreeMap::from([(Vec::new(), described_node(&crate::fixture::dir("").mtime(0, 0)))]);
        for item in items.iter().filter(|item| !matches!(item.kind, Kind::Hardlink(_))) {
            let parent = parent_of(&item.name);
            assert!(nodes.contains_key(parent), "{:?}: describe its parent first", text(&item.name));
            if matches!(item.kind, Kind::Dir) && !item.name.is_empty() {
                nodes.get_mut(parent).expect("a parent").nlink += 1;
            }
            nodes.insert(item.name.clone(), described_node(item));
        }
        for item in items {
            if let Kind::Hardlink(to) = &item.kind {
                let mut names: Vec<_> = nodes
                    .iter()
                    .filter(|(path, node)| shares(path, node, to))
                    .map(|(p, _)| p.clone())
                    .collect();
                names.push(item.name.clone());
                names.sort();
                let mut node = nodes.get(to).expect("a hard link to a described file").clone();
                node.nlink = names.len() as u64;
                node.shared_with = names.first().cloned();
                nodes.extend(names.into_iter().map(|name| (name, node.clone())));
            }
        }
        Snapshot { nodes }
    }

    /// Returns the tree without `field`.
    pub(crate) fn without(mut self, field: Field) -> Self {
        let mut names: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for first in self.nodes.values().filter_map(|node| node.shared_with.clone()) {
            *names.entry(first).or_default() += 1;
        }
        for (path, node) in &mut self.nodes {
            let is_dir = node.kind == "directory";
            match field {
                Field::Root if path.is_empty() => {
                    (node.mode, node.owner, node.mtime) = (0, (0, 0), (0, 0));
                    node.xattrs.clear();
                }
                Field::DirectoryLinks if is_dir => node.nlink = 0,
                Field::FileLinks if !is_dir => {
                    node.nlink = 0;
                    // A file whose other names are gone shares nothing.
                    node.shared_with = node.shared_with.take().filter(|first| names.get(first) > Some(&1));
                }
                Field::DirectoryTimes if is_dir => node.mtime = (0, 0),
                Field::Nanoseconds => node.mtime.1 = 0,
                Field::UserXattrs => node.xattrs.retain(|name, _| !name.starts_with(b"user.")),
                _ => {}
            }
        }
        self
    }

    /// Returns the tree without `paths` and everything below them.
    pub(crate) fn without_paths(mut self, paths: &[&str]) -> Self {
        let below = |path: &[u8], top: &[u8]| {
            path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.nodes.retain(|path, _| !paths.iter().any(|top| below(path, top.as_bytes())));
        self
    }

    /// Returns the number of paths, including the root.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Panics with the differences, path by path, unless `found` is the same tree.
    #[track_caller]
    pub(crate) fn assert_shown_by(&self, found: &Snapshot, about: &str) {
        let differences = self.differences(found);
        let mut report = String::new();
        for difference in differences.iter().take(MAX_REPORTED) {
            writeln!(report, "  {difference}").expect("writing to memory");
        }
        let rest = differences.len().saturating_sub(MAX_REPORTED);
        assert!(differences.is_empty(), "{about}: trees differ\n{report}  and {rest} more");
    }

    /// Returns one line for each path that differs in `found`.
    fn differences(&self, found: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, wanted) in &self.nodes {
            match found.nodes.get(path) {
                None => lines.push(format!("/{}: missing", text(path))),
                Some(node) if node != wanted => {
                    lines.push(format!("/{}: {}", text(path), wanted.differences(node)));
                }
                Some(_) => {}
            }
        }
        let unwanted = found.nodes.keys().filter(|path| !self.nodes.contains_key(*path));
        lines.extend(unwanted.map(|path| format!("/{}: should not be there", text(path))));
        lines
    }
}

impl Node {
    fn differences(&self, found: &Node) -> String {
        let mut parts = Vec::new();
        let mut compare = |field: &str, wanted: String, found: String| {
            if wanted != found {
                parts.push(format!("{field} should be {wanted}, is {found}"));
            }
        };
        let bytes = |value: &Option<Vec<u8>>| value.as_deref().map_or("none".to_owned(), text);
        let hash = |value: &Option<[u8; 32]>| format!("{:02x?}", value.map(|hash| hash[..4].to_vec()));
        let xattrs = |node: &Node| {
            let pairs = node.xattrs.iter().map(|(name, value)| format!("{}={}", text(name), text(value)));
            pairs.collect::<Vec<_>>().join(",")
        };
        compare("type", self.kind.into(), found.kind.into());
        compare("mode", format!("{:04o}", self.mode), format!("{:04o}", found.mode));
        compare("owner", format!("{:?}", self.owner), format!("{:?}", found.owner));
        compare("size", self.size.to_string(), found.size.to_string());
        compare("mtime", format!("{:?}", self.mtime), format!("{:?}", found.mtime));
        compare("nlink", self.nlink.to_string(), found.nlink.to_string());
        compare("rdev", format!("{:?}", self.rdev), format!("{:?}", found.rdev));
        compare("target", bytes(&self.target), bytes(&found.target));
        compare("xattrs", xattrs(self), xattrs(found));
        compare("sha256", hash(&self.sha256), hash(&found.sha256));
        compare("inode shared with", bytes(&self.shared_with), bytes(&found.shared_with));
        parts.join("; ")
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |slash| &path[..slash])
}

/// Whether `path` is a name of the file that `other` names.
fn shares(path: &[u8], node: &Node, other: &[u8]) -> bool {
    path == other || node.shared_with.as_deref() == Some(other)
}

fn described_node(item: &Item) -> Node {
    let mut node = Node {
        kind: "file",
        mode: item.mode,
        owner: (
            u32::try_from(item.uid).expect("an owner of 32 bits"),
            u32::try_from(item.gid).expect("a group of 32 bits"),
        ),
        size: 0,
        mtime: (item.mtime.0.cast_signed(), item.mtime.1.into()),
        nlink: 1,
        rdev: None,
        target: None,
        xattrs: item.xattrs.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())).collect(),
        sha256: None,
        shared_with: None,
    };
    match &item.kind {
        Kind::File(content) => set_content(&mut node, content),
        Kind::Sparse(size, parts) => {
            let mut content = vec![0; usize::try_from(*size).expect("a size that fits memory")];
            for (offset, bytes) in parts {
                let start = usize::try_from(*offset).expect("an offset that fits memory");
                content[start..start + bytes.len()].copy_from_slice(bytes);
            }
            set_content(&mut node, &content);
        }
        Kind::Dir => (node.kind, node.nlink) = ("directory", 2),
        Kind::Symlink(target) => {
            (node.kind, node.size, node.target) = ("symlink", target.len() as u64, Some(target.clone()));
        }
        Kind::Char(major, minor) => (node.kind, node.rdev) = ("char", Some((*major, *minor))),
        Kind::Block(major, minor) => (node.kind, node.rdev) = ("block", Some((*major, *minor))),
        Kind::Fifo => node.kind = "fifo",
        Kind::Hardlink(_) | Kind::Raw(_) => unreachable!("no node of its own"),
    }
    node
}

fn set_content(node: &mut Node, content: &[u8]) {
    node.size = content.len() as u64;
    node.sha256 = Some(Sha256::digest(content).into());
}

/// Returns every path below `dir`, relative to it, and the empty path.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::new()];
    let mut open = vec![PathBuf::new()];
    while let Some(parent) = open.pop() {
        let full = dir.join(&parent);
        for entry in fs::read_dir(&full).unwrap_or_else(|e| panic!("listing {}: {e}", full.display())) {
            let entry = entry.unwrap_or_else(|e| panic!("listing {}: {e}", full.display()));
            let path = parent.join(entry.file_name());
            if entry.file_type().expect("a type in the listing").is_dir() {
                open.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths
}

/// Returns the node at `path` and its inode number.
fn read_node(path: &Path) -> (Node, u64) {
    let fail = |what: &str, e: io::Error| -> ! { panic!("{what} {}: {e}", path.display()) };
    let meta = path.symlink_metadata().unwrap_or_else(|e| fail("stat of", e));
    let file_type = meta.file_type();
    let kind = match () {
        () if file_type.is_dir() => "directory",
        () if file_type.is_symlink() => "symlink",
        () if file_type.is_char_device() => "char",
        () if file_type.is_block_device() => "block",
        () if file_type.is_fifo() => "fifo",
        () if file_type.is_socket() => "socket",
        () => "file",
    };
    let is_device = matches!(kind, "char" | "block");
    let node = Node {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        size: if matches!(kind, "file" | "symlink") { meta.len() } else { 0 },
        mtime: (meta.mtime(), meta.mtime_nsec()),
        nlink: meta.nlink(),
        rdev: is_device.then(|| (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()))),
        target: (kind == "symlink").then(|| {
            fs::read_link(path).unwrap_or_else(|e| fail("readlink of", e)).into_os_string().into_vec()
        }),
        xattrs: read_xattrs(path).unwrap_or_else(|e| fail("attributes of", e)),
        sha256: (kind == "file").then(|| hash_file(path).unwrap_or_else(|e| fail("reading", e))),
        shared_with: None,
    };
    (node, meta.ino())
}

fn read_xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    /// Linux: XATTR_LIST_MAX and XATTR_SIZE_MAX, in bytes.
    const XATTR_MAX: usize = 65_536;
    let mut names = vec![0; XATTR_MAX];
    let len = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = BTreeMap::new();
    for name in names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; XATTR_MAX];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

fn hash_file(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            len => hash.update(&buffer[..len]),
        }
    }
}

#[test]
fn a_described_tree_equals_the_same_tree_on_disk() {
    let disk = tempfile::tempdir().unwrap();
    let items = [
        crate::fixture::dir("d"),
        crate::fixture::file("d/a", b"hello"),
        crate::fixture::hardlink("b", "d/a"),
        crate::fixture::symlink("s", "d/a"),
    ];
    fs::create_dir(disk.path().join("d")).unwrap();
    fs::write(disk.path().join("d/a"), b"hello").unwrap();
    fs::hard_link(disk.path().join("d/a"), disk.path().join("b")).unwrap();
    std::os::unix::fs::symlink("d/a", disk.path().join("s")).unwrap();
    let differences = Snapshot::described(&items).differences(&Snapshot::of(disk.path()));
    let other_than_time_and_owner: Vec<_> = differences
        .iter()
        .flat_map(|line| line.split(": ").nth(1).unwrap_or("").split("; "))
        .filter(|part| !["mtime", "owner", "mode"].iter().any(|field| part.starts_with(field)))
        .collect();
    assert_eq!(other_than_time_and_owner, [""; 0]);
}

#[test]
fn a_difference_names_path_field_and_both_values() {
    let wanted = Snapshot::described(&[crate::fixture::file("a", b"1").mode(0o644)]);
    let found = Snapshot::described(&[crate::fixture::file("a", b"1").mode(0o600)]);
    assert_eq!(wanted.differences(&found), ["/a: mode should be 0644, is 0600"]);
}
