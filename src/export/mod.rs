//! Writes a tree, or a part of it, as a tar; the bytes are always the same for the same tree.
//!
//! This module owns names, order and parallelism; [`crate::layer::tar::encode`] owns the encoding of
//! one member. It must not know where the tar is written.
//!
//! Members are ordered parents first, siblings sorted by bytes. Their names are relative to the root
//! (`etc/passwd`); the root itself is `./`. A file with several names is a file under the first name
//! and a hard link under the others. There are no user or group names, and all times come from the
//! image.
//!
//! Holes are written as zeros by default. With `ExportOptions::sparse`, a file with holes is written
//! as a sparse file (GNU's PAX format 1.0) where that makes the tar smaller. podman 4.3 imports such a
//! file, but cannot save the image again: the layer that it assembles does not have the expected
//! digest.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::content::Schedule;
use crate::error::{Error, Result};
use crate::layer::entry::{FileData, Stored};
use crate::layer::tar::encode::{BLOCK_BYTES, Kind, Member, SparseMap, encode};
use crate::load::LoadedTree;
use crate::rootfs::{InodeId, InodeKind, ROOT};

/// Bytes that are passed to the writing thread at a time.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that may wait to be written, while the next pieces are decoded.
const PIECES: usize = 8;

/// How a tree is exported.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct ExportOptions<'a> {
    /// The name of the exported object in the tar. Empty by default: names are relative to the exported
    /// directory, and the directory is `./`.
    pub name: &'a [u8],
    /// Leave out holes of sparse files. Off by default.
    pub sparse: bool,
}

impl<'a> ExportOptions<'a> {
    /// Sets the name of the exported object in the tar.
    #[must_use]
    pub fn name(mut self, name: &'a [u8]) -> Self {
        self.name = name;
        self
    }

    /// Leaves out holes of sparse files.
    #[must_use]
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }
}

/// Writes an inode and everything below it as a tar.
///
/// # Errors
/// [`Error::Io`] if writing to `out` fails; otherwise as [`LoadedTree::read_stored`]. The tar is
/// incomplete then.
pub(crate) fn export(
    tree: &LoadedTree,
    inode: InodeId,
    options: &ExportOptions<'_>,
    out: &mut dyn Write,
) -> Result<()> {
    let (full, pieces) = sync_channel(PIECES);
    let (empty, used) = sync_channel(PIECES);
    thread::scope(|scope| {
        let exporter = Exporter {
            tree,
            options,
            schedule: schedule(tree, inode),
            first_names: HashMap::new(),
            pieces: Pieces::new(full, used),
        };
        let producer = thread::Builder::new().spawn_scoped(scope, move || exporter.run(inode));
        let producer = producer.map_err(|cause| Error::io("cannot start a thread", cause))?;
        let written = write_pieces(pieces, &empty, out);
        let produced = producer.join();
        written?;
        produced
            .unwrap_or_else(|_| Err(Error::io("cannot export", std::io::Error::other("a thread panicked"))))
    })
}

/// Returns the schedule of the files, numbered by their position in the walk.
fn schedule(tree: &LoadedTree, inode: InodeId) -> Schedule<'_> {
    let mut linked = HashSet::new();
    // The walk yields nothing for an inode that is not a directory.
    let is_directory = tree.rootfs().inode(inode).is_some_and(|inode| inode.kind == InodeKind::Directory);
    let alone = (!is_directory).then_some(inode);
    let inodes = tree.rootfs().walk(inode).map(|(_, id)| id).chain(alone);
    let files = (0..).zip(inodes).filter_map(move |(place, id)| {
        let inode = tree.rootfs().inode(id)?;
        let is_read = matches!(inode.kind, InodeKind::File(_)) && (inode.nlink < 2 || linked.insert(id));
        is_read.then_some((place, id))
    });
    tree.schedule(files)
}

/// Writes pieces until there are no more, or until one cannot be written.
fn write_pieces(pieces: Receiver<Vec<u8>>, empty: &SyncSender<Vec<u8>>, out: &mut dyn Write) -> Result<()> {
    let failed = |cause| Error::io("cannot write the tar", cause);
    for mut piece in pieces {
        out.write_all(&piece).map_err(failed)?;
        piece.clear();
        // Reusing the piece only saves an allocation, so a failure does not matter.
        let _ = empty.try_send(piece);
    }
    out.flush().map_err(failed)
}

/// Collects bytes in pieces for the writing thread.
struct Pieces {
    current: Vec<u8>,
    full: SyncSender<Vec<u8>>,
    used: Receiver<Vec<u8>>,
    written_bytes: u64,
}

