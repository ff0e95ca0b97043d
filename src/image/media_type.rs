//! Media types: the lists of those that name manifests, image indexes, configs and layers, and of those that
//! are refused.
//!
//! This module owns these lists. The format of stored bytes is detected from the bytes, not from the media
//! type. Sources: OCI image-spec media-types.md; distribution manifest-v2-2.md; BuildKit's cache exporter.

use crate::compress::Compression;
use crate::error::{Error, Result, Subject};

/// An OCI image manifest.
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image config.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A Docker schema 2 manifest.
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker schema 2 manifest list.
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker image config.
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// BuildKit's description of a build cache, as config of a manifest or as entry of an image index.
pub(crate) const BUILDKIT_CACHE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Media types that registries assigned to image configs by mistake, and that engines accept for images
/// (distribution issue 1621). The oldest manifests have an empty type.
const MISLABELLED_CONFIGS: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];

/// The kinds of document in the tree of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DocumentKind {
    /// An image index.
    Index,
    /// A manifest.
    Manifest,
}

/// Returns the kind of document that `media_type` names; `None` for all other types.
#[must_use]
pub(crate) fn document_kind(media_type: &str) -> Option<DocumentKind> {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Some(DocumentKind::Index),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(DocumentKind::Manifest),
        _ => None,
    }
}

/// Returns true for Docker schema 1, signed or not (F23).
#[must_use]
pub(crate) fn is_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Returns true for image configs, including encrypted ones.
#[must_use]
pub(crate) fn is_config(media_type: &str) -> bool {
    let plain = media_type.strip_suffix("+encrypted").unwrap_or(media_type);
    matches!(plain, OCI_CONFIG | DOCKER_CONFIG) || MISLABELLED_CONFIGS.contains(&plain)
}

/// Checks that a manifest's config is an image config.
///
/// # Errors
/// [`Error::Unsupported`] naming a build cache (F16), an encrypted config or an artifact (F17).
pub(crate) fn check_config(media_type: Option<&str>) -> Result<()> {
    let media_type = media_type.unwrap_or_default();
    if is_config(media_type) && !media_type.contains("+encrypted") {
        return Ok(());
    }
    let reason = if media_type == BUILDKIT_CACHE {
        "a BuildKit cache, not an image"
    } else if media_type.contains("+encrypted") {
        "an encrypted config"
    } else {
        "an artifact, not a container image"
    };
    Err(unsupported(media_type, reason))
}

/// Checks that a layer is a tar stream, compressed or not.
///
/// # Errors
/// [`Error::Unsupported`] naming encrypted layers (F22), file system images (F24) and all other types that
/// are not tar.
pub(crate) fn check_layer(media_type: &str) -> Result<()> {
    if claimed_compression(media_type).is_some() || media_type.is_empty() {
        return Ok(());
    }
    Err(unsupported(media_type, unread_layer(media_type).unwrap_or("an unknown layer type")))
}

/// Returns a name for a known layer type that is not tar.
fn unread_layer(media_type: &str) -> Option<&'static str> {
    if media_type.contains("+encrypted") {
        return Some("an encrypted layer");
    }
    let file_systems = ["erofs", "squashfs", "cim"];
    let is_file_system = file_systems.iter().any(|name| media_type.contains(name));
    is_file_system.then_some("a layer that is a file system image, not a tar stream")
}

/// Returns true for layers of images, including layers that cannot be read. Artifacts with an image config,
/// such as cosign signatures, have layers of other types.
#[must_use]
pub(crate) fn is_layer(media_type: &str) -> bool {
    media_type.is_empty() || claimed_compression(media_type).is_some() || unread_layer(media_type).is_some()
}

/// Returns the compression that a layer's media type states; `None` for types that are not known layers. The
/// compression is detected from the bytes; the stated one serves for a warning if the two differ (Z7).
#[must_use]
pub(crate) fn claimed_compression(media_type: &str) -> Option<Compression> {
    let suffix = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.container.image.rootfs.diff+x-gtar",
    ]
    .iter()
    .find_map(|prefix| media_type.strip_prefix(prefix))?;
    Compression::from_media_type_suffix(suffix)
}

/// Creates [`Error::Unsupported`] for a media type, which is escaped.
pub(crate) fn unsupported(media_type: &str, reason: &str) -> Error {
    Error::unsupported(Subject::MediaType(media_type.to_owned()), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f18_f21_layer_types_and_the_compression_they_claim() {
        for (media_type, claimed) in [
            ("application/vnd.oci.image.layer.v1.tar", Some(Compression::Plain)),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Some(Compression::Zstd)),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar", Some(Compression::Plain)),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", Some(Compression::Zstd)),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Some(Compression::Gzip)),
            ("application/vnd.oci.image.layer.v1.tar+xz", None),
            ("text/plain", None),
        ] {
            assert_eq!(claimed_compression(media_type), claimed, "{media_type}");
        }
    }

    #[test]
    fn f22_f24_layers_that_are_no_tar_are_refused_by_name() {
        for (media_type, word) in [
            ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
            ("application/vnd.erofs.layer.v1", "file system image"),
            ("application/vnd.oci.image.layer.v1.squashfs", "file system image"),
            ("application/wasm", "unknown layer type"),
        ] {
            let error = check_layer(media_type).unwrap_err().to_string();
            assert!(error.contains(media_type) && error.contains(word), "{error}");
        }
    }

    #[test]
    fn f16_f17_configs_of_other_things_are_refused_by_name() {
        for (media_type, word) in [
            (BUILDKIT_CACHE, "BuildKit cache"),
            ("application/vnd.cncf.helm.config.v1+json", "artifact"),
            ("application/vnd.oci.empty.v1+json", "artifact"),
        ] {
            let error = check_config(Some(media_type)).unwrap_err().to_string();
            assert!(error.contains(media_type) && error.contains(word), "{error}");
        }
        for media_type in [OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream"] {
            assert!(check_config(Some(media_type)).is_ok());
        }
        assert!(check_config(None).is_ok());
    }
}
