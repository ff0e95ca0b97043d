//! Options for requests to registries.

use std::path::PathBuf;
use std::time::Duration;

/// Default of [`RegistryOptions::net_timeout`].
const DEFAULT_NET_TIMEOUT: Duration = Duration::from_secs(60);

/// Default of [`RegistryOptions::blob_cache_bytes`], in bytes.
const DEFAULT_BLOB_CACHE_BYTES: u64 = 10 << 30;

/// Options for images in registries (`docker://`).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// The only file with credentials. By default, the files of podman and Docker are used.
    pub auth_file: Option<PathBuf>,
    /// Accept any certificate, and use plain HTTP if a host does not speak TLS. Off by default.
    pub insecure: bool,
    /// Make no request; anything that is not in the store is an error. Off by default.
    pub offline: bool,
    /// Maximum time of a request for a document or of a read. 60 seconds by default. The download of a layer may
    /// take longer, but must bring 64 KiB in each such period.
    pub net_timeout: Duration,
    /// Maximum disk space for downloaded layers, in bytes. 10 GiB by default. The last 5 % of the disk are always
    /// left free.
    pub blob_cache_bytes: u64,
    /// Ends all waits.
    #[cfg(feature = "registry")]
    pub(crate) cancel: super::registry::Cancel,
}

impl RegistryOptions {
    /// Sets the only file with credentials; `None` restores the default.
    #[must_use]
    pub fn auth_file(mut self, auth_file: impl Into<Option<PathBuf>>) -> Self {
        self.auth_file = auth_file.into();
        self
    }

    /// Sets whether any certificate is accepted, and plain HTTP is used if a host does not speak TLS.
    #[must_use]
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = insecure;
        self
    }

    /// Sets whether requests are forbidden.
    #[must_use]
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Sets the maximum time of a request for a document or of a read.
    #[must_use]
    pub fn net_timeout(mut self, net_timeout: Duration) -> Self {
        self.net_timeout = net_timeout;
        self
    }

    /// Sets the maximum disk space for downloaded layers, in bytes.
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
