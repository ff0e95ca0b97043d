//! A set of named files in a directory, in a tar, or in a tar that is compressed as a whole.
//!
//! This module owns how a name is found: links inside the archive are followed, nothing outside the archive
//! is opened (F1, F11), and a name that appears twice in a tar is refused when the name is looked up (F8).
//! File contents of a plain tar are not read to find names. This module must not know what the files mean.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::OpenOptions;
use super::beneath::Beneath;
use super::blobs::{BlobIdentity, FileIdentity, read_bounded};
use super::scan::{Member, MemberKind, scan};
use crate::compress::Compression;
use crate::error::{Error, Result, Subject};
use crate::read_at::{ByteRange, FileBytes, ReadAt};

/// Maximum number of links followed for one name, as in Linux. The limit also ends cycles.
const MAX_LINKS: usize = 40;

/// A set of named files in a directory or a tar.
#[derive(Debug)]
pub(crate) struct Archive {
    path: PathBuf,
    files: Files,
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
    /// Members by clean name: components joined by single slashes, without `.` and `..`.
    members: HashMap<Vec<u8>, MemberEntry>,
}

#[derive(Debug)]
struct MemberEntry {
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
pub(super) fn open_path(path: &Path) -> Result<Opened> {
    let cannot = |cause: io::Error| Error::io_on("cannot open", Subject::Archive(path.to_owned()), cause);
    // O_NONBLOCK: opening a named pipe must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|e| cannot(e.into()))?);
    let kind = file.metadata().map_err(cannot)?.file_type();
    if kind.is_dir() {
        return Ok(Opened::Directory(Beneath::new(file.into(), path.to_owned())));
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
            Opened::Directory(root) => Ok(Archive { path: path.to_owned(), files: Files::Directory(root) }),
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
        Ok(Archive {
            path: path.to_owned(),
            files: Files::Tar(Tar { bytes, identity, members: table(members) }),
        })
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
    /// [`Error::Malformed`] when the path leads outside the archive, has a cycle of links, or contains a name
    /// that appears twice in the tar; [`Error::Io`].
    pub(crate) fn find(&self, name: &str) -> Result<Option<ArchiveFile>> {
        match &self.files {
            Files::Directory(root) => self.find_beneath(root, name),
            Files::Tar(tar) => self.find_member(tar, name),
        }
    }

    /// Returns all bytes of the file that `name` leads to; `None` if the name does not exist.
    ///
    /// # Errors
    /// [`Error::Limit`] naming `limit` when the file is longer than `max` bytes, and as [`Archive::find`].
    pub(crate) fn read(&self, name: &str, limit: &'static str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(found) = self.find(name)? else {
            return Ok(None);
        };
        read_bounded(&self.describe(name), &*found.bytes, limit, max).map(Some)
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
        let bytes = Arc::new(FileBytes::new(file).map_err(cannot)?);
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
        let mut done: Vec<u8> = Vec::new();
        // The components that remain to be resolved, last component first.
        let mut todo = components(name.as_bytes());
        while let Some(component) = todo.pop() {
            if component == b".." {
                let Some(parent) = parent(&done) else {
                    return Ok(None);
                };
                done.truncate(parent);
                continue;
            }
            let parent = done.len();
            if !done.is_empty() {
                done.push(b'/');
            }
            done.extend_from_slice(&component);
            // A tar may omit directories (F7).
            let Some(slot) = self.members.get(&done) else {
                continue;
            };
            if slot.repeated {
                let name = String::from_utf8_lossy(&done).escape_debug().to_string();
                return Err(Error::malformed(
                    what(),
                    format!("the archive contains '{name}' more than once"),
                ));
            }
            let (target, base) = match &slot.kind {
                MemberKind::Directory => continue,
                MemberKind::File { offset, len_bytes } if todo.is_empty() => {
                    return Ok(Some((*offset, *len_bytes)));
                }
                MemberKind::File { .. } => return Ok(None),
                MemberKind::Other => return Err(Error::malformed(what(), "not a regular file")),
                MemberKind::Symlink(target) if target.starts_with(b"/") => (target, 0),
                MemberKind::Symlink(target) => (target, parent),
                MemberKind::Hardlink(target) => (target, 0),
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::malformed(what(), "too many levels of symbolic links"));
            }
            done.truncate(base);
            todo.extend(components(target));
        }
        Ok(None)
    }
}

fn table(members: Vec<Member>) -> HashMap<Vec<u8>, MemberEntry> {
    let mut table: HashMap<Vec<u8>, MemberEntry> = HashMap::with_capacity(members.len());
    for member in members {
        let slot = MemberEntry { kind: member.kind, repeated: false };
        match table.entry(clean(&member.name)) {
            Entry::Vacant(vacant) => {
                vacant.insert(slot);
            }
            Entry::Occupied(mut earlier) => {
                let directories =
                    earlier.get().kind == MemberKind::Directory && slot.kind == MemberKind::Directory;
                earlier.get_mut().repeated |= !directories;
            }
        }
    }
    table
}

/// Returns the components of a name, last first, without empty components and `.`.
fn components(name: &[u8]) -> Vec<Vec<u8>> {
    name.split(|c| *c == b'/')
        .rev()
        .filter(|component| !matches!(*component, b"" | b"."))
        .map(<[u8]>::to_vec)
        .collect()
}

/// Returns the key of a member. `..` is resolved lexically, as in other tools, so a second `manifest.json`
/// cannot hide as `x/../manifest.json`.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut clean: Vec<Vec<u8>> = Vec::new();
    for component in components(name).into_iter().rev() {
        if component == b".." {
            clean.pop();
        } else {
            clean.push(component);
        }
    }
    clean.join(&b'/')
}

/// Returns the length of the parent of a clean path; `None` for the root.
fn parent(path: &[u8]) -> Option<usize> {
    if path.is_empty() {
        return None;
    }
    Some(path.iter().rposition(|c| *c == b'/').unwrap_or(0))
}

pub(super) fn not_an_image(path: &Path, reason: &str) -> Error {
    Error::NotAnImage { path: path.display().to_string(), reason: reason.to_owned(), may_be_rootfs: false }
}
