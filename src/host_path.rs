//! Files and directories of the host that the user named as a destination, held open.
//!
//! A path can lead to another file each time it is resolved, because other users can own directories on its
//! way. So a destination is resolved once, before an image is read, and used through its descriptor from then
//! on. This module owns which symbolic links are followed: those that the kernel follows, and at the end of a
//! path never one that another user placed in a sticky directory such as /tmp (X31). It does not know what is
//! written.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat, fstat, fstatfs, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, Result, Subject};

/// Maximum number of symbolic links at the end of a path that are followed, as in the kernel (path_resolution(7)).
const FOLLOWED_LINKS: usize = 40;

/// Flags to hold a file or directory without opening it for reading.
const HOLD: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const HOLD_DIRECTORY: OFlags = HOLD.union(OFlags::DIRECTORY);

/// A directory of the host that is held open: renaming it, or replacing it or one of its parents by a symbolic
/// link, has no effect on its use.
#[derive(Debug)]
pub struct HostDirectory {
    fd: OwnedFd,
    path: PathBuf,
}

/// The object that a path leads to.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostTarget {
    /// An existing directory.
    Directory(HostDirectory),
    /// An existing object that is not a directory.
    #[non_exhaustive]
    Object {
        /// The directory that contains the object.
        parent: HostDirectory,
        /// The name of the object in `parent`.
        name: OsString,
        /// The attributes of the object.
        metadata: Metadata,
        /// False if `name` is a link such as /dev/stdout, which leads to an open file without a name: the
        /// object can be written to, but not replaced.
        has_name: bool,
    },
    /// An existing directory, and a name in it that does not exist.
    #[non_exhaustive]
    Missing {
        /// The directory.
        parent: HostDirectory,
        /// The name that does not exist.
        name: OsString,
        /// Whether the path ends in a symbolic link to this name.
        behind_link: bool,
    },
}

impl HostDirectory {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// [`Error::Io`] when `path` is missing, not a directory or not accessible.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |errno: Errno| cannot("cannot open", path, errno);
        match HostTarget::resolve(path).map_err(failed)? {
            HostTarget::Directory(directory) => Ok(directory),
            HostTarget::Object { .. } => Err(failed(Errno::NOTDIR)),
            HostTarget::Missing { .. } => Err(failed(Errno::NOENT)),
        }
    }

    /// Opens a directory. If it is missing, it is created with its missing parents.
    ///
    /// # Errors
    /// [`Error::Io`] when `path` cannot be created, is not a directory or not accessible.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = create(path).map_err(|errno| cannot("cannot create", path, errno))?;
        Ok(HostDirectory { fd, path: path.to_owned() })
    }

    /// Returns the path that was opened, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for HostDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl HostTarget {
    /// Resolves `path`, and follows a symbolic link at its end. As the kernel with `fs.protected_symlinks`, it
    /// does not follow a link in a sticky directory that others can write to, unless the link belongs to this
    /// user or to the owner of the directory.
    ///
    /// # Errors
    /// [`Error::Io`] when a directory on the way is missing or not accessible, and when a link is not followed.
    pub fn find(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        HostTarget::resolve(path).map_err(|errno| cannot("cannot open", path, errno))
    }

    fn resolve(path: &Path) -> Result<Self, Errno> {
        let mut step = Step::new(CWD, path.as_os_str().as_bytes())?;
        for links in 0..=FOLLOWED_LINKS {
            step = match step.look(path, links > 0)? {
                ControlFlow::Break(target) => return Ok(target),
                ControlFlow::Continue(next) => next,
            };
        }
        Err(Errno::LOOP)
    }
}

/// A path in two parts: its parent directory, opened, and the last name.
struct Step {
    parent: OwnedFd,
    /// `None` for a path that ends in `/`, `.` or `..` only: then `parent` is the object itself.
    name: Option<OsString>,
    /// Whether the path ends in a slash, so that it can only lead to a directory.
    ends_in_slash: bool,
}

