//! A set of named files in a directory, in a tar, or in a tar that is compressed as a whole.
//!
//! This module owns how a name is found: links inside the archive are followed, nothing outside the archive
//! is opened (F1, F11), and a name that appears twice in a tar is refused when the name is looked up (F8).
//! File contents of a plain tar are not read to find names. This module must not know what the files mean.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher, DefaultHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use super::OpenOptions;
use super::beneath::Beneath;
use super::blobs::{BlobIdentity, FileIdentity, add_within, read_bounded};
use super::scan::{Member, MemberKind, scan};
use crate::compress::Compression;
use crate::error::{Error, Result, Subject};
use crate::limits::Limits;
use crate::path::{MAX_PATH_BYTES, clean};
use crate::read_at::{ByteRange, FileBytes, ReadAt};

/// Maximum number of links followed for one name, as in Linux. The limit also ends cycles.
const MAX_LINKS: usize = 40;

/// A set of named files in a directory or a tar.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    files: Files,
    limits: Limits,
    /// Total length of the documents that were read, in bytes.
    read_bytes: AtomicU64,
}

#[derive(Debug)]
enum Files {
    Directory(Beneath),
    Tar(Tar),
}

#[derive(Debug)]
struct Tar {
    bytes: Arc<dyn ReadAt>,
    /// Identity of the whole file.
    identity: BlobIdentity,
    members: Members,
}

/// Members by name. The hash of a name is computed component by component, so all prefixes of a name are looked
/// up in time linear in its length.
#[derive(Debug, Default)]
struct Members {
    random: RandomState,
    by_hash: HashMap<u64, Vec<MemberEntry>>,
}

#[derive(Debug)]
struct MemberEntry {
    /// The clean name: components joined by single slashes, without `.` and `..`.
    name: Vec<u8>,
    kind: MemberKind,
    /// True if the tar has the name more than once, unless all are directories.
    repeated: bool,
}

/// A file that was found in an archive.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveFile {
    /// Bytes of the file, not read yet.
    pub bytes: Arc<dyn ReadAt>,
    /// Identity of the bytes.
    pub identity: BlobIdentity,
}

/// What was found at a path.
#[derive(Debug)]
pub(super) enum Opened {
    /// A directory.
    Directory(Beneath),
    /// A regular file.
    File {
        file: File,
        /// Identity of all of the file.
        identity: BlobIdentity,
    },
}

/// Opens the directory or the regular file at `path`.
///
/// # Errors
/// [`Error::Io`] when `path` cannot be opened, [`Error::NotAnImage`] when it is something else.
pub(super) fn open_path(path: &Path, limits: Limits) -> Result<Opened> {
    let cannot = |cause: io::Error| Error::io_on("cannot open", Subject::Archive(path.to_owned()), cause);
    // O_NONBLOCK: opening a named pipe must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| cannot(e.into()))?);
    let kind = file.metadata().map_err(cannot)?.file_type();
    if kind.is_dir() {
        return Ok(Opened::Directory(Beneath::new(file.into(), path.to_owned()).within(limits)));
    }
    if !kind.is_file() {
        return Err(not_an_image(path, "neither a file nor a directory"));
    }
    let identity = BlobIdentity::File(FileIdentity::of(&file).map_err(cannot)?);
    Ok(Opened::File { file, identity })
}

impl Archive {
    /// Opens the directory or the archive that was found at `path`.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] for a file that is no archive, and the errors of a damaged archive.
    pub(super) fn from_opened(path: &Path, opened: Opened, options: &OpenOptions) -> Result<Self> {
        match opened {
            Opened::Directory(root) => Ok(Archive::new(path, Files::Directory(root), options.limits)),
            Opened::File { file, identity } => Archive::from_file(path, file, identity, options),
        }
    }

