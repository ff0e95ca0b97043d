//! Descriptors, image indexes and manifests of OCI and Docker schema 2, parsed from bytes.
//!
//! This module owns which documents are refused before they are followed: Docker schema 1, and documents that
//! can be read as two kinds at once (X3, CVE-2021-41190). It must not know where bytes come from;
//! [`Descriptor::check`] compares digests and sizes. Sources: OCI image-spec descriptor.md, image-index.md,
//! manifest.md; distribution manifest-v2-2.md.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::media_type::{self, DocumentKind, unsupported};
use super::platform::Platform;
use super::strict_json::{self, Object, malformed};
use crate::digest::Digest;
use crate::error::{Error, Property, Result, Subject};
use crate::layer::check_layers;

/// The largest manifest, image index (inside the tree) or config: 4 MiB, which registries accept and engines
/// read (X6).
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 * 1024 * 1024;

/// The annotation that marks the descriptor of an attestation (F15).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Media type of all layers of a cosign signature, whose config is that of an image. Source: cosign,
/// specs/SIGNATURE_SPEC.md.
const COSIGN_SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Media type of all layers of a cosign attestation. Source: cosign, specs/ATTESTATION_SPEC.md.
const COSIGN_ATTESTATION: &str = "application/vnd.dsse.envelope.v1+json";

const DESCRIPTOR_FIELDS: [&str; 8] =
    ["mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"];
const PLATFORM_FIELDS: [&str; 5] = ["architecture", "os", "os.version", "os.features", "variant"];
const DOCUMENT_FIELDS: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "fsLayers",
    "subject",
    "annotations",
];

/// A descriptor: media type, digest and size of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    /// Media type of the blob; absent in the oldest manifests.
    pub media_type: Option<String>,
    /// Digest of the blob.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Download addresses of a foreign blob (F18).
    pub urls: Vec<String>,
    /// Annotations, which may contain names of the image.
    pub annotations: BTreeMap<String, String>,
    /// The blob itself if it is embedded (F19); not checked yet.
    pub data: Option<Vec<u8>>,
    /// Platform of the image, in an image index.
    pub platform: Option<Platform>,
    /// Type of the artifact that a manifest describes; images have none.
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Creates a descriptor with the fields that every blob has.
    pub(crate) fn new(media_type: Option<String>, digest: Digest, size: u64) -> Self {
        Descriptor {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
        }
    }

    /// Checks that `bytes` have the size and digest of the blob. `what` names the blob in errors.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for another size or digest.
    pub(crate) fn check(&self, what: &Subject, bytes: &[u8]) -> Result<()> {
        self.check_size(what, bytes.len() as u64)?;
        let found = self.digest.algorithm().digest(bytes);
        if found != self.digest {
            return Err(Error::mismatch(what.clone(), Property::Digest, self.digest, found));
        }
        Ok(())
    }

    /// Checks the length of the blob before its bytes are read.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for another size.
    pub(crate) fn check_size(&self, what: &Subject, len_bytes: u64) -> Result<()> {
        if len_bytes == self.size {
            return Ok(());
        }
        let (expected, found) = (format!("{} bytes", self.size), format!("{len_bytes} bytes"));
        Err(Error::mismatch(what.clone(), Property::Size, expected, found))
    }

    /// Returns true for provenance and SBOM manifests that BuildKit adds to an image (F15).
    #[must_use]
    pub(crate) fn is_attestation(&self) -> bool {
        self.annotations.contains_key(REFERENCE_TYPE)
            || self.platform.as_ref().is_some_and(Platform::is_unknown)
    }

    fn parse(what: &Subject, value: &Value) -> Result<Self> {
        let object = Object::new(what, value, &DESCRIPTOR_FIELDS)?;
        let data = match object.string("data")? {
            None => None,
            Some(text) => {
                let bytes = STANDARD.decode(text);
                Some(bytes.map_err(|cause| malformed(what, format!("'data' is not base64: {cause}")))?)
            }
        };
        Ok(Descriptor {
            media_type: object.string("mediaType")?.map(str::to_owned),
            digest: object.required_string("digest")?.parse()?,
            size: object.u64("size")?.ok_or_else(|| object.missing("size"))?,
            urls: object.strings("urls")?,
            annotations: object.string_map("annotations")?,
            data,
            platform: object.get("platform").map(|value| parse_platform(what, value)).transpose()?.flatten(),
            artifact_type: object.string("artifactType")?.map(str::to_owned),
        })
    }
}

