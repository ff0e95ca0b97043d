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
    /// How hosts authenticate users.
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

    /// Removes files in `cache`, the cache directory, those first that were not used for longest, until all
    /// together have at most `max_bytes`. Failures leave files, and are logged.
    #[cfg(feature = "registry")]
    pub(crate) fn shrink(self, cache: &Path, max_bytes: u64) {
        let folder = cache.join(self.name());
        let Ok(entries) = check_trust(&folder).map_err(drop).and_then(|()| folder.read_dir().map_err(drop))
        else {
            return;
        };
        let file = |entry: std::fs::DirEntry| {
            let metadata = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        };
        let mut files: Vec<_> = entries.flatten().filter_map(file).collect();
        files.sort();
        let mut total = files.iter().fold(0_u64, |total, (_, len, _)| total.saturating_add(*len));
        for (_, len, path) in files {
            if total <= max_bytes {
                break;
            }
            match std::fs::remove_file(&path) {
                Ok(()) => total = total.saturating_sub(len),
                Err(error) => log::info!("{}", cannot_write(&path, error)),
            }
        }
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
    fn the_files_that_were_used_last_stay() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join("cache");
        Folder::Documents.shrink(&cache, 0);
        for (name, age) in [("a", 3), ("b", 1), ("c", 2)] {
            Folder::Documents.write(&cache, name, b"0123456789").unwrap();
            let file = fs::File::options().write(true).open(cache.join("docs").join(name)).unwrap();
            file.set_modified(SystemTime::now() - std::time::Duration::from_secs(age * 60)).unwrap();
        }
        let left = |max| {
            Folder::Documents.shrink(&cache, max);
            let kept = |name: &&str| cache.join("docs").join(name).exists();
            ["a", "b", "c"].into_iter().filter(kept).collect::<String>()
        };
        assert_eq!([left(30), left(29), left(10), left(9)], ["abc", "bc", "b", ""]);
    }

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
            assert_eq!(Folder::Tags.read(&cache, "a", 9), None, "{shared:?}");
            let is_directory = shared.is_dir();
            assert_eq!(Folder::Tags.write(&cache, "b", b"text").is_err(), is_directory);
            fs::set_permissions(&shared, before).unwrap();
        }
    }
}
