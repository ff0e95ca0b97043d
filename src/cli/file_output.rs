//! The file that a command writes its result to: created, replaced, or written into.
//!
//! This module owns what happens to something that has the name already. A regular file is replaced by a
//! complete one. A named pipe, a terminal or `/dev/null` is written into, never replaced.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use tempfile::TempPath;

use imgmount::{HostDirectory, HostTarget, escape_path};

/// Mode of a new file, before the umask.
const NEW_FILE_MODE: u32 = 0o666;

/// Where a result is written to.
pub(super) enum FileOutput {
    /// A temporary file, which gets its name when it is complete.
    Replaced(Draft),
    /// A file that exists and is not a regular file, or that has no name.
    WrittenInto(File),
}

/// A file in the directory of the result, without a name if the file system has such files: then a process
/// that is killed leaves nothing.
pub(super) struct Draft {
    file: File,
    temporary: Option<TempPath>,
    directory: HostDirectory,
    name: OsString,
    /// The path that the user gave, for messages.
    path: PathBuf,
}

impl FileOutput {
    /// Opens `path` for a result. If `path` is a symbolic link, its target is replaced and the link stays.
    ///
    /// # Errors
    /// When the file cannot be created or written to, and for directories and block devices.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let cannot = || cannot_write(path);
        match HostTarget::find(path).with_context(cannot)? {
            HostTarget::Missing { parent, name, .. } => {
                FileOutput::replacing(parent, name, Permissions::from_mode(NEW_FILE_MODE), path)
            }
            HostTarget::Object { metadata, .. } if metadata.file_type().is_block_device() => {
                bail!("{}: it is a directory or a block device", cannot())
            }
            HostTarget::Object { parent, name, metadata, has_name: true, .. } if metadata.is_file() => {
                let output =
                    FileOutput::replacing(parent, name, Permissions::from_mode(NEW_FILE_MODE), path)?;
                if let FileOutput::Replaced(draft) = &output {
                    // A file that others could not read stays so.
                    draft.file.set_permissions(metadata.permissions()).with_context(cannot)?;
                }
                Ok(output)
            }
            HostTarget::Object { parent, name, metadata, has_name, .. } => {
                let mut flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
                flags.set(OFlags::NOFOLLOW, has_name);
                flags.set(OFlags::TRUNC, metadata.is_file());
                let file = openat(&parent, &name, flags, Mode::empty()).with_context(cannot)?;
                Ok(FileOutput::WrittenInto(file.into()))
            }
            _ => bail!("{}: it is a directory or a block device", cannot()),
        }
    }

    fn replacing(
        directory: HostDirectory,
        name: OsString,
        permissions: Permissions,
        path: &Path,
    ) -> Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(permissions.mode());
        let (file, temporary) = match openat(&directory, ".", flags, mode) {
            Ok(file) => (file.into(), None),
            Err(_) => {
                let named = temporary_name().permissions(permissions).tempfile_in(beneath(&directory));
                let named = named.map_err(without_path).with_context(|| cannot_write(path))?;
                let (file, name) = named.into_parts();
                (file, Some(name))
            }
        };
        Ok(FileOutput::Replaced(Draft { file, temporary, directory, name, path: path.to_owned() }))
    }

    /// Returns the file to write to.
    pub(super) fn file(&self) -> &File {
        match self {
            FileOutput::Replaced(draft) => &draft.file,
            FileOutput::WrittenInto(file) => file,
        }
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub(super) fn finish(self) -> Result<()> {
        let FileOutput::Replaced(draft) = self else { return Ok(()) };
        let path = draft.path.clone();
        draft.place().map_err(without_path).with_context(|| cannot_write(&path))
    }

    /// Removes the temporary file, if there is one.
    pub(super) fn discard(self) {
        if let FileOutput::Replaced(Draft { temporary: Some(name), .. }) = self {
            let _ = name.close();
        }
    }
}

impl Draft {
    /// Gives the file its name, and replaces an existing file.
    fn place(self) -> io::Result<()> {
        let directory = beneath(&self.directory);
        let temporary = match self.temporary {
            Some(temporary) => temporary,
            None => match link(&self.file, &directory.join(&self.name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    // A link cannot replace a file, but renaming can.
                    let named = temporary_name().make_in(&directory, |path| link(&self.file, path))?;
                    named.into_temp_path()
                }
                placed => return placed,
            },
        };
        temporary.persist(directory.join(self.name)).map_err(|error| error.error)
    }
}

fn temporary_name() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".imgmount-");
    builder
}

/// Gives a file without a name this one.
fn link(file: &File, path: &Path) -> io::Result<()> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Returns a path that leads to a directory that is held open, wherever it was moved.
fn beneath(directory: &HostDirectory) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()))
}

/// Returns an error without the temporary path that `tempfile` adds to its text.
fn without_path(error: io::Error) -> io::Error {
    let text = error.to_string();
    let cause = text.split(" at path ").next().unwrap_or_default().to_owned();
    io::Error::new(error.kind(), cause)
}

/// Returns the beginning of an error about `path`.
pub(super) fn cannot_write(path: &Path) -> String {
    format!("cannot write '{}'", escape_path(path))
}
