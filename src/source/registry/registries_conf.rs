//! registries.conf, version 2: which host serves names with a prefix, its mirrors, and blocked registries.
//!
//! Source: containers-registries.conf(5). Lists of registries to search for names without a host are not
//! honoured, because whoever registers a name first on one of them would be asked: such names belong to
//! docker.io, as in Docker.

use serde::Deserialize;

use super::hosts::{Endpoint, drop_ins, read_toml};
use super::name::ImageName;
use crate::error::{Error, Result};
use crate::source::Environment;

/// The tables `[[registry]]` of all files.
#[derive(Debug, Default)]
pub(super) struct Registries(Vec<Registry>);

#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Pull,
}

/// Which requests a mirror gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pull {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl Registries {
    /// Reads the user's file, or else that of the system, and the files in the `.conf.d` directories, which
    /// replace tables with the same prefix.
    ///
    /// # Errors
    /// For a file that cannot be read or parsed.
    pub(super) fn read(environment: &Environment) -> Result<Self> {
        let own = environment.user_config().map(|config| config.join("containers"));
        let system = environment.place("/etc/containers");
        let main = match (&environment.registries_conf, &own) {
            (Some(path), _) => path.clone(),
            (None, Some(own)) if own.join("registries.conf").exists() => own.join("registries.conf"),
            _ => system.join("registries.conf"),
        };
        let mut files = vec![main];
        if environment.registries_conf.is_none() {
            for directory in [Some(system), own].into_iter().flatten() {
                files.extend(drop_ins(&directory.join("registries.conf.d"))?);
            }
        }
        let mut found = Registries::default();
        for path in files {
            let file: File = read_toml(&path)?.unwrap_or_default();
            for registry in file.registry {
                found.0.retain(|known| known.prefix() != registry.prefix());
                found.0.push(registry);
            }
        }
        Ok(found)
    }

    /// Returns the hosts that serve `name`; `None` if no table is about it.
    ///
    /// # Errors
    /// [`Error::Registry`] for a blocked registry.
    pub(super) fn endpoints(&self, name: &ImageName) -> Result<Option<Vec<Endpoint>>> {
        let place = name.place();
        let fitting = self.0.iter().filter(|registry| registry.matches(&place));
        let Some(registry) = fitting.max_by_key(|registry| registry.prefix().len()) else { return Ok(None) };
        if registry.blocked {
            let reason = format!("registries.conf blocks '{}'", registry.prefix());
            return Err(Error::Registry { host: name.host.clone(), reason, status: None });
        }
        let mut found = Vec::new();
        for mirror in &registry.mirror {
            let mut endpoint = registry.endpoint(&mirror.location, &place);
            let digests_only = mirror.pull_from_mirror == Pull::DigestOnly || registry.mirror_by_digest_only;
            endpoint.resolves_tags = !digests_only;
            endpoint.serves_digests = mirror.pull_from_mirror != Pull::TagOnly || name.digest.is_none();
            if mirror.insecure {
                endpoint.insecure();
            }
            found.push(endpoint);
        }
        let mut own = registry.endpoint(&registry.location, &place);
        if registry.insecure {
            own.insecure();
        }
        found.push(own);
        Ok(Some(found))
    }
}

impl Registry {
    fn prefix(&self) -> &str {
        if self.prefix.is_empty() { &self.location } else { &self.prefix }
    }

    /// Returns whether the table is about `place`, which is host and repository.
    fn matches(&self, place: &str) -> bool {
        let prefix = self.prefix();
        if let Some(domain) = prefix.strip_prefix('*').filter(|domain| domain.starts_with('.')) {
            let host = place.split('/').next().unwrap_or_default();
            return host.len() > domain.len() && host.ends_with(domain);
        }
        let rest = place.strip_prefix(prefix);
        !prefix.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the endpoint with `location` in the place of the prefix.
    fn endpoint(&self, location: &str, place: &str) -> Endpoint {
        let rest = match self.prefix() {
            prefix if prefix.starts_with('*') => {
                let path = place.split_once('/').map_or("", |(_, path)| path);
                if location.is_empty() { return split(place) } else { format!("/{path}") }
            }
            prefix => place.strip_prefix(prefix).unwrap_or_default().to_owned(),
        };
        let location = if location.is_empty() { self.prefix() } else { location };
        split(&format!("{location}{rest}"))
    }
}

fn split(place: &str) -> Endpoint {
    let (host, repository) = place.split_once('/').unwrap_or((place, ""));
    Endpoint::new(&host.to_ascii_lowercase(), repository)
}

#[cfg(test)]
mod tests {
    use super::super::hosts::{Security, endpoints};
    use super::*;

    fn environment(files: &[(&str, &str)]) -> (tempfile::TempDir, Environment) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let environment = Environment {
            root: root.path().to_owned(),
            home: Some(root.path().join("home")),
            ..Environment::default()
        };
        (root, environment)
    }

    /// Shows each endpoint as `host/repository`, with `~` if TLS is optional, and with `#` or `:` if it only
    /// serves digests or only tags.
    fn shown(name: &str, environment: &Environment) -> String {
        let name = ImageName::parse(name).unwrap();
        let found = match endpoints(&name, environment, false) {
            Ok(found) => found,
            Err(error) => return error.to_string(),
        };
        let texts: Vec<String> = found
            .iter()
            .map(|endpoint| {
                let security = match endpoint.security {
                    Security::Tls => "",
                    Security::Either => "~",
                    Security::Plain => "!",
                };
                let serves = match (endpoint.resolves_tags, endpoint.serves_digests) {
                    (true, true) => "",
                    (false, _) => "#",
                    (_, false) => ":",
                };
                let own = if endpoint.root == "/v2" { "" } else { &endpoint.root };
                format!("{security}{}{own}/{}{serves}", endpoint.host, endpoint.repository)
            })
            .collect();
        texts.join(" ")
    }

