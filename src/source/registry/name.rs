//! Names of images in registries: `[HOST/]NAME[:TAG][@DIGEST]`.
//!
//! Pure. This module owns the grammar (OCI distribution-spec, "Pulling manifests"; distribution/reference)
//! and Docker's short names. It does not know which hosts serve an image.

use std::fmt;

use super::url::is_host;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// The registry that names without a host belong to.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// The host that serves the images of [`DOCKER_HUB`].
pub(super) const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The longest name of a repository, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// The name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageName {
    /// The registry's host as users write it, with its port if one was given: `docker.io`.
    pub(super) host: String,
    /// The repository: `library/nginx`.
    pub(super) repository: String,
    /// The tag; `None` if the name has none.
    pub(super) tag: Option<String>,
    /// The digest; if present, it decides which image is meant, whatever the tag is.
    pub(super) digest: Option<Digest>,
}

impl ImageName {
    /// Parses `text`.
    ///
    /// # Errors
    /// [`Error::Reference`] that says which part is malformed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::Reference { text: format!("docker://{text}"), reason };
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(bad(format!("write it without '{scheme}://', as 'docker://{rest}'")));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let parsed = digest.parse().map_err(|_| bad(format!("'{digest}' is not a digest")))?;
                (rest, Some(parsed))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(bad(format!("'{tag}' is not a tag")));
        }
        let (host, repository) = split_host(name);
        if !is_host(host) {
            return Err(bad(format!("'{host}' is not a host")));
        }
        let host = host.to_ascii_lowercase();
        let host = if host == "index.docker.io" { DOCKER_HUB.to_owned() } else { host };
        let library = if host == DOCKER_HUB && !repository.contains('/') { "library/" } else { "" };
        let repository = format!("{library}{repository}");
        if !is_repository(&repository) {
            let reason = match repository.to_ascii_lowercase() {
                lower if is_repository(&lower) => "repository names must be in lower case",
                _ => "not a name of an image in a registry",
            };
            return Err(bad(reason.to_owned()));
        }
        Ok(ImageName { host, repository, tag: tag.map(str::to_owned), digest })
    }

    /// Returns the tag, or `latest` for a name with neither tag nor digest.
    pub(super) fn tag_or_latest(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// Returns host and repository.
    pub(super) fn place(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = self.tag_or_latest() {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// Splits off the host: the first part if it has a dot, a colon or capitals, or is `localhost`.
fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((host, rest))
            if host.contains(['.', ':'])
                || host == "localhost"
                || host.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (host, rest)
        }
        _ => (DOCKER_HUB, name),
    }
}

/// Returns whether each part between slashes is lower-case letters and digits with separators between them:
/// a dot, one or two underscores, or dashes.
fn is_repository(text: &str) -> bool {
    text.len() <= MAX_NAME_BYTES && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    if !ends.iter().all(|end| end.is_some_and(is_letter)) {
        return false;
    }
    bytes.split(is_letter).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

/// Returns whether `text` is letters, digits, underscores, dots and dashes, and begins with none of the last
/// two.
pub(super) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG_BYTES
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_completes_them() {
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("[::1]:5000/app:x", "[::1]:5000/app:x"),
            ("Quay.io/o/app:v1", "quay.io/o/app:v1"),
            ("reg.test/a/b__c/d---e:1", "reg.test/a/b__c/d---e:1"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().to_string(), expected, "{text}");
            let again = ImageName::parse(expected).unwrap();
            assert_eq!(again.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_digest_stands_alone_or_beside_a_tag() {
        let name = ImageName::parse(&format!("reg.test:5000/app:1@{DIGEST}")).unwrap();
        assert_eq!((name.tag.as_deref(), name.digest), (Some("1"), Some(DIGEST.parse().unwrap())));
        assert_eq!(name.to_string(), format!("reg.test:5000/app:1@{DIGEST}"));
        let name = ImageName::parse(&format!("app@{DIGEST}")).unwrap();
        assert_eq!((name.tag_or_latest(), name.place()), (None, "docker.io/library/app".to_owned()));
        assert_eq!(name.to_string(), format!("docker.io/library/app@{DIGEST}"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let long = "a".repeat(256);
        for (text, reason) in [
            ("", "not a name"),
            ("/app", "not a name"),
            ("reg.test/", "not a name"),
            ("reg.test/a//b", "not a name"),
            ("reg.test/App", "lower case"),
            ("reg.test/a..b", "not a name"),
            ("reg.test/a___b", "not a name"),
            ("reg.test/-a", "not a name"),
            ("reg.test/../etc", "not a name"),
            ("reg.test/a?b", "not a name"),
            (&*format!("reg.test/{long}"), "not a name"),
            ("app:", "'' is not a tag"),
            ("app:-x", "'-x' is not a tag"),
            ("app@sha256:1", "'sha256:1' is not a digest"),
            ("app@latest", "'latest' is not a digest"),
            ("user@reg.test/app", "'reg.test/app' is not a digest"),
            ("a_host!.x/app", "not a host"),
            ("reg.test:99999/app", "not a host"),
            ("https://reg.test/app:1", "write it without 'https://', as 'docker://reg.test/app:1'"),
        ] {
            let error = ImageName::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
