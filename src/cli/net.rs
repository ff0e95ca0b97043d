//! Options and environment variables for images in registries.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use imgmount::{Environment, Error, ProxyAddress, RegistryOptions, Subject};

use super::options::{parse_bytes, parse_duration};

/// The options for requests to registries.
#[derive(Debug, Clone, Args)]
pub(crate) struct NetArgs {
    /// Read credentials of registries only from FILE; default: the files of podman and Docker
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    authfile: Option<PathBuf>,
    /// Accept any certificate of a registry, and use plain HTTP if it does not speak TLS
    #[arg(long)]
    insecure: bool,
    /// Make no request to a registry; fail if something is not in the cache
    #[arg(long)]
    offline: bool,
    /// Maximum time to get a document from a registry, or to read part of a file
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    net_timeout: Duration,
    /// Maximum disk space for downloaded layers, in bytes or with suffix K, M, G or T
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "10G")]
    blob_cache_size: u64,
}

impl NetArgs {
    /// Returns the options that the arguments select.
    pub(crate) fn options(&self) -> RegistryOptions {
        RegistryOptions::default()
            .auth_file(self.authfile.clone())
            .insecure(self.insecure)
            .offline(self.offline)
            .net_timeout(self.net_timeout)
            .blob_cache_bytes(self.blob_cache_size)
    }
}

/// Parses a path. A mount leaves the working directory, and reads the file again later.
fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// Sets the fields of `environment` about registries from the environment variables, which `set` returns.
pub(crate) fn read_variables(environment: &mut Environment, set: &dyn Fn(&str) -> Option<OsString>) {
    let path = |name| set(name).map(PathBuf::from);
    let text = |names: [&str; 2]| names.into_iter().find_map(|name| set(name)?.into_string().ok());
    environment.auth_file = path("REGISTRY_AUTH_FILE");
    environment.docker_config = path("DOCKER_CONFIG");
    environment.registries_conf = path("CONTAINERS_REGISTRIES_CONF");
    environment.proxies.http = text(["http_proxy", "HTTP_PROXY"]).map(ProxyAddress::new);
    environment.proxies.https = text(["https_proxy", "HTTPS_PROXY"]).map(ProxyAddress::new);
    environment.proxies.none_for = text(["no_proxy", "NO_PROXY"]).unwrap_or_default();
}

/// Returns the suggested next step after an error about a registry.
pub(crate) fn hint(error: &Error) -> Option<String> {
    let hint = match error {
        Error::Denied { host, user: None, .. } => {
            return Some(format!(
                "log in with `podman login {host}` or `docker login {host}`, or use --authfile"
            ));
        }
        Error::Denied { host, user: Some(_), .. } => {
            return Some(format!(
                "ask for access to the image, or log in as another user with `podman login {host}`"
            ));
        }
        Error::Limited { .. } => "wait, or log in: most registries allow more requests after a login",
        Error::Unreachable { .. } => "--offline uses what is in the cache",
        Error::Offline { .. } => "omit --offline to download it",
        Error::Certificate { .. } => {
            "put the certificate of a private CA into ~/.config/containers/certs.d/HOST/ca.crt; \
             --insecure accepts any certificate"
        }
        Error::Registry { status: Some(404), .. } => "`imgmount images docker://HOST/NAME` lists the tags",
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns a hint for a path that does not exist, if the reference can be the name of an image in a registry.
pub(crate) fn hint_of_missing(subject: &Subject) -> Option<String> {
    let Subject::Nowhere { image_name: Some(name), .. } = subject else { return None };
    let is_archive = name.contains(".tar") || name.contains(".tgz");
    (!is_archive).then(|| format!("if it is an image in a registry, use docker://{name}"))
}
