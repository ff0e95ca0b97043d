//! A directory as a layer: its files are laid out as a tar.
//!
//! Snapshots, writable layers of containers and unpacked root file systems are directories. A walk over such
//! a directory makes a [`TarPlan`], and then everything that reads layers reads the directory, too. This
//! module owns the order of the walk, its limits, and what is left out. [`seen`] makes the system calls,
//! [`marks`] knows the marks of overlays, and [`owner`] translates owners. This module must not know engines.
//!
//! Members are ordered parents first, siblings sorted by bytes; the root is `./`. A file with several names
//! is a file under the first name and a hard link under the others. The tar holds names, types, modes,
//! owners, times of modification, extended attributes and holes. Contents are read later, and a file that has
//! changed by then is an error: the plan holds its inode number, size and times.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::vec;

use rustix::fs::OFlags;
use rustix::io::Errno;

use self::marks::{DirectoryMarks, MarkedType, Meaning, OPAQUE_NAME, WHITEOUT_PREFIX};
use self::owner::{OVERRIDE_STAT, OverrideKind, OverrideStat};
use self::seen::{Fault, NamedFault, Node, Type};
use super::assembled::{FileCheck, FilePart, PlanBuilder, TarPlan};
use super::beneath::Beneath;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, Result, Subject};
use crate::layer::entry::{Meta, Xattrs};
use crate::layer::tar::encode::{BLOCK_BYTES, Kind, Member, SparseMap, encode, pad};
use crate::path::{MAX_PATH_BYTES, escape, escape_path};

mod marks;
mod owner;
mod privilege;
mod seen;
#[cfg(test)]
mod tests;

pub(super) use self::marks::DirectoryForm;
pub(super) use self::owner::IdMap;
#[allow(unused_imports, reason = "stores of rootless engines use it")]
pub(super) use self::owner::IdRange;

/// The attribute with which SELinux marks a file for this host. It is no part of an image
/// (docs/semantics.md M9).
const HOST_LABEL: &[u8] = b"security.selinux";

/// Lays the directory `root`, which stores a layer in `form`, out as a tar. Returns the tar, and the digest of
/// all that was seen in the walk: it identifies the contents as long as no file changes.
///
/// # Errors
/// [`Error::Unsupported`] for attributes of an overlay that are not supported, and without the right to read
/// them; [`Error::Limit`] for directories that are too large or too deep; [`Error::Malformed`] for broken
/// attributes; [`Error::Io`], also when the directory changes during the walk.
pub(super) fn plan(root: &Beneath, form: DirectoryForm, ids: &IdMap) -> Result<(TarPlan, Digest)> {
    if form == DirectoryForm::Overlay {
        privilege::check_trusted(root.path())?;
    }
    let mut walk = Walk::new(root, form, ids);
    walk.enter(Vec::new())?;
    walk.all_below()?;
    walk.finish()
}

/// A directory whose files are being laid out.
struct Level {
    /// Path below the root; empty for the root.
    path: Vec<u8>,
    marks: DirectoryMarks,
    /// The files that follow.
    nodes: vec::IntoIter<Node>,
}

struct Walk<'a> {
    root: &'a Beneath,
    form: DirectoryForm,
    ids: &'a IdMap,
    plan: PlanBuilder,
    hasher: Hasher,
    /// The first path of each file with several names, by device and inode number.
    first_paths: HashMap<(u64, u64), Vec<u8>>,
    /// The directories from the root to the current one.
    levels: Vec<Level>,
    /// Number of files so far, and the bytes of their names, link targets and attributes.
    entries: u64,
    metadata_bytes: u64,
    /// Number of the mount that holds the root.
    mount: u64,
    /// Whether the root says that its layer has empty files as whiteouts.
    whiteout_files: bool,
    left_out: LeftOut,
}