impl Step {
    fn new(at: impl AsFd, path: &[u8]) -> Result<Self, Errno> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let trimmed = path.get(..end).unwrap_or_default();
        let ends_in_slash = trimmed.len() != path.len();
        let start = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (before, name) = trimmed.split_at(start);
        let hold = |path: &[u8]| openat(&at, path, HOLD_DIRECTORY, Mode::empty());
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        if matches!(name, b"" | b"." | b"..") {
            return Ok(Step { parent: hold(path)?, name: None, ends_in_slash });
        }
        let parent = hold(if before.is_empty() { b"." } else { before })?;
        Ok(Step { parent, name: Some(OsString::from_vec(name.to_vec())), ends_in_slash })
    }

    /// Looks at the last name. For a symbolic link, returns the path in it as the next step. `path` is the
    /// whole path, for messages.
    fn look(self, path: &Path, behind_link: bool) -> Result<ControlFlow<HostTarget, Self>, Errno> {
        let directory = |fd| HostTarget::Directory(HostDirectory { fd, path: path.to_owned() });
        let Step { parent, name, ends_in_slash } = self;
        let Some(name) = name else { return Ok(ControlFlow::Break(directory(parent))) };
        let object = match open_name(&parent, &name) {
            Ok((fd, true)) => return Ok(ControlFlow::Break(directory(fd))),
            Ok((fd, false)) => Some(fd),
            Err(Errno::NOENT) => None,
            Err(other) => return Err(other),
        };
        let parent_path = path.parent().unwrap_or(Path::new("")).to_owned();
        let Some(mut object) = object else {
            let parent = HostDirectory { fd: parent, path: parent_path };
            return Ok(ControlFlow::Break(HostTarget::Missing { parent, name, behind_link }));
        };
        let stat = fstat(&object)?;
        let is_link = FileType::from_raw_mode(stat.st_mode).is_symlink();
        // The text of a link in /proc is not a path. Only the kernel can follow it.
        let has_name = !is_link || fstatfs(&object)?.f_type != PROC_SUPER_MAGIC;
        if is_link && has_name {
            if !may_follow(&stat, &fstat(&parent)?) {
                return Err(Errno::ACCESS);
            }
            let text = readlinkat(&object, "", Vec::new())?;
            let next = Step::new(&parent, text.as_bytes())?;
            return Ok(ControlFlow::Continue(Step {
                ends_in_slash: next.ends_in_slash | ends_in_slash,
                ..next
            }));
        }
        if is_link {
            object = openat(&parent, &name, HOLD, Mode::empty())?;
        }
        let object = File::from(object);
        let metadata = object.metadata().map_err(raw)?;
        let parent = HostDirectory { fd: parent, path: parent_path };
        match (metadata.is_dir(), ends_in_slash) {
            (true, _) => Ok(ControlFlow::Break(directory(object.into()))),
            (false, true) => Err(Errno::NOTDIR),
            (false, false) => Ok(ControlFlow::Break(HostTarget::Object { parent, name, metadata, has_name })),
        }
    }
}

/// Opens a name without following a link. Returns true with a directory.
fn open_name(parent: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, bool), Errno> {
    // O_DIRECTORY makes the kernel mount what is mounted on demand.
    match openat(parent, name, HOLD_DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            Ok((openat(parent, name, HOLD | OFlags::NOFOLLOW, Mode::empty())?, false))
        }
        Err(other) => Err(other),
    }
}

/// Whether a link at the end of a path is followed: fs.protected_symlinks in Documentation/admin-guide/sysctl/fs.rst.
fn may_follow(link: &Stat, parent: &Stat) -> bool {
    let everyone_creates_here = parent.st_mode & 0o1002 == 0o1002;
    let user = rustix::process::geteuid().as_raw();
    !everyone_creates_here || link.st_uid == user || link.st_uid == parent.st_uid
}

