//! A directory of the host, from which nothing outside is opened (F11).
//!
//! Stores, layouts and archives in a directory contain paths and links. This module owns how such a path is
//! opened: links inside the directory are followed, and a path or a link that leads out of the directory is
//! an error. A directory may so lie in the root file system of another host, and none of its absolute links
//! reaches this host. This module must not know what the files mean.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::blobs::read_bounded;
use crate::error::{Error, Result, Subject};
use crate::limits::Limits;
use crate::read_at::FileBytes;

/// How often a path is opened again when a directory on its way is renamed at the same time; then the kernel
/// cannot tell whether `..` leads out. A running engine renames a directory once.
const MAX_RENAME_RETRIES: usize = 64;

/// A directory from which nothing outside is opened.
#[derive(Debug, Clone)]
pub(super) struct Beneath {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    limits: Limits,
}

impl Beneath {
    /// Opens the directory at `path`, which the user gave: links in it are followed.
    ///
    /// # Errors
    /// [`Error::Io`], also when `path` is not a directory.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::io_on("cannot open", Subject::Archive(path.to_owned()), errno.into()))?;
        Ok(Beneath::new(fd, path.to_owned()))
    }

    /// Creates it from an open directory. `path` names the directory in errors.
    pub(super) fn new(fd: OwnedFd, path: PathBuf) -> Self {
        Beneath { fd: Arc::new(fd), path, limits: Limits::default() }
    }

    /// Sets the limits for what is read below this directory.
    pub(super) fn within(self, limits: Limits) -> Self {
        Beneath { limits, ..self }
    }

    /// Returns the limits for what is read below this directory.
    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the path of the directory, for errors.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open directory.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Returns the subject of errors about the file `name`.
    pub(super) fn describe(&self, name: &str) -> Subject {
        Subject::Member { archive: self.path.clone(), name: name.to_owned() }
    }

    /// Returns the directory that `name` leads to; `None` if the name does not exist. Nothing outside this
    /// subdirectory is opened from the result.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `name` leads out of the directory, has a cycle of links, or is not a
    /// directory; [`Error::Io`].
    pub(super) fn dir(&self, name: &str) -> Result<Option<Beneath>> {
        // O_PATH: a device or a named pipe is not opened to find out that it is no directory.
        let Some(found) = self.open_beneath(name, OFlags::PATH)? else { return Ok(None) };
        let cannot = |errno: Errno| Error::io_on("cannot open", self.describe(name), errno.into());
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&found).map_err(cannot)?.st_mode);
        if kind != FileType::Directory {
            return Err(Error::malformed(self.describe(name), "not a directory"));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&found, ".", flags, Mode::empty()).map_err(cannot)?;
        Ok(Some(Beneath::new(fd, self.path.join(relative(name))).within(self.limits)))
    }

    /// Returns the regular file that `name` leads to; `None` if the name does not exist.
    ///
    /// # Errors
    /// [`Error::Malformed`] when `name` leads out of the directory, has a cycle of links, or is not a regular
    /// file; [`Error::Io`].
    pub(super) fn file(&self, name: &str) -> Result<Option<File>> {
        // O_NONBLOCK: opening a named pipe must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let Some(fd) = self.open_beneath(name, flags)? else { return Ok(None) };
        let file = File::from(fd);
        let metadata = file.metadata();
        let metadata = metadata.map_err(|cause| Error::io_on("cannot read", self.describe(name), cause))?;
        if !metadata.is_file() {
            return Err(Error::malformed(self.describe(name), "not a regular file"));
        }
        Ok(Some(file))
    }

    /// Returns the bytes of `file`, which `name` leads to. If descriptors run short, the file is closed, and opened
    /// again by its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn bytes(&self, name: &str, file: File) -> Result<FileBytes> {
        let (root, again) = (self.clone(), name.to_owned());
        let reopen = move || match root.file(&again) {
            Ok(Some(file)) => Ok(file),
            Ok(None) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(io::Error::other(error)),
        };
        FileBytes::reopened_by(file, Arc::new(reopen))
            .map_err(|cause| Error::io_on("cannot read", self.describe(name), cause))
    }

    /// Returns all bytes of the file that `name` leads to; `None` if the name does not exist.
    ///
    /// # Errors
    /// [`Error::Limit`] naming `limit` when the file is longer than `max` bytes, and as [`Beneath::file`].
    pub(super) fn read(&self, name: &str, limit: &'static str, max: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let what = self.describe(name);
        let bytes = FileBytes::new(file);
        let bytes = bytes.map_err(|cause| Error::io_on("cannot read", what.clone(), cause))?;
        read_bounded(&what, &bytes, limit, max).map(Some)
    }

    /// Returns the names in the directory that `name` leads to, sorted by bytes, without `.` and `..`. The
    /// empty `name` is this directory. A directory that does not exist has no names.
    ///
    /// # Errors
    /// [`Error::Limit`] for too many names, and as [`Beneath::dir`].
    pub(super) fn names(&self, name: &str) -> Result<Vec<OsString>> {
        let Some(dir) = self.dir(name)? else { return Ok(Vec::new()) };
        let what =
            || if relative(name) == "." { Subject::File(self.path.clone()) } else { self.describe(name) };
        let cannot = |errno: Errno| Error::io_on("cannot list", what(), errno.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(dir.fd()).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let bytes = entry.file_name().to_bytes();
            if matches!(bytes, b"." | b"..") {
                continue;
            }
            names.push(OsStr::from_bytes(bytes).to_owned());
            let count = names.len() as u64;
            let max = self.limits.directory_names();
            if count > max.max {
                return Err(Error::over(what(), max, count));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open_beneath(&self, name: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        let what = || self.describe(name);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        let open = || rustix::fs::openat2(&self.fd, relative(name), flags, Mode::empty(), resolve);
        let mut opened = open();
        for _ in 0..MAX_RENAME_RETRIES {
            match opened {
                Err(Errno::AGAIN | Errno::INTR) => opened = open(),
                _ => break,
            }
        }
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(Errno::XDEV) => Err(Error::malformed(what(), "the path leads out of the directory")),
            Err(Errno::LOOP) => Err(Error::malformed(what(), "too many levels of symbolic links")),
            Err(errno) => Err(Error::io_on("cannot open", what(), io::Error::from(errno))),
        }
    }
}

/// Returns `name` without leading slashes, which would lead out of the directory: names in documents may
/// begin with a slash. The empty name is the directory itself.
fn relative(name: &str) -> &str {
    match name.trim_start_matches('/') {
        "" => ".",
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fails(result: Result<impl std::fmt::Debug>) -> String {
        result.unwrap_err().to_string()
    }

    /// A store `store` with `a/file`, next to a directory `outside` with a secret.
    fn store() -> (tempfile::TempDir, Beneath) {
        let temp = tempfile::tempdir().unwrap();
        let store = temp.path().join("store");
        std::fs::create_dir_all(store.join("a")).unwrap();
        std::fs::write(store.join("a/file"), b"12345").unwrap();
        std::fs::create_dir(temp.path().join("outside")).unwrap();
        std::fs::write(temp.path().join("outside/secret"), b"secret").unwrap();
        let beneath = Beneath::open(&store).unwrap();
        (temp, beneath)
    }

    #[test]
    fn f11_links_inside_are_followed_and_links_that_lead_out_are_refused() {
        let (temp, beneath) = store();
        let root = beneath.path().to_owned();
        symlink("a", root.join("inside")).unwrap();
        symlink("a/../a/file", root.join("dots")).unwrap();
        symlink("../outside", root.join("up")).unwrap();
        symlink(temp.path().join("outside"), root.join("absolute")).unwrap();
        symlink(root.join("a"), root.join("absolute-inside")).unwrap();
        symlink("round", root.join("round")).unwrap();
        symlink("/proc/self/root", root.join("a/magic")).unwrap();

        for name in ["a/file", "/a/file", "inside/file", "dots"] {
            assert_eq!(beneath.read(name, "MAX", 5).unwrap().unwrap(), b"12345", "{name}");
        }
        for name in
            ["up/secret", "absolute/secret", "absolute-inside/file", "../outside/secret", "a/magic/etc"]
        {
            let expected = format!("'{name}' in '{}': the path leads out of the directory", root.display());
            assert_eq!(fails(beneath.file(name)), expected);
            assert_eq!(fails(beneath.dir(name)), expected);
        }
        assert!(fails(beneath.dir("round")).ends_with("too many levels of symbolic links"));
        assert_eq!(fails(beneath.names("up")), fails(beneath.dir("up")));
    }

    #[test]
    fn f11_nothing_outside_a_subdirectory_is_opened_from_it() {
        let (_temp, beneath) = store();
        symlink("../b", beneath.path().join("a/up")).unwrap();
        std::fs::write(beneath.path().join("b"), b"b").unwrap();
        assert!(beneath.file("a/up").unwrap().is_some());
        let sub = beneath.dir("a").unwrap().unwrap();
        assert_eq!(sub.path(), beneath.path().join("a"));
        assert!(fails(sub.file("up")).ends_with("the path leads out of the directory"));
    }

    #[test]
    fn a_missing_name_is_no_error_and_another_type_is() {
        let (_temp, beneath) = store();
        rustix::fs::mknodat(beneath.fd(), "pipe", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        for name in ["none", "a/none", "a/file/none"] {
            assert!(beneath.file(name).unwrap().is_none(), "{name}");
            assert!(beneath.dir(name).unwrap().is_none(), "{name}");
            assert_eq!(beneath.names(name).unwrap(), Vec::<OsString>::new(), "{name}");
        }
        for name in ["a", "pipe"] {
            assert!(fails(beneath.file(name)).ends_with(": not a regular file"), "{name}");
        }
        for name in ["a/file", "pipe"] {
            assert!(fails(beneath.dir(name)).ends_with(": not a directory"), "{name}");
        }
        let too_long = fails(beneath.read("a/file", "MAX_X", 4));
        assert!(too_long.ends_with("5 exceeds the limit MAX_X (4)"), "{too_long}");
        assert!(Beneath::open(&beneath.path().join("a/file")).is_err());
    }

    #[test]
    fn names_are_sorted_by_bytes() {
        let (_temp, beneath) = store();
        for name in [&b"b"[..], b"B", b"a.", b"\xff"] {
            std::fs::write(beneath.path().join(OsStr::from_bytes(name)), b"").unwrap();
        }
        let names = beneath.names("").unwrap();
        let names: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        assert_eq!(names, [&b"B"[..], b"a", b"a.", b"b", b"\xff"]);
        assert_eq!(beneath.names("/").unwrap().len(), 5);
        assert_eq!(beneath.names("a").unwrap(), ["file"]);
    }
}
