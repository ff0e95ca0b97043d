//! hosts.toml of containerd: the mirrors of a registry, and how they are reached.
//!
//! Source: hosts.md of containerd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Map;

use super::hosts::{Endpoint, Security, Tls, read_toml};
use super::name::ImageName;
use super::url::{Url, is_loopback};
use crate::error::{Error, Result, Subject};
use crate::source::Environment;

#[derive(Debug, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(flatten)]
    own: Host,
    #[serde(default)]
    host: toml::Table,
}

/// The settings of a host.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<toml::Value>,
    skip_verify: bool,
    header: Map<String, serde_json::Value>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// Returns the hosts that serve `name`; `None` if there is no hosts.toml for its registry.
///
/// # Errors
/// For a file that cannot be read or parsed.
pub(super) fn endpoints(name: &ImageName, environment: &Environment) -> Result<Option<Vec<Endpoint>>> {
    let root = environment.place("/etc/containerd/certs.d");
    let mut names = vec![name.host.clone(), "_default".to_owned()];
    if let Some((host, port)) = name.host.rsplit_once(':') {
        names.insert(0, format!("{host}_{port}_"));
    }
    let found =
        names.iter().map(|directory| root.join(directory).join("hosts.toml")).find(|path| path.is_file());
    let Some(path) = found else { return Ok(None) };
    let Some(file) = read_toml::<File>(&path)? else { return Ok(None) };
    let mut found = Vec::new();
    for (address, settings) in file.host {
        let what = || Subject::File(path.clone());
        let settings: Host = settings.try_into().map_err(|error: toml::de::Error| {
            Error::malformed(what(), format!("'{address}': {}", error.message()))
        })?;
        if let Some(mut endpoint) = settings.endpoint(&address, name, &path)? {
            endpoint.namespace = Some(name.host.clone());
            found.push(endpoint);
        }
    }
    let own = match &file.server {
        Some(server) => file.own.endpoint(server, name, &path)?,
        None => file.own.applied(Endpoint::new(&name.host, &name.repository), &path)?,
    };
    found.extend(own);
    if found.is_empty() {
        return Err(Error::malformed(Subject::File(path), "no host has the capability 'pull'"));
    }
    Ok(Some(found))
}

impl Host {
    /// Returns the endpoint at `address`; `None` if images are not pulled from it.
    fn endpoint(&self, address: &str, name: &ImageName, path: &Path) -> Result<Option<Endpoint>> {
        let complete =
            if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let Some(url) = Url::parse(&complete) else {
            let reason = format!("'{}' is not the address of a host", address.escape_debug());
            return Err(Error::malformed(Subject::File(path.to_owned()), reason));
        };
        let mut endpoint = Endpoint::new(&url.host, &name.repository);
        endpoint.security = match url.tls {
            true => Security::Tls,
            false => Security::Plain,
        };
        if !address.contains("://") && is_loopback(&url.host) {
            endpoint.security = Security::Either;
        }
        // The credentials of the registry itself are stored under its name.
        if url.host == Endpoint::new(&name.host, "").host {
            endpoint.name.clone_from(&name.host);
        }
        let base = url.path.trim_end_matches('/');
        endpoint.root = match base {
            "" if self.override_path => String::new(),
            "" | "/v2" => "/v2".to_owned(),
            base if self.override_path => base.to_owned(),
            base => format!("{base}/v2"),
        };
        self.applied(endpoint, path)
    }

    fn applied(&self, mut endpoint: Endpoint, path: &Path) -> Result<Option<Endpoint>> {
        let can = |what: &str| {
            self.capabilities.as_ref().is_none_or(|list| list.iter().any(|capability| capability == what))
        };
        if !can("pull") {
            return Ok(None);
        }
        endpoint.resolves_tags = can("resolve");
        let directory = path.parent().unwrap_or(path);
        let roots = match &self.ca {
            None => Vec::new(),
            Some(OneOrMany::One(path)) => vec![directory.join(path)],
            Some(OneOrMany::Many(paths)) => paths.iter().map(|path| directory.join(path)).collect(),
        };
        let connect_timeout = self.dial_timeout.as_deref().and_then(duration);
        let client = self
            .client
            .as_ref()
            .and_then(client)
            .map(|(certificate, key)| (directory.join(certificate), directory.join(key)));
        endpoint.tls = Arc::new(Tls { roots, client, any_certificate: self.skip_verify, connect_timeout });
        for (key, value) in &self.header {
            let values = match value {
                serde_json::Value::String(value) => vec![value.clone()],
                serde_json::Value::Array(values) => {
                    values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
                }
                _ => Vec::new(),
            };
            endpoint.headers.extend(values.into_iter().map(|value| (key.clone(), value)));
        }
        Ok(Some(endpoint))
    }
}

/// Returns the files of the first certificate and its key: `"a"`, `["a"]`, `[["a", "b"]]`; a file alone holds
/// both.
fn client(value: &toml::Value) -> Option<(String, String)> {
    match value {
        toml::Value::String(both) => Some((both.clone(), both.clone())),
        toml::Value::Array(values) => match values.as_slice() {
            [toml::Value::Array(pair), ..] => match pair.as_slice() {
                [toml::Value::String(certificate), toml::Value::String(key)] if !key.is_empty() => {
                    Some((certificate.clone(), key.clone()))
                }
                [first, ..] => client(first),
                [] => None,
            },
            [first, ..] => client(first),
            [] => None,
        },
        _ => None,
    }
}

/// Parses a duration as Go writes it, with one unit: `200ms`, `3s`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(at)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}