fn parse_platform(what: &Subject, value: &Value) -> Result<Option<Platform>> {
    platform_of(&Object::new(what, value, &PLATFORM_FIELDS)?)
}

/// Returns the platform in a descriptor's `platform` or in a config; `None` when operating system or
/// architecture is missing.
pub(super) fn platform_of(object: &Object<'_>) -> Result<Option<Platform>> {
    let os = object.string("os")?.unwrap_or_default();
    let architecture = object.string("architecture")?.unwrap_or_default();
    let variant = object.string("variant")?.unwrap_or_default();
    if os.is_empty() || architecture.is_empty() {
        return Ok(None);
    }
    Ok(Some(Platform::new(os, architecture, variant)))
}

/// An image index: a list of manifests or of further image indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageIndex {
    /// Descriptors in the order of the document.
    pub manifests: Vec<Descriptor>,
    /// Annotations of the image index.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest: the config and layers of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Media type that the manifest states, if it does.
    pub media_type: Option<String>,
    /// Descriptor of the image config.
    pub config: Descriptor,
    /// Descriptors of the layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Annotations of the image.
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Returns a name for a manifest that is not an image, with its article: `an artifact of type 'x'`;
    /// `None` for an image.
    #[must_use]
    pub(crate) fn artifact(&self) -> Option<String> {
        let type_of = |descriptor: &Descriptor| descriptor.media_type.clone().unwrap_or_default();
        let config = type_of(&self.config);
        let by_config = !media_type::is_config(&config);
        let by_layers =
            !self.layers.is_empty() && !self.layers.iter().any(|layer| media_type::is_layer(&type_of(layer)));
        if !by_config && !by_layers {
            return None;
        }
        let first = self.layers.first().map(type_of).unwrap_or_default();
        match first.as_str() {
            COSIGN_SIGNATURE => return Some("a cosign signature".to_owned()),
            COSIGN_ATTESTATION => return Some("a cosign attestation".to_owned()),
            _ => {}
        }
        let kind = if by_config { config } else { first };
        Some(format!("an artifact of type '{}'", kind.escape_debug()))
    }

    /// Checks that the manifest is an image whose layers are tar streams.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for artifacts, build caches, encrypted layers and layers of other formats;
    /// [`Error::Limit`] past [`MAX_LAYERS`](crate::layer::MAX_LAYERS).
    pub(crate) fn check_image(&self) -> Result<()> {
        media_type::check_config(self.config.media_type.as_deref())?;
        if let Some(what) = self.artifact() {
            return Err(Error::unsupported(Subject::Image, format!("{what}, not a container image")));
        }
        for layer in &self.layers {
            media_type::check_layer(layer.media_type.as_deref().unwrap_or_default())?;
        }
        check_layers(Subject::Image, self.layers.len())
    }
}

/// The two kinds of document that a reference can lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    /// An image index.
    Index(ImageIndex),
    /// A manifest.
    Manifest(Box<Manifest>),
}

/// Parses an image index or a manifest. `expected` is the media type in the descriptor of the document, if a
/// descriptor led to it.
///
/// # Errors
/// [`Error::Unsupported`] for Docker schema 1, build caches and unknown types; [`Error::Malformed`] for
/// documents that violate their format, that could be read as two kinds, or that state another media type
/// than their descriptor. An OCI manifest is accepted where a Docker manifest is expected, and the reverse.
pub(crate) fn parse(what: &Subject, bytes: &[u8], expected: Option<&str>) -> Result<Document> {
    let value = strict_json::parse(what, bytes)?;
    let object = Object::new(what, &value, &DOCUMENT_FIELDS)?;
    let own = object.string("mediaType")?.filter(|own| !own.is_empty());
    check_schema(what, &object, own.or(expected))?;
    if let (Some(own), Some(expected)) = (own, expected)
        && own != expected
        && !(is_manifest(own) && is_manifest(expected))
    {
        let (own, expected) = (own.escape_debug(), expected.escape_debug());
        let reason = format!("the media type is '{own}', but the descriptor says '{expected}'");
        return Err(malformed(what, reason));
    }
    match document_kind(what, &object, own.or(expected))? {
        DocumentKind::Index => parse_index(what, &object).map(Document::Index),
        DocumentKind::Manifest => {
            parse_manifest(what, &object, own).map(|manifest| Document::Manifest(Box::new(manifest)))
        }
    }
}

