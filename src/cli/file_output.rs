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
use rustix::fs::{Mode, OFlags, openat};
use tempfile::NamedTempFile;

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

/// A temporary file in the directory of the result.
pub(super) struct Draft {
    file: NamedTempFile,
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
                    draft.file.as_file().set_permissions(metadata.permissions()).with_context(cannot)?;
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
        let file = tempfile::Builder::new()
            .prefix(".imgmount-")
            .permissions(permissions)
            .tempfile_in(beneath(&directory))
            .map_err(without_path)
            .with_context(|| cannot_write(path))?;
        Ok(FileOutput::Replaced(Draft { file, directory, name, path: path.to_owned() }))
    }

    /// Returns the file to write to.
    pub(super) fn file(&self) -> &File {
        match self {
            FileOutput::Replaced(draft) => draft.file.as_file(),
            FileOutput::WrittenInto(file) => file,
        }
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub(super) fn finish(self) -> Result<()> {
        let FileOutput::Replaced(Draft { file, directory, name, path }) = self else { return Ok(()) };
        let placed = file.persist(beneath(&directory).join(name));
        placed.map_err(|error| without_path(error.error)).with_context(|| cannot_write(&path))?;
        Ok(())
    }

    /// Removes the temporary file, if there is one.
    pub(super) fn discard(self) {
        if let FileOutput::Replaced(draft) = self {
            let _ = draft.file.close();
        }
    }
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
