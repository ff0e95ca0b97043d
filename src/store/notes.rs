//! Small files about registries in a store: documents, what tags meant, and how hosts authenticate users.
//!
//! This module owns their folders and who may write to them. It does not know what the files say.

use std::path::Path;
#[cfg(feature = "registry")]
use std::{
    io::{Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::SystemTime,
};

#[cfg(feature = "registry")]
use super::{Store, cannot_write, check_trust, open_own};
#[cfg(feature = "registry")]
use crate::error::Result;

/// A folder of small files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Folder {
    /// Manifests, image indexes and configs.
    Documents,
    /// What tags meant when they were asked for last.
    Tags,
    /// How hosts want to be convinced.
    Hosts,
}

impl Folder {
    pub(super) const ALL: [Folder; 3] = [Folder::Documents, Folder::Tags, Folder::Hosts];

    /// Returns the name of the folder in the cache directory.
    pub(super) fn name(self) -> &'static str {
        match self {
            Folder::Documents => "docs",
            Folder::Tags => "refs",
            Folder::Hosts => "hosts",
        }
    }

    /// Returns the folder that holds the file with this name, relative to the cache directory.
    pub(super) fn of(name: &str) -> Option<Self> {
        let first = Path::new(name).parent()?.to_str()?;
        Folder::ALL.into_iter().find(|folder| folder.name() == first)
    }

    /// Reads a file of at most `max` bytes in `cache`, the cache directory, which counts as use. Returns
    /// `None` if there is no such file, or if another user could have written it.
    #[cfg(feature = "registry")]
    pub(crate) fn read(self, cache: &Path, name: &str, max: u64) -> Option<Vec<u8>> {
        let folder = cache.join(self.name());
        check_trust(cache).and_then(|()| check_trust(&folder)).ok()?;
        let file = open_own(&folder.join(name)).map_err(|error| log::info!("{error}")).ok()??;
        // Pruning uses this time as the time of last use.
        let _ = file.set_modified(SystemTime::now());
        let mut bytes = Vec::new();
        file.take(max.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 <= max).then_some(bytes)
    }

    /// Writes a file in `cache`, the cache directory, under its name once it is complete. Directories that
    /// are missing are created.
    ///
    /// # Errors
    /// As [`Store::open`]; [`crate::Error::Io`] when the file cannot be written.
    #[cfg(feature = "registry")]
    pub(crate) fn write(self, cache: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let folder = Store::open(cache)?.directory().join(self.name());
        // A directory that exists is examined next.
        let _ = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        check_trust(&folder)?;
        let path: PathBuf = folder.join(name);
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(&folder)?;
            file.write_all(bytes)?;
            file.persist(&path).map(drop).map_err(std::io::Error::from)
        };
        written().map_err(|cause| cannot_write(&path, cause))
    }
}

#[cfg(test)]
#[cfg(feature = "registry")]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_read_only_where_no_other_user_can_write() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("cache");
        assert_eq!(Folder::Tags.read(&cache, "a", 9), None);
        Folder::Tags.write(&cache, "a", b"text").unwrap();
        assert_eq!(Folder::Tags.read(&cache, "a", 4).unwrap(), b"text");
        assert_eq!(Folder::Tags.read(&cache, "a", 3), None);
        assert_eq!(Folder::Documents.read(&cache, "a", 9), None);
        let modes = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((modes(&cache), modes(&cache.join("refs"))), (0o700, 0o700));

        symlink(cache.join("refs/a"), cache.join("refs/link")).unwrap();
        assert_eq!(Folder::Tags.read(&cache, "link", 9), None);
        for shared in [cache.join("refs/a"), cache.join("refs"), cache.clone()] {
            let before = fs::metadata(&shared).unwrap().permissions();
            fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
            assert_eq!(Folder::Tags.read(&cache, "a", 9), None, "{}", shared.display());
            let is_directory = shared.is_dir();
            assert_eq!(Folder::Tags.write(&cache, "b", b"text").is_err(), is_directory);
            fs::set_permissions(&shared, before).unwrap();
        }
    }
}
