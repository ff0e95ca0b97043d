//! The report of an extraction: attributes that were not kept, and objects that could not be created.

use std::fmt;

use crate::error::Error;
use crate::path::escape;

/// Failures that are listed; further failures are only counted, since an image can have millions of
/// names.
const MAX_FAILURES: usize = 100;

/// The outcome of an extraction.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExtractReport {
    /// Attributes that were not kept.
    pub not_kept: NotKept,
    /// The first 100 objects that could not be created.
    pub failures: Vec<ExtractFailure>,
    /// The number of objects that could not be created.
    pub failed: u64,
}

/// Attributes that were not kept: the number of objects that lack each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotKept {
    /// Owner or group.
    pub owners: u64,
    /// Set-user-ID and set-group-ID bits. They are dropped if the owner could not be set: with another
    /// owner, they would give that owner's rights away.
    pub set_ids: u64,
    /// One or more extended attributes.
    pub xattrs: u64,
    /// Devices, which were not created.
    pub devices: u64,
    /// Mode or time: of an existing directory that belongs to another user, or in a file system without
    /// modes or times.
    pub modes_or_times: u64,
}

/// An object that could not be created.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExtractFailure {
    /// The path below the target directory in bytes; empty for the target directory.
    pub path: Vec<u8>,
    /// The cause.
    pub error: Error,
}

impl ExtractReport {
    pub(super) fn fail(&mut self, path: Vec<u8>, error: Error) {
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(ExtractFailure { path, error });
        }
    }
}

impl NotKept {
    /// Returns true if everything was kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == NotKept::default()
    }

    pub(super) fn add(&mut self, other: &NotKept) {
        self.owners += other.owners;
        self.set_ids += other.set_ids;
        self.xattrs += other.xattrs;
        self.devices += other.devices;
        self.modes_or_times += other.modes_or_times;
    }
}

/// Formats a list: `owners (3), devices (1)`.
impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("owners", self.owners),
            ("setuid or setgid bits", self.set_ids),
            ("extended attributes", self.xattrs),
            ("devices", self.devices),
            ("modes or times", self.modes_or_times),
        ];
        let mut separator = "";
        for (kind, count) in kinds.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{separator}{kind} ({count})")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl fmt::Display for ExtractFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { b"." } else { self.path.as_slice() };
        write!(f, "'{}': {}", escape(path), self.error)
    }
}