    /// Opens an archive from an open file. `path` names the file in errors, `identity` identifies it in the
    /// store.
    ///
    /// # Errors
    /// As [`Archive::from_opened`].
    pub(crate) fn from_file(
        path: &Path,
        file: File,
        identity: BlobIdentity,
        options: &OpenOptions,
    ) -> Result<Self> {
        let what = Subject::Archive(path.to_owned());
        let cannot = |cause: io::Error| Error::io_on("cannot read", what.clone(), cause);
        let bytes: Arc<dyn ReadAt> = Arc::new(FileBytes::new(file).map_err(cannot)?);
        // F10: an archive may be compressed as a whole, with any compression that a layer may have.
        let (bytes, members) = match Compression::detect(&*bytes).map_err(cannot)? {
            Compression::Plain => {
                let members = scan(&*bytes, options.limits).map_err(|fault| fault.of(&what))?;
                let Some(members) = members else {
                    return Err(not_an_image(path, "neither a directory nor a tar archive"));
                };
                (bytes, members)
            }
            compression => {
                let Some(unpack) = &options.unpack else {
                    return Err(Error::unsupported(
                        what,
                        format!("an archive compressed with {compression}"),
                    ));
                };
                unpack.open_compressed(bytes, compression, path, identity)?
            }
        };
        let tar = Tar { bytes, identity, members: Members::new(members) };
        Ok(Archive::new(path, Files::Tar(tar), options.limits))
    }

    fn new(path: &Path, files: Files, limits: Limits) -> Self {
        Archive { path: path.to_owned(), files, limits, read_bytes: AtomicU64::new(0) }
    }

    /// Returns the limits that the archive was opened with.
    #[must_use]
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the path of the archive, for errors.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true for a directory, false for a tar.
    #[must_use]
    pub(crate) fn is_directory(&self) -> bool {
        matches!(self.files, Files::Directory(_))
    }

    /// Returns the regular file that `name` leads to; `None` if the name does not exist.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the name is longer than [`MAX_PATH_BYTES`], when the path leads outside the
    /// archive, has a cycle of links, or contains a name that appears twice in the tar; [`Error::Io`].
    pub(crate) fn find(&self, name: &str) -> Result<Option<ArchiveFile>> {
        if name.len() > MAX_PATH_BYTES {
            let reason = format!("a file name of {} bytes exceeds the limit of {MAX_PATH_BYTES}", name.len());
            return Err(Error::malformed(Subject::Archive(self.path.clone()), reason));
        }
        match &self.files {
            Files::Directory(root) => self.find_beneath(root, name),
            Files::Tar(tar) => self.find_member(tar, name),
        }
    }

    /// Returns all bytes of the file that `name` leads to; `None` if the name does not exist.
    ///
    /// # Errors
    /// [`Error::Limit`] naming `limit` when the file is longer than `max` bytes, and as [`Archive::find`] and
    /// [`Archive::read_document`].
    pub(crate) fn read(&self, name: &str, limit: &'static str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(found) = self.find(name)? else {
            return Ok(None);
        };
        self.read_document(&self.describe(name), &*found.bytes, limit, max).map(Some)
    }

    /// Returns all of `bytes`, a document of this archive. `what` names the document in errors.
    ///
    /// # Errors
    /// As [`read_bounded`], and [`Error::Limit`] for too many documents in all.
    pub(super) fn read_document(
        &self,
        what: &Subject,
        bytes: &dyn ReadAt,
        limit: &'static str,
        max: u64,
    ) -> Result<Vec<u8>> {
        let len_bytes = bytes.len().min(max);
        let before = self.read_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        add_within(what, self.limits.archive_document_bytes(), before, len_bytes)?;
        read_bounded(what, bytes, limit, max)
    }

    /// Returns the subject of errors about the file `name`.
    #[must_use]
    pub(crate) fn describe(&self, name: &str) -> Subject {
        Subject::Member { archive: self.path.clone(), name: name.to_owned() }
    }

    fn find_beneath(&self, root: &Beneath, name: &str) -> Result<Option<ArchiveFile>> {
        let Some(file) = root.file(name)? else { return Ok(None) };
        let cannot = |cause: io::Error| Error::io_on("cannot read", self.describe(name), cause);
        let identity = BlobIdentity::File(FileIdentity::of(&file).map_err(cannot)?);
        let bytes = Arc::new(root.bytes(name, file)?);
        Ok(Some(ArchiveFile { bytes, identity }))
    }

    fn find_member(&self, tar: &Tar, name: &str) -> Result<Option<ArchiveFile>> {
        let Some((offset, len_bytes)) = tar.resolve(name, &|| self.describe(name))? else {
            return Ok(None);
        };
        let window = ByteRange::new(Arc::clone(&tar.bytes), offset, len_bytes);
        let bytes = window.map_err(|_| {
            Error::malformed(self.describe(name), "the file extends past the end of the archive")
        })?;
        let identity = tar.identity.part(offset, len_bytes);
        Ok(Some(ArchiveFile { bytes: Arc::new(bytes), identity }))
    }
}

