//! How registries are reached.

use std::path::PathBuf;
use std::time::Duration;

/// The longest time of one wait for a registry, unless another is set.
const DEFAULT_NET_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum size on disk of the downloaded parts of blobs, unless another is set.
const DEFAULT_BLOB_CACHE_BYTES: u64 = 10 << 30;

/// Options for images in registries (`docker://`).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// The file with credentials. By default they are looked up where Docker and podman keep them.
    pub auth_file: Option<PathBuf>,
    /// Accept any certificate, and plain HTTP from a host that does not speak TLS. Off by default.
    pub insecure: bool,
    /// Make no request: use only what is in the store. Off by default.
    pub offline: bool,
    /// The longest time that a request for a document or a read of a file may take. 60 seconds by default.
    pub net_timeout: Duration,
    /// Maximum size on disk of the downloaded parts of blobs, in bytes. 10 GiB by default. The last 5 % of the
    /// disk are left free, whatever the size.
    pub blob_cache_bytes: u64,
    /// Ends all waits.
    #[cfg(feature = "registry")]
    pub(crate) cancel: super::registry::Cancel,
}

impl RegistryOptions {
    /// Sets the file with credentials.
    #[must_use]
    pub fn auth_file(mut self, auth_file: impl Into<Option<PathBuf>>) -> Self {
        self.auth_file = auth_file.into();
        self
    }

    /// Sets whether any certificate is accepted, and plain HTTP from a host that does not speak TLS.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Sets whether no request is made.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the longest time that a request for a document or a read of a file may take.
    #[must_use]
    pub fn net_timeout(mut self, net_timeout: Duration) -> Self {
        self.net_timeout = net_timeout;
        self
    }

    /// Sets the maximum size on disk of the downloaded parts of blobs, in bytes.
    #[must_use]
    pub fn blob_cache_bytes(mut self, blob_cache_bytes: u64) -> Self {
        self.blob_cache_bytes = blob_cache_bytes;
        self
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        RegistryOptions {
            auth_file: None,
            insecure: false,
            offline: false,
            net_timeout: DEFAULT_NET_TIMEOUT,
            blob_cache_bytes: DEFAULT_BLOB_CACHE_BYTES,
            #[cfg(feature = "registry")]
            cancel: Default::default(),
        }
    }
}