/// Opens a directory, and creates the missing parts of its path: each below the descriptor of its parent, so
/// that none is created elsewhere if another user replaces a part by a link.
fn create(path: &Path) -> Result<OwnedFd, Errno> {
    let below =
        |parent: OwnedFd, name: &OsStr| match mkdirat(&parent, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
            Ok(()) | Err(Errno::EXIST) => {
                openat(&parent, name, HOLD_DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            }
            Err(other) => Err(other),
        };
    match HostTarget::resolve(path) {
        Ok(HostTarget::Directory(directory)) => Ok(directory.fd),
        Ok(HostTarget::Object { .. }) => Err(Errno::NOTDIR),
        Ok(HostTarget::Missing { parent, name, behind_link: false }) => below(parent.fd, &name),
        // mkdir(2) does not follow a dangling link.
        Ok(HostTarget::Missing { .. }) => Err(Errno::EXIST),
        Err(Errno::NOENT) => {
            let parent = create(path.parent().ok_or(Errno::NOENT)?)?;
            match path.file_name() {
                Some(name) => below(parent, name),
                None => openat(&parent, "..", HOLD_DIRECTORY, Mode::empty()),
            }
        }
        Err(other) => Err(other),
    }
}

fn cannot(action: &'static str, path: &Path, errno: Errno) -> Error {
    Error::io_on(action, Subject::File(path.to_owned()), errno.into())
}

fn raw(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Describes what a path leads to: `dir`, `object NAME` or `missing NAME`, or the error.
    fn found(path: &Path) -> String {
        match HostTarget::resolve(path) {
            Ok(HostTarget::Directory(_)) => "dir".to_owned(),
            Ok(HostTarget::Object { name, has_name, .. }) => {
                format!("object {}{}", name.display(), if has_name { "" } else { " without name" })
            }
            Ok(HostTarget::Missing { name, behind_link, .. }) => {
                format!("missing {}{}", name.display(), if behind_link { " behind link" } else { "" })
            }
            Err(Errno::NOENT) => "no such name".to_owned(),
            Err(Errno::NOTDIR) => "not a directory".to_owned(),
            Err(Errno::LOOP) => "too many links".to_owned(),
            Err(other) => other.to_string(),
        }
    }

    #[test]
    fn a_path_is_resolved_as_the_kernel_does_it() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir_all(at("dir/sub")).unwrap();
        fs::write(at("dir/file"), b"").unwrap();
        for (target, name) in [
            ("dir", "to-dir"),
            ("dir/file", "to-file"),
            ("to-file", "two"),
            ("dir/new", "dangling"),
            ("none/new", "far"),
            ("round", "round"),
            ("dir/sub/..", "dots"),
            ("dir/file/", "slash"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        symlink(at("dir/sub"), at("absolute")).unwrap();
        for (path, expected) in [
            ("dir", "dir"),
            ("dir/", "dir"),
            ("dir//sub//", "dir"),
            ("dir/.", "dir"),
            ("dir/..", "dir"),
            ("to-dir", "dir"),
            ("to-dir/", "dir"),
            ("to-dir/file", "object file"),
            ("dots", "dir"),
            ("absolute", "dir"),
            ("absolute/../file", "object file"),
            ("to-file", "object file"),
            ("two", "object file"),
            ("new", "missing new"),
            ("new/", "missing new"),
            ("dangling", "missing new behind link"),
            ("far", "no such name"),
            ("none/new", "no such name"),
            ("dir/file/", "not a directory"),
            ("dir/file/x", "not a directory"),
            ("slash", "not a directory"),
            ("round", "too many links"),
        ] {
            assert_eq!(found(&at(path)), expected, "{path}");
        }
        assert_eq!(found(Path::new("/")), "dir");
        assert_eq!(found(Path::new("..")), "dir");
    }

    #[test]
    fn a_link_of_proc_leads_to_an_open_file_without_a_name() {
        let temp = tempfile::tempdir().unwrap();
        let (pipe, _writer) = io::pipe().unwrap();
        let directory = fs::File::open(temp.path()).unwrap();
        let of = |fd: i32| PathBuf::from(format!("/proc/self/fd/{fd}"));
        assert_eq!(found(&of(directory.as_raw_fd())), "dir");
        let name = pipe.as_raw_fd();
        assert_eq!(found(&of(name)), format!("object {name} without name"));
        symlink(of(name), temp.path().join("link")).unwrap();
        assert_eq!(found(&temp.path().join("link")), format!("object {name} without name"));
    }

    #[test]
    fn a_directory_is_created_with_its_parents() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), b"").unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        for name in ["a/b/c", "a/b/c", "x/../y", "z/./w/", "."] {
            HostDirectory::create(at(name)).unwrap();
            assert!(at(name).is_dir(), "{name}");
        }
        for name in ["file", "file/x", "dangling"] {
            HostDirectory::create(at(name)).unwrap_err();
        }
        assert!(!at("nowhere").exists());
        HostDirectory::open(at("none")).unwrap_err();
    }

    #[test]
    fn a_directory_stays_the_same_when_it_is_moved() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::create_dir(at("victim")).unwrap();
        let held = HostDirectory::open(at("a/b")).unwrap();
        fs::rename(at("a"), at("moved")).unwrap();
        symlink("victim", at("a")).unwrap();
        mkdirat(&held, "new", Mode::RWXU).unwrap();
        assert!(at("moved/b/new").is_dir());
    }
}