/// Returns true for the manifest types of OCI and Docker. They have the same fields, and engines read either
/// type where the descriptor states the other (X3).
fn is_manifest(media_type: &str) -> bool {
    media_type::document_kind(media_type) == Some(DocumentKind::Manifest)
}

/// Parses the `index.json` of an OCI layout. Without `manifests`, or with `null`, the list is empty: Docker
/// 25 and later write such a file if no image has a name (F3).
///
/// # Errors
/// As [`parse`]; [`Error::Malformed`] for a manifest.
pub(crate) fn parse_layout_index(what: &Subject, bytes: &[u8]) -> Result<ImageIndex> {
    let value = strict_json::parse(what, bytes)?;
    let object = Object::new(what, &value, &DOCUMENT_FIELDS)?;
    if ["manifests", "config", "layers"].into_iter().all(|field| object.get(field).is_none()) {
        check_schema(what, &object, object.string("mediaType")?)?;
        return Ok(ImageIndex { manifests: Vec::new(), annotations: BTreeMap::new() });
    }
    match parse(what, bytes, None)? {
        Document::Index(index) => Ok(index),
        Document::Manifest(_) => Err(malformed(what, "expected an image index, found a manifest")),
    }
}

fn check_schema(what: &Subject, object: &Object<'_>, media_type: Option<&str>) -> Result<()> {
    let version = object.u64("schemaVersion")?;
    if version == Some(1) || media_type.is_some_and(media_type::is_schema_1) {
        return Err(Error::unsupported(
            what.clone(),
            "a Docker schema 1 manifest, which has no config and no diff_ids; \
             pull and save the image again with a current engine",
        ));
    }
    // The field is required, but some tools omit it in index.json; 2 is its only valid value.
    if version.is_some_and(|version| version != 2) {
        return Err(malformed(what, "'schemaVersion' is not 2"));
    }
    if object.get("fsLayers").is_some() {
        return Err(malformed(what, "'fsLayers' belongs to another kind of manifest"));
    }
    Ok(())
}

/// Returns the kind of document, on which media type and fields must agree.
fn document_kind(what: &Subject, object: &Object<'_>, media_type: Option<&str>) -> Result<DocumentKind> {
    let has_manifests = object.get("manifests").is_some();
    let manifest_field = ["config", "layers"].into_iter().find(|field| object.get(field).is_some());
    let said = match media_type {
        None => None,
        Some(media_type) => Some(
            media_type::document_kind(media_type)
                .ok_or_else(|| unsupported(media_type, "neither a manifest nor an image index"))?,
        ),
    };
    match (has_manifests, manifest_field) {
        (true, Some(field)) => Err(malformed(
            what,
            format!("has both 'manifests' and '{field}': the document type is ambiguous"),
        )),
        (true, None) if said != Some(DocumentKind::Manifest) => Ok(DocumentKind::Index),
        (false, Some(_)) if said != Some(DocumentKind::Index) => Ok(DocumentKind::Manifest),
        (false, None) => Err(malformed(what, "has neither 'manifests' nor 'layers'")),
        _ => Err(malformed(what, "the fields do not fit the media type")),
    }
}

fn parse_index(what: &Subject, object: &Object<'_>) -> Result<ImageIndex> {
    let manifests = object.array("manifests")?;
    let manifests: Vec<_> =
        manifests.iter().map(|value| Descriptor::parse(what, value)).collect::<Result<_>>()?;
    let is_cache =
        |descriptor: &Descriptor| descriptor.media_type.as_deref() == Some(media_type::BUILDKIT_CACHE);
    if manifests.iter().any(is_cache) {
        return Err(unsupported(media_type::BUILDKIT_CACHE, "a BuildKit cache, not an image"));
    }
    Ok(ImageIndex { manifests, annotations: object.string_map("annotations")? })
}

fn parse_manifest(what: &Subject, object: &Object<'_>, media_type: Option<&str>) -> Result<Manifest> {
    let config = object.get("config").ok_or_else(|| object.missing("config"))?;
    let layers = object.array("layers")?;
    Ok(Manifest {
        media_type: media_type.map(str::to_owned),
        config: Descriptor::parse(what, config)?,
        layers: layers.iter().map(|value| Descriptor::parse(what, value)).collect::<Result<_>>()?,
        annotations: object.string_map("annotations")?,
    })
}