    #[test]
    fn r2_the_longest_prefix_decides_and_mirrors_come_first() {
        let (_root, environment) = environment(&[(
            "etc/containers/registries.conf",
            r#"
            unqualified-search-registries = ["evil.test"]
            [[registry]]
            location = "docker.io"
            [[registry.mirror]]
            location = "mirror.test/hub"
            [[registry.mirror]]
            location = "digests.test"
            insecure = true
            pull-from-mirror = "digest-only"
            [[registry]]
            prefix = "docker.io/grafana"
            location = "grafana.test/images"
            [[registry]]
            prefix = "*.corp.test"
            insecure = true
            [[registry]]
            prefix = "gone.test"
            blocked = true
            "#,
        )]);
        for (name, expected) in [
            (
                "alpine:3",
                "mirror.test/hub/library/alpine ~digests.test/library/alpine# \
                 registry-1.docker.io/library/alpine",
            ),
            ("grafana/loki", "grafana.test/images/loki"),
            (
                "grafanax/loki",
                "mirror.test/hub/grafanax/loki ~digests.test/grafanax/loki# registry-1.docker.io/grafanax/loki",
            ),
            ("a.b.corp.test/x/y", "~a.b.corp.test/x/y"),
            ("corp.test/x", "corp.test/x"),
            ("gone.test/a", "'gone.test': registries.conf blocks 'gone.test'"),
            ("gone.test.else.test/a", "gone.test.else.test/a"),
            ("localhost:5000/a", "~localhost:5000/a"),
        ] {
            assert_eq!(shown(name, &environment), expected, "{name}");
        }
    }

    #[test]
    fn r2_the_users_file_replaces_that_of_the_system_and_drop_ins_replace_tables() {
        let table = |location: &str| format!("[[registry]]\nprefix=\"a.test\"\nlocation=\"{location}\"\n");
        let (root, environment) = environment(&[
            (
                "etc/containers/registries.conf",
                &format!("{}[[registry]]\nlocation=\"x.test\"\ninsecure=true", table("system.test")),
            ),
            ("etc/containers/registries.conf.d/10.conf", &table("ten.test")),
            ("etc/containers/registries.conf.d/20.conf", &table("twenty.test")),
            ("etc/containers/registries.conf.d/30.txt", "not toml"),
        ]);
        assert_eq!(shown("a.test/app", &environment), "twenty.test/app");
        assert_eq!(shown("x.test/app", &environment), "~x.test/app");
        let own = root.path().join("home/.config/containers");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("registries.conf"), "").unwrap();
        assert_eq!(shown("x.test/app", &environment), "x.test/app");
        std::fs::write(own.join("registries.conf"), "\n[[registry]\n").unwrap();
        let error = shown("x.test/app", &environment);
        assert!(error.contains("registries.conf': line 2: "), "{error}");
    }

    #[test]
    fn r2_hosts_toml_of_containerd_applies_where_registries_conf_says_nothing() {
        let (_root, environment) = environment(&[
            (
                "etc/containerd/certs.d/docker.io/hosts.toml",
                r#"
                server = "https://registry-1.docker.io"
                [host."https://z-mirror.test"]
                capabilities = ["pull"]
                [host."http://127.0.0.1:30020"]
                dial_timeout = "200ms"
                [host."https://a.test/v2/hub"]
                override_path = true
                skip_verify = true
                [host."https://push.test"]
                capabilities = ["push"]
                "#,
            ),
            (
                "etc/containerd/certs.d/_default/hosts.toml",
                "[host.\"https://cache.test\"]\ncapabilities=[\"pull\", \"resolve\"]",
            ),
            ("etc/containerd/certs.d/reg.test_5000_/hosts.toml", "server = \"http://reg.test:5000\""),
        ]);
        for (name, expected) in [
            (
                "alpine",
                "z-mirror.test/library/alpine# !127.0.0.1:30020/library/alpine \
                 a.test/v2/hub/library/alpine registry-1.docker.io/library/alpine",
            ),
            ("quay.io/o/app", "cache.test/o/app quay.io/o/app"),
            ("reg.test:5000/app", "!reg.test:5000/app"),
        ] {
            assert_eq!(shown(name, &environment), expected, "{name}");
        }
        let name = ImageName::parse("alpine").unwrap();
        let found = endpoints(&name, &environment, false).unwrap();
        let namespaces: Vec<_> = found.iter().map(|endpoint| endpoint.namespace.as_deref()).collect();
        assert_eq!(namespaces, [Some("docker.io"), Some("docker.io"), Some("docker.io"), None]);
        assert_eq!(found[1].tls.connect_timeout, Some(std::time::Duration::from_millis(200)));
        assert!(found[2].tls.any_certificate);
    }

    #[test]
    fn r2_certificates_come_from_certs_d() {
        let (root, environment) = environment(&[
            ("etc/docker/certs.d/reg.test:5000/ca.crt", ""),
            ("etc/docker/certs.d/reg.test:5000/client.cert", ""),
            ("etc/docker/certs.d/reg.test:5000/client.key", ""),
            ("etc/containers/certs.d/other.test/x.cert", ""),
        ]);
        let name = ImageName::parse("reg.test:5000/app").unwrap();
        let tls = &endpoints(&name, &environment, false).unwrap()[0].tls;
        let directory = root.path().join("etc/docker/certs.d/reg.test:5000");
        assert_eq!(tls.roots, [directory.join("ca.crt")]);
        assert_eq!(tls.client, Some((directory.join("client.cert"), directory.join("client.key"))));
        let error = shown("other.test/app", &environment);
        assert!(error.ends_with("x.cert': the file with its key is missing"), "{error}");
    }
}