impl Pieces {
    fn new(full: SyncSender<Vec<u8>>, used: Receiver<Vec<u8>>) -> Self {
        Pieces { current: Vec::with_capacity(PIECE_BYTES), full, used, written_bytes: 0 }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.written_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.current.len().min(PIECE_BYTES);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.extend_from_slice(now);
            bytes = later;
            if self.current.len() >= PIECE_BYTES {
                self.hand_on()?;
            }
        }
        Ok(())
    }

    fn push_zeros(&mut self, mut count: u64) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while count > 0 {
            let len = usize::try_from(count).map_or(ZEROS.len(), |count| count.min(ZEROS.len()));
            self.push(ZEROS.get(..len).unwrap_or_default())?;
            count -= len as u64;
        }
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        self.push_zeros(self.written_bytes.next_multiple_of(BLOCK_BYTES as u64) - self.written_bytes)
    }

    fn hand_on(&mut self) -> Result<()> {
        let next = self.used.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES));
        let full = std::mem::replace(&mut self.current, next);
        // The writing thread has ended, and reports the cause.
        self.full.send(full).map_err(|_| Error::io("cannot export", std::io::ErrorKind::BrokenPipe.into()))
    }
}

struct Exporter<'a> {
    tree: &'a LoadedTree,
    options: &'a ExportOptions<'a>,
    schedule: Schedule<'a>,
    /// The first path of each inode with several names.
    first_names: HashMap<InodeId, Vec<u8>>,
    pieces: Pieces,
}

impl Exporter<'_> {
    fn run(mut self, inode: InodeId) -> Result<()> {
        let rootfs = self.tree.rootfs();
        let name = self.options.name;
        let base = rootfs.path(inode);
        let base: &[u8] = if inode == ROOT { b"" } else { &base };
        let is_directory = rootfs.is_directory(inode);
        if is_directory {
            for (place, (path, inode)) in (0..).zip(rootfs.walk(inode)) {
                let below = path.strip_prefix(base).unwrap_or(&path);
                let path = [name, below].concat();
                self.member(path.strip_prefix(b"/").unwrap_or(&path), inode, place)?;
            }
        } else {
            self.member(name, inode, 0)?;
        }
        // A tar ends with two blocks of zeros.
        self.pieces.push_zeros(2 * BLOCK_BYTES as u64)?;
        self.pieces.hand_on()
    }

    fn member(&mut self, path: &[u8], id: InodeId, place: u64) -> Result<()> {
        let rootfs = self.tree.rootfs();
        let Some(inode) = rootfs.inode(id) else { return Ok(()) };
        let path = if path.is_empty() { b"." } else { path };
        let first_name = self.first_names.get(&id).cloned();
        let file = rootfs.file(id).map(|(_, data)| data);
        let kind = match (&first_name, inode.kind) {
            (Some(first), _) => Kind::Hardlink(first),
            (None, InodeKind::File(_)) => file.as_ref().map_or(Kind::File(0), |data| self.kind_of_file(data)),
            (None, InodeKind::Directory) => Kind::Directory,
            (None, InodeKind::Symlink(_)) => Kind::Symlink(rootfs.target(id).unwrap_or_default()),
            (None, InodeKind::Char(device)) => Kind::Char(device),
            (None, InodeKind::Block(device)) => Kind::Block(device),
            (None, InodeKind::Fifo) => Kind::Fifo,
        };
        let member = Member { path, kind, meta: inode.meta, xattrs: rootfs.xattrs(id) };
        self.pieces.push(&encode(&member))?;
        match (member.kind, file) {
            (Kind::File(size), Some(_)) => self.contents((id, place), &[(0, size)])?,
            (Kind::Sparse(map), Some(_)) => self.contents((id, place), map.runs())?,
            _ => {}
        }
        if inode.kind != InodeKind::Directory && inode.nlink > 1 && first_name.is_none() {
            self.first_names.insert(id, path.to_vec());
        }
        self.pieces.pad()
    }

    /// Writes the bytes of a file in these runs (offset and length), which contain all stored bytes; holes
    /// are written as zeros.
    fn contents(&mut self, (id, place): (InodeId, u64), runs: &[(u64, u64)]) -> Result<()> {
        let pieces = &mut self.pieces;
        let mut runs = runs.iter().map(|(offset, len)| (*offset, offset + len));
        let (mut done, mut end) = runs.next().unwrap_or_default();
        self.tree.read_stored((&self.schedule, place), id, &mut |offset, bytes| {
            while offset >= end {
                pieces.push_zeros(end - done)?;
                let Some(next) = runs.next() else { break };
                (done, end) = next;
            }
            pieces.push_zeros(offset.saturating_sub(done))?;
            done = offset + bytes.len() as u64;
            pieces.push(bytes)
        })?;
        pieces.push_zeros(end.saturating_sub(done))
    }

    fn kind_of_file<'k>(&self, data: &FileData<'_>) -> Kind<'k> {
        let map = match &data.stored {
            Stored::Sparse(segments) if self.options.sparse => {
                SparseMap::new(data.size, segments.iter_from(0))
            }
            _ => None,
        };
        map.map_or(Kind::File(data.size), Kind::Sparse)
    }
}