/// What was left out, for one warning each: how many, and the path of the first.
#[derive(Default)]
struct LeftOut {
    sockets: Option<(u64, Vec<u8>)>,
    mark_names: Option<(u64, Vec<u8>)>,
    mounts: Option<(u64, Vec<u8>)>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Beneath, form: DirectoryForm, ids: &'a IdMap) -> Self {
        Walk {
            root,
            form,
            ids,
            plan: PlanBuilder::new(),
            hasher: Algorithm::Blake3.hasher(),
            first_paths: HashMap::new(),
            levels: Vec::new(),
            entries: 0,
            metadata_bytes: 0,
            mount: 0,
            whiteout_files: false,
            left_out: LeftOut::default(),
        }
    }

    /// Lays out everything below the directory that was entered.
    fn all_below(&mut self) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            let Some(node) = level.nodes.next() else {
                self.levels.pop();
                continue;
            };
            let (marks, path) = (level.marks, join(&level.path, &node.name));
            self.node(path, &node, marks)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(TarPlan, Digest)> {
        self.left_out.warn(self.root);
        // A tar ends with two blocks of zeros.
        self.plan.literal(&[0; 2 * BLOCK_BYTES]);
        let cannot =
            |cause| Error::io_on("cannot build a tar of", Subject::Archive(self.root.path().into()), cause);
        Ok((self.plan.finish().map_err(cannot)?, self.hasher.finish()))
    }

    /// Lays out the directory at `path` and begins with its files.
    fn enter(&mut self, path: Vec<u8>) -> Result<()> {
        let in_root: &[u8] = if path.is_empty() { b"." } else { &path };
        let opened = seen::open(self.root.fd(), in_root, OFlags::DIRECTORY);
        let directory = opened.map_err(|cause| match cause {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => self.error(&path, &Fault::Changed),
            cause => self.error(&path, &Fault::Io { action: "cannot open", cause }),
        })?;
        let (node, nodes) =
            seen::read_directory(&directory, self.root.limits()).map_err(|NamedFault { name, fault }| {
                let full = name.map_or_else(|| path.clone(), |name| join(&path, &name));
                self.error(&full, &fault)
            })?;
        let marks = marks::directory_marks(self.form, node.xattrs());
        let mut marks = marks.map_err(|refused| self.refuse(&path, &refused))?;
        if path.is_empty() {
            self.mount = node.stat.mount;
            self.whiteout_files = marks.whiteout_files;
        }
        // The kernel looks for them in every directory of a layer whose root says so, and in no other layer.
        // The mark on other directories only makes listing them faster.
        marks.whiteout_files = self.whiteout_files;
        self.count(&path, &nodes)?;
        self.object(&path, &node)?;
        if marks.opaque {
            let meta = Meta { mtime: node.stat.mtime, ..Meta::default() };
            self.member(&join(&path, OPAQUE_NAME), Kind::File(0), meta, Xattrs::default());
        }
        self.levels.push(Level { path, marks, nodes: nodes.into_iter() });
        Ok(())
    }

    /// Checks the limits on the number of files and on their metadata.
    fn count(&mut self, path: &[u8], nodes: &[Node]) -> Result<()> {
        self.entries += nodes.len() as u64;
        for node in nodes {
            let target = if let Type::Symlink(target) = &node.kind { target.len() } else { 0 };
            self.metadata_bytes += (path.len() + node.name.len() + target + node.xattrs.len()) as u64;
        }
        let limits = self.root.limits();
        let checked = Fault::check(limits.entries(), self.entries)
            .and_then(|()| Fault::check(limits.metadata_bytes(), self.metadata_bytes));
        checked.map_err(|fault| self.error(path, &fault))
    }

    fn node(&mut self, path: Vec<u8>, node: &Node, directory: DirectoryMarks) -> Result<()> {
        let (value, max) = (path.len() as u64, MAX_PATH_BYTES as u64);
        if value >= max {
            return Err(self.error(&path, &Fault::Limit { limit: "MAX_PATH_BYTES", value, max }));
        }
        let kind = match &node.kind {
            Type::File => MarkedType::File(node.stat.stamp.size),
            Type::Directory => MarkedType::Directory,
            Type::Char(device) => MarkedType::Char(*device),
            _ => MarkedType::Other,
        };
        let meaning = marks::meaning(self.form, directory, &node.name, kind, node.xattrs());
        match meaning.map_err(|refused| self.refuse(&path, &refused))? {
            Meaning::Nothing => Ok(()),
            Meaning::CannotShow => {
                LeftOut::add(&mut self.left_out.mark_names, path);
                Ok(())
            }
            Meaning::Whiteout => {
                let parent = path.len() - node.name.len();
                let mut mark = path;
                mark.splice(parent..parent, WHITEOUT_PREFIX.iter().copied());
                let meta = Meta { mtime: node.stat.mtime, ..Meta::default() };
                self.member(&mark, Kind::File(0), meta, Xattrs::default());
                Ok(())
            }
            Meaning::Itself if node.stat.mount != self.mount => {
                // As in `tar --one-file-system`: a directory is shown empty.
                let is_directory = node.kind == Type::Directory;
                LeftOut::add(&mut self.left_out.mounts, path.clone());
                if is_directory { self.object(&path, node) } else { Ok(()) }
            }
            Meaning::Itself if node.kind == Type::Directory => self.enter(path),
            Meaning::Itself => self.object(&path, node),
        }
    }

    /// Lays out a file or directory.
    fn object(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let Attributes { xattrs, meta, overridden } = self.attributes(path, node)?;
        let xattrs = Xattrs::from_packed(&xattrs);
        let size = node.stat.stamp.size;
        let mut map = None;
        let kind = match (&overridden, &node.kind) {
            (Some(OverrideKind::Fifo), _) | (None, Type::Fifo) => Kind::Fifo,
            (Some(OverrideKind::Char(device)), _) | (None, Type::Char(device)) => Kind::Char(*device),
            (Some(OverrideKind::Block(device)), _) | (None, Type::Block(device)) => Kind::Block(*device),
            (Some(OverrideKind::Socket), _) | (None, Type::Socket) => {
                LeftOut::add(&mut self.left_out.sockets, path.to_vec());
                return Ok(());
            }
            (_, Type::Directory) => Kind::Directory,
            (_, Type::Symlink(target)) => Kind::Symlink(target),
            _ => {
                if node.stat.may_have_holes() {
                    map = self.sparse_map(path, node)?;
                }
                Kind::File(size)
            }
        };
        self.see(node);
        if node.kind != Type::Directory && node.stat.nlink > 1 {
            match self.first_paths.entry((node.stat.stamp.device, node.stat.stamp.inode)) {
                Entry::Vacant(vacant) => {
                    vacant.insert(path.to_vec());
                }
                Entry::Occupied(first) => {
                    let first = first.get().clone();
                    self.member(path, Kind::Hardlink(&first), meta, xattrs);
                    return self.check();
                }
            }
        }
        let runs = match (&map, &kind) {
            (Some(map), _) => map.runs().to_vec(),
            (None, Kind::File(size)) => vec![(0, *size)],
            _ => Vec::new(),
        };
        self.member(path, map.map_or(kind, Kind::Sparse), meta, xattrs);
        self.contents(path, node, &runs);
        self.check()
    }

    /// Appends the bytes of a file in these runs: offset and length.
    fn contents(&mut self, path: &[u8], node: &Node, runs: &[(u64, u64)]) {
        let expected = FileCheck::Stamp(node.stat.stamp);
        for (start, len_bytes) in runs.iter().copied().filter(|(_, len)| *len > 0) {
            self.plan.file(FilePart { path: path.to_vec(), start, len_bytes, expected });
        }
        let block = BLOCK_BYTES as u64;
        let rest = usize::try_from(self.plan.len().next_multiple_of(block) - self.plan.len()).unwrap_or(0);
        self.plan.literal([0; BLOCK_BYTES].get(..rest).unwrap_or_default());
    }

    fn sparse_map(&self, path: &[u8], node: &Node) -> Result<Option<SparseMap>> {
        let segments = seen::segments(self.root.fd(), path, &node.stat, self.root.limits());
        let segments = segments.map_err(|fault| self.error(path, &fault))?;
        Ok(SparseMap::new(node.stat.stamp.size, segments))
    }

    /// Appends the header of a member.
    fn member(&mut self, path: &[u8], kind: Kind<'_>, meta: Meta, xattrs: Xattrs<'_>) {
        let path = if path.is_empty() { b"." } else { path };
        let mut header = encode(&Member { path, kind, meta, xattrs });
        pad(&mut header);
        self.hasher.update(b"header");
        self.hasher.update(&header);
        self.plan.literal(&header);
    }

    /// Adds what a header does not hold to the identity of the directory. Device numbers change when a disk
    /// is attached again, and are left out.
    fn see(&mut self, node: &Node) {
        let stamp = node.stat.stamp;
        self.hasher.update(b"stat");
        for number in
            [stamp.inode, stamp.size, stamp.mtime_ns.cast_unsigned(), stamp.ctime_ns.cast_unsigned()]
        {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    fn attributes(&self, path: &[u8], node: &Node) -> Result<Attributes> {
        let (uid, gid) = self.ids.owner(node.stat.uid, node.stat.gid);
        let mut meta = Meta { mode: node.stat.mode & 0o7777, uid, gid, mtime: node.stat.mtime };
        let (mut xattrs, mut overridden) = (Vec::new(), None);
        for (name, value) in node.xattrs().iter() {
            if self.is_override(name) {
                let broken = || Error::malformed(self.subject(path), format!("{} is broken", text(name)));
                let stat = OverrideStat::parse(value).ok_or_else(broken)?;
                (meta.uid, meta.gid, meta.mode) = (stat.uid, stat.gid, stat.mode);
                overridden = self.overriding(path, node, stat.kind)?;
            } else if self.form.own(name).is_none()
                && name != HOST_LABEL
                && let Some(value) = self.ids.attribute(name, value.to_vec())
            {
                Xattrs::pack(&mut xattrs, name, &value);
            }
        }
        Ok(Attributes { xattrs, meta, overridden })
    }

    fn is_override(&self, name: &[u8]) -> bool {
        let by_fuse =
            || self.form == DirectoryForm::FuseOverlay && self.form.own(name) == Some(b"override_stat");
        self.ids.uses_override_stat() && (name == OVERRIDE_STAT || by_fuse())
    }

    /// Returns the type that replaces the type of a file; `None` if it is the same. Only regular files stand
    /// for files of other types.
    fn overriding(
        &self,
        path: &[u8],
        node: &Node,
        kind: Option<OverrideKind>,
    ) -> Result<Option<OverrideKind>> {
        match (kind, &node.kind) {
            (None, _)
            | (Some(OverrideKind::File), Type::File)
            | (Some(OverrideKind::Directory), Type::Directory)
            | (Some(OverrideKind::Symlink), Type::Symlink(_))
            | (Some(OverrideKind::Fifo), Type::Fifo)
            | (Some(OverrideKind::Socket), Type::Socket)
            | (Some(OverrideKind::Char(_)), Type::Char(_))
            | (Some(OverrideKind::Block(_)), Type::Block(_)) => Ok(None),
            (
                Some(
                    OverrideKind::Fifo
                    | OverrideKind::Socket
                    | OverrideKind::Char(_)
                    | OverrideKind::Block(_),
                ),
                Type::File,
            ) => Ok(kind),
            (Some(_), _) => {
                let reason = format!("{} names another type of file", text(OVERRIDE_STAT));
                Err(Error::malformed(self.subject(path), reason))
            }
        }
    }

    /// Returns an error if the plan exceeds a limit.
    fn check(&mut self) -> Result<()> {
        let cannot =
            |cause| Error::io_on("cannot build a tar of", Subject::Archive(self.root.path().into()), cause);
        self.plan.check().map_err(cannot)
    }

    fn subject(&self, path: &[u8]) -> Subject {
        if path.is_empty() {
            return Subject::Archive(self.root.path().to_owned());
        }
        Subject::Member { archive: self.root.path().to_owned(), name: text(path) }
    }

    fn error(&self, path: &[u8], fault: &Fault) -> Error {
        match (fault, fault.cause()) {
            (Fault::Limit { limit, value, max }, _) => Error::limit(self.subject(path), limit, *value, *max),
            (_, Some((action, cause))) => Error::io_on(action, self.subject(path), cause),
            (_, None) => Error::io_on("cannot read", self.subject(path), io::ErrorKind::Other.into()),
        }
    }

    fn refuse(&self, path: &[u8], refused: &marks::Refused) -> Error {
        let reason = format!("the attribute '{}': {}", text(&refused.attribute), refused.reason);
        Error::unsupported(self.subject(path), reason)
    }
}

/// The attributes of a file as a container sees them.
struct Attributes {
    /// Extended attributes in the form of [`Xattrs`].
    xattrs: Vec<u8>,
    meta: Meta,
    overridden: Option<OverrideKind>,
}

impl LeftOut {
    fn add(kind: &mut Option<(u64, Vec<u8>)>, path: Vec<u8>) {
        kind.get_or_insert((0, path)).0 += 1;
    }

    fn warn(&self, root: &Beneath) {
        let root = escape_path(root.path());
        let one = |found: &Option<(u64, Vec<u8>)>, what: &str| {
            if let Some((count, first)) = found {
                log::warn!("'{root}': {what}: {count} in total, the first is '{}'", text(first));
            }
        };
        one(&self.sockets, "sockets are left out");
        one(
            &self.mark_names,
            "files are left out that a layer cannot hold, because their name begins with '.wh.' or they are \
             the device 0/0",
        );
        one(&self.mounts, "other file systems mounted in it are left out");
    }
}

/// Returns the path of `name` in the directory at `path`.
fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Returns a name as text for messages.
fn text(name: &[u8]) -> String {
    escape(name)
}
