//! What sources need to know of the user and the host, passed in because the library reads no environment
//! variable.
//!
//! This module owns the names of these facts. The sources decide what follows from them (rule F48 in
//! docs/formats.md).

use std::fmt;
use std::path::{Path, PathBuf};

/// The facts about the user and the host that decide where engines keep their images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Environment {
    /// The directory below which the places of engines and their configuration files are looked up. `/` by
    /// default.
    pub root: PathBuf,
    /// User ID of the process. Root has other default places than ordinary users.
    pub uid: u32,
    /// Home directory: `HOME`.
    pub home: Option<PathBuf>,
    /// Directory for user data: `XDG_DATA_HOME`.
    pub data_home: Option<PathBuf>,
    /// Directory for user configuration: `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// Directory for sockets: `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// Address of the Docker daemon: `DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// Configuration file of containers-storage: `CONTAINERS_STORAGE_CONF`.
    pub storage_conf: Option<PathBuf>,
    /// The only file with credentials of registries: `REGISTRY_AUTH_FILE`.
    pub auth_file: Option<PathBuf>,
    /// Directory with the configuration of Docker's client, `config.json`: `DOCKER_CONFIG`. If set, no other file with
    /// credentials is read.
    pub docker_config: Option<PathBuf>,
    /// File that replaces `registries.conf` and `registries.conf.d`: `CONTAINERS_REGISTRIES_CONF`.
    pub registries_conf: Option<PathBuf>,
    /// Proxies for requests to registries.
    pub proxies: Proxies,
}

/// The proxies for HTTP requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Proxies {
    /// The proxy for plain HTTP: `http_proxy` or `HTTP_PROXY`.
    pub http: Option<ProxyAddress>,
    /// The proxy for HTTP over TLS: `https_proxy` or `HTTPS_PROXY`.
    pub https: Option<ProxyAddress>,
    /// The hosts and domains that are contacted directly, separated by commas; `*` means all: `no_proxy` or
    /// `NO_PROXY`.
    pub none_for: String,
}

impl Proxies {
    /// Returns whether `host`, without a port, is asked without a proxy: it is listed, a parent domain is
    /// listed, or the list is `*`.
    #[cfg(feature = "registry")]
    pub(super) fn spares(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        self.none_for.split(',').map(|listed| listed.trim().to_ascii_lowercase()).any(|listed| {
            let listed = listed.rsplit_once(':').map_or(&*listed, |(name, _)| name);
            let domain = listed.trim_start_matches("*.").trim_start_matches('.');
            let is_below =
                host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            listed == "*" || (!domain.is_empty() && is_below)
        })
    }
}

/// The address of a proxy. It can contain a password, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyAddress(String);

impl ProxyAddress {
    /// Wraps an address such as `http://proxy.example.com:3128`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        ProxyAddress(text.into())
    }

    /// Returns the address.
    #[cfg(feature = "registry")]
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Default for Environment {
    /// Returns an environment in which only the places of the system are known, not those of the user.
    fn default() -> Self {
        Environment {
            root: PathBuf::from("/"),
            uid: 0,
            home: None,
            data_home: None,
            config_home: None,
            runtime_dir: None,
            docker_host: None,
            storage_conf: None,
            auth_file: None,
            docker_config: None,
            registries_conf: None,
            proxies: Proxies::default(),
        }
    }
}

impl Environment {
    /// Returns the place of the absolute path `path` below the root.
    #[must_use]
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Returns the directory for user data: `data_home` if it is an absolute path, as the XDG Base Directory
    /// Specification requires, else `.local/share` in the home directory.
    #[must_use]
    pub fn user_data(&self) -> Option<PathBuf> {
        self.user_directory(self.data_home.as_deref(), ".local/share")
    }

    /// Returns the directory for user configuration: `config_home` if it is an absolute path, else `.config`
    /// in the home directory.
    #[must_use]
    pub fn user_config(&self) -> Option<PathBuf> {
        self.user_directory(self.config_home.as_deref(), ".config")
    }

    fn user_directory(&self, set: Option<&Path>, otherwise: &str) -> Option<PathBuf> {
        let set = set.filter(|path| path.is_absolute()).map(Path::to_owned);
        set.or_else(|| Some(self.home.as_ref()?.join(otherwise)))
    }
}
