//! Which hosts serve an image, and how they are reached: mirrors, plain HTTP, certificates.
//!
//! This module owns what is taken from registries.conf of podman, from hosts.toml of containerd, and from the
//! directories `certs.d` of both and of Docker. It makes no request. Sources: containers-registries.conf(5),
//! containers-certs.d(5); hosts.md of containerd.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::containerd_hosts;
use super::name::{DOCKER_HUB, DOCKER_HUB_HOST, ImageName};
use super::registries_conf::Registries;
use super::url::is_loopback;
use crate::error::{Error, Result, Subject};
use crate::source::Environment;

/// The largest configuration file, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// How connections to a host are made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Tls {
    /// Files with further root certificates, in PEM.
    pub(super) roots: Vec<PathBuf>,
    /// Files with our certificate and its key, in PEM.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// True if any certificate is accepted.
    pub(super) any_certificate: bool,
    /// The longest time to connect, if the configuration limits it.
    pub(super) connect_timeout: Option<Duration>,
}

/// Whether a host is asked with TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    /// Always.
    Tls,
    /// With TLS; if the host does not speak TLS, without.
    Either,
    /// Never.
    Plain,
}

/// A host that serves an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// The host as users write it, under which its credentials are stored.
    pub(super) name: String,
    /// The host that is asked, with its port.
    pub(super) host: String,
    /// The path before the name of the repository, without a slash at its end.
    pub(super) root: String,
    /// The repository on this host.
    pub(super) repository: String,
    pub(super) security: Security,
    pub(super) tls: Arc<Tls>,
    /// Headers that the configuration adds to each request. They can be secret.
    pub(super) headers: Vec<(String, String)>,
    /// Whether the host may say which digest a tag means.
    pub(super) resolves_tags: bool,
    /// Whether the host is asked for documents and blobs by digest.
    pub(super) serves_digests: bool,
    /// The registry that a mirror is asked to stand for.
    pub(super) namespace: Option<String>,
}

/// Returns the hosts that serve `name`, in the order in which they are asked; at least one.
///
/// # Errors
/// [`Error::Malformed`] for a configuration file that cannot be parsed, [`Error::Io`] for one that cannot be
/// read, [`Error::Registry`] for a registry that the configuration blocks.
pub(super) fn endpoints(
    name: &ImageName,
    environment: &Environment,
    insecure: bool,
) -> Result<Vec<Endpoint>> {
    let found = match Registries::read(environment)?.endpoints(name)? {
        Some(found) => found,
        None => match containerd_hosts::endpoints(name, environment)? {
            Some(found) => found,
            None => vec![Endpoint::new(&name.host, &name.repository)],
        },
    };
    found.into_iter().map(|endpoint| endpoint.completed(environment, insecure)).collect()
}

impl Endpoint {
    /// Returns the endpoint of `host` without any configuration.
    pub(super) fn new(host: &str, repository: &str) -> Self {
        Endpoint {
            name: host.to_owned(),
            host: if host == DOCKER_HUB { DOCKER_HUB_HOST } else { host }.to_owned(),
            root: "/v2".to_owned(),
            repository: repository.to_owned(),
            security: if is_loopback(host) { Security::Either } else { Security::Tls },
            tls: Arc::default(),
            headers: Vec::new(),
            resolves_tags: true,
            serves_digests: true,
            namespace: None,
        }
    }

    /// Returns the endpoint as it was reached: with TLS or without.
    pub(super) fn reached(&self, is_tls: bool) -> Self {
        let security = if is_tls { Security::Tls } else { Security::Plain };
        Endpoint { security, ..self.clone() }
    }

    /// Makes the endpoint accept any certificate, and plain HTTP from a host without TLS.
    pub(super) fn insecure(&mut self) {
        Arc::make_mut(&mut self.tls).any_certificate = true;
        if self.security == Security::Tls {
            self.security = Security::Either;
        }
    }

    /// Adds the certificates of the `certs.d` directories.
    fn completed(mut self, environment: &Environment, insecure: bool) -> Result<Self> {
        if insecure {
            self.insecure();
        }
        let directories =
            [&self.name, &self.host].into_iter().flat_map(|host| certificates(environment, host));
        if let Some(directory) = directories.into_iter().find(|directory| directory.is_dir()) {
            let tls = Arc::make_mut(&mut self.tls);
            let files = files_in(&directory)?;
            let with = |suffix: &str| {
                let is = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == suffix);
                files.iter().filter(is).cloned().collect::<Vec<_>>()
            };
            tls.roots.extend(with("crt"));
            if let Some(certificate) = with("cert").into_iter().next().filter(|_| tls.client.is_none()) {
                let key = certificate.with_extension("key");
                if !key.is_file() {
                    return Err(Error::malformed(
                        Subject::File(certificate),
                        "the file with its key is missing",
                    ));
                }
                tls.client = Some((certificate, key));
            }
        }
        Ok(self)
    }
}

/// Returns the directories that can hold the certificates of `host`, the preferred one first.
fn certificates(environment: &Environment, host: &str) -> Vec<PathBuf> {
    let own = environment.user_config().map(|config| config.join("containers/certs.d"));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d", "/etc/containerd/certs.d"];
    let system = system.into_iter().map(|path| environment.place(path));
    own.into_iter().chain(system).map(|directory| directory.join(host)).collect()
}

/// Returns the paths in a directory, sorted.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |cause| Error::io_on("cannot read", Subject::File(directory.to_owned()), cause);
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Returns the files in `directory` whose names end in `.conf`, sorted; none if it does not exist.
pub(super) fn drop_ins(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.is_dir() {
        return Ok(Vec::new());
    }
    let is_conf = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "conf");
    Ok(files_in(directory)?.into_iter().filter(is_conf).collect())
}

/// Parses a configuration file in TOML; `None` if it does not exist.
///
/// # Errors
/// [`Error::Limit`], [`Error::Malformed`], [`Error::Io`].
pub(super) fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let what = || Subject::File(path.to_owned());
    let Some(bytes) = read_file(path)? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| Error::malformed(what(), "not UTF-8"))?;
    toml::from_str(&text).map(Some).map_err(|error| {
        // The text of the error can quote the line, which can hold a secret.
        let line =
            error.span().map_or(0, |span| text.get(..span.start).unwrap_or(&text).matches('\n').count());
        Error::malformed(what(), format!("line {}: {}", line + 1, error.message()))
    })
}

/// Reads a configuration file; `None` if it does not exist.
///
/// # Errors
/// [`Error::Limit`], [`Error::Io`].
pub(super) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let what = || Subject::File(path.to_owned());
    let failed = |cause| Error::io_on("cannot read", what(), cause);
    let len = match fs::metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        found => found.map_err(failed)?.len(),
    };
    if len > MAX_CONFIG_BYTES {
        return Err(Error::limit(what(), "MAX_CONFIG_BYTES", len, MAX_CONFIG_BYTES));
    }
    fs::read(path).map(Some).map_err(failed)
}
