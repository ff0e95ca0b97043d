//! The file that a command writes its result to: created, replaced, or written into.
//!
//! This module owns what happens to something that has the name already. A regular file is replaced by a
//! complete one. A named pipe, a terminal or `/dev/null` is written into, never replaced.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tempfile::NamedTempFile;

/// Mode of a new file, before the umask.
const NEW_FILE_MODE: u32 = 0o666;

/// Where a result is written to.
pub(super) enum FileOutput {
    /// A temporary file, which gets this name when it is complete.
    Replaced(NamedTempFile, PathBuf),
    /// A file that exists and is not a regular file, or that a dangling link names.
    WrittenInto(File),
}

impl FileOutput {
    /// Opens `path` for a result. If `path` is a symbolic link, its target is replaced and the link stays.
    ///
    /// # Errors
    /// When the file cannot be created or written to, and for directories and block devices.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let cannot = || cannot_write(path);
        let Ok(target) = fs::canonicalize(path) else {
            return match path.is_symlink() {
                true => Ok(FileOutput::WrittenInto(File::create(path).with_context(cannot)?)),
                false => FileOutput::replacing(path, Permissions::from_mode(NEW_FILE_MODE)),
            };
        };
        let metadata = fs::metadata(&target).with_context(cannot)?;
        let kind = metadata.file_type();
        if kind.is_dir() || kind.is_block_device() {
            bail!("{}: it is a directory or a block device", cannot());
        }
        if !kind.is_file() {
            let file = File::options().write(true).open(&target).with_context(cannot)?;
            return Ok(FileOutput::WrittenInto(file));
        }
        let output = FileOutput::replacing(&target, Permissions::from_mode(NEW_FILE_MODE))?;
        if let FileOutput::Replaced(draft, _) = &output {
            // A file that others could not read stays so.
            draft.as_file().set_permissions(metadata.permissions()).with_context(cannot)?;
        }
        Ok(output)
    }

    fn replacing(path: &Path, permissions: Permissions) -> Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let draft = tempfile::Builder::new()
            .prefix(".imgmount-")
            .permissions(permissions)
            .tempfile_in(parent.unwrap_or(Path::new(".")))
            .with_context(|| cannot_write(path))?;
        Ok(FileOutput::Replaced(draft, path.to_owned()))
    }

    /// Returns the file to write to.
    pub(super) fn file(&self) -> &File {
        match self {
            FileOutput::Replaced(draft, _) => draft.as_file(),
            FileOutput::WrittenInto(file) => file,
        }
    }

    /// Gives the complete file its name.
    ///
    /// # Errors
    /// When the file cannot be renamed.
    pub(super) fn finish(self) -> Result<()> {
        match self {
            FileOutput::Replaced(draft, path) => {
                draft.persist(&path).map_err(|error| error.error).with_context(|| cannot_write(&path))?;
                Ok(())
            }
            FileOutput::WrittenInto(_) => Ok(()),
        }
    }

    /// Removes the temporary file, if there is one.
    pub(super) fn discard(self) {
        if let FileOutput::Replaced(draft, _) = self {
            let _ = draft.close();
        }
    }
}

/// Returns the beginning of an error about `path`.
pub(super) fn cannot_write(path: &Path) -> String {
    format!("cannot write '{}'", path.display())
}