impl Tar {
    /// Returns offset and length, in bytes, of the file that `name` leads to.
    fn resolve(&self, name: &str, what: &dyn Fn() -> Subject) -> Result<Option<(u64, u64)>> {
        let mut links = 0;
        let mut done = self.members.root();
        // The components that remain to be resolved, last component first.
        let mut todo = components(name.as_bytes());
        while let Some(component) = todo.pop() {
            if component == b".." {
                if !done.leave() {
                    return Ok(None);
                }
                continue;
            }
            done.enter(component);
            // A tar may omit directories (F7).
            let Some(slot) = self.members.get(&done) else {
                continue;
            };
            if slot.repeated {
                let name = String::from_utf8_lossy(&done.name).escape_debug().to_string();
                return Err(Error::malformed(
                    what(),
                    format!("the archive contains '{name}' more than once"),
                ));
            }
            let target = match &slot.kind {
                MemberKind::Directory => continue,
                MemberKind::File { offset, len_bytes } if todo.is_empty() => {
                    return Ok(Some((*offset, *len_bytes)));
                }
                MemberKind::File { .. } => return Ok(None),
                MemberKind::Other => return Err(Error::malformed(what(), "not a regular file")),
                MemberKind::Symlink(target) | MemberKind::Hardlink(target) => target,
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::malformed(what(), "too many levels of symbolic links"));
            }
            if matches!(slot.kind, MemberKind::Symlink(_)) && !target.starts_with(b"/") {
                done.leave();
            } else {
                done = self.members.root();
            }
            todo.extend(components(target));
        }
        Ok(None)
    }
}

impl Members {
    fn new(members: Vec<Member>) -> Self {
        let mut table = Members::default();
        for Member { name, kind } in members {
            let mut place = table.root();
            // A second `manifest.json` cannot hide as `x/../manifest.json`: `..` is resolved lexically, as in
            // other tools.
            clean(&name).components.into_iter().for_each(|component| place.enter(component));
            let slots = table.by_hash.entry(place.hash()).or_default();
            match slots.iter_mut().find(|slot| slot.name == place.name) {
                Some(earlier) => {
                    let directories = earlier.kind == MemberKind::Directory && kind == MemberKind::Directory;
                    earlier.repeated |= !directories;
                }
                None => slots.push(MemberEntry { name: place.name, kind, repeated: false }),
            }
        }
        table
    }

    fn root(&self) -> Place {
        Place { name: Vec::new(), parents: Vec::new(), hasher: self.random.build_hasher() }
    }

    fn get(&self, place: &Place) -> Option<&MemberEntry> {
        self.by_hash.get(&place.hash())?.iter().find(|slot| slot.name == place.name)
    }
}

/// A clean name that grows by components, and the hash of each of its prefixes.
#[derive(Debug)]
struct Place {
    name: Vec<u8>,
    /// For each component: the length of the name before it, and its hash.
    parents: Vec<(usize, DefaultHasher)>,
    hasher: DefaultHasher,
}

impl Place {
    fn enter(&mut self, component: &[u8]) {
        self.parents.push((self.name.len(), self.hasher.clone()));
        if !self.name.is_empty() {
            self.name.push(b'/');
        }
        self.name.extend_from_slice(component);
        self.hasher.write(component);
        self.hasher.write_u8(b'/');
    }

    /// Removes the last component. Returns false for the root.
    fn leave(&mut self) -> bool {
        let Some((len, hasher)) = self.parents.pop() else { return false };
        self.name.truncate(len);
        self.hasher = hasher;
        true
    }

    fn hash(&self) -> u64 {
        self.hasher.finish()
    }
}

/// Returns the components of a name, last first, without empty components and `.`.
fn components(name: &[u8]) -> Vec<&[u8]> {
    let parts = name.split(|c| *c == b'/').rev();
    parts.filter(|component| !matches!(*component, b"" | b".")).collect()
}

pub(super) fn not_an_image(path: &Path, reason: &str) -> Error {
    Error::NotAnImage { path: path.display().to_string(), reason: reason.to_owned(), may_be_rootfs: false }
}
