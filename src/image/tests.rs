//! Tests of manifests and image indexes.

use super::manifest::{Descriptor, Document, ImageIndex, Manifest, parse};
use super::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::error::{Error, Subject};

const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn descriptor(media_type: &str, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{ABC}","size":3{more}}}"#)
}

fn manifest(config: &str, layer: &str, more: &str) -> String {
    let (config, layer) = (descriptor(config, ""), descriptor(layer, ""));
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{more}}}"#)
}

fn index(descriptors: &[String], more: &str) -> String {
    format!(r#"{{"schemaVersion":2,"manifests":[{}]{more}}}"#, descriptors.join(","))
}

fn parse_manifest(text: &str) -> Manifest {
    match parse(&Subject::Image, text.as_bytes(), None).unwrap() {
        Document::Manifest(manifest) => *manifest,
        Document::Index(_) => panic!("an image index"),
    }
}

fn parse_index(text: &str) -> ImageIndex {
    match parse(&Subject::Image, text.as_bytes(), None).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("a manifest"),
    }
}

fn refusal(text: &str, expected: Option<&str>) -> Error {
    parse(&Subject::Image, text.as_bytes(), expected).unwrap_err()
}

fn first(index: &ImageIndex) -> &Descriptor {
    index.manifests.first().unwrap()
}

#[test]
fn x3_a_document_of_two_kinds_is_refused() {
    let layers = format!(r#","layers":[{}]"#, descriptor(LAYER, ""));
    let config = format!(r#","config":{}"#, descriptor(CONFIG, ""));
    for text in [
        index(&[], &layers),
        index(&[], &config),
        manifest(CONFIG, LAYER, r#","manifests":[]"#),
        manifest(CONFIG, LAYER, r#","fsLayers":[]"#),
        index(&[], r#","fsLayers":[]"#),
    ] {
        assert!(matches!(refusal(&text, None), Error::Malformed { .. }), "{text}");
    }
}

#[test]
fn x3_a_document_must_be_of_the_kind_its_descriptor_says() {
    for (text, expected) in [
        (manifest(CONFIG, LAYER, ""), OCI_INDEX),
        (manifest(CONFIG, LAYER, ""), DOCKER_LIST),
        (index(&[], ""), OCI_MANIFEST),
    ] {
        let error = refusal(&text, Some(expected)).to_string();
        assert!(error.contains("the fields do not fit the media type"), "{error}");
    }
    let typed = index(&[], &format!(r#","mediaType":"{OCI_INDEX}""#));
    let error = refusal(&typed, Some(DOCKER_LIST)).to_string();
    assert!(error.contains("the descriptor says"), "{error}");
    assert!(parse(&Subject::Image, typed.as_bytes(), Some(OCI_INDEX)).is_ok());
}

/// Both types have the same fields; containerd and skopeo read the manifest and ignore which of the two types
/// its descriptor names.
#[test]
fn x3_a_manifest_may_be_ocis_where_dockers_is_expected_and_the_reverse() {
    for (own, expected) in [(OCI_MANIFEST, DOCKER_MANIFEST), (DOCKER_MANIFEST, OCI_MANIFEST)] {
        let typed = manifest(CONFIG, LAYER, &format!(r#","mediaType":"{own}""#));
        let document = parse(&Subject::Image, typed.as_bytes(), Some(expected)).unwrap();
        let Document::Manifest(manifest) = document else { panic!("{document:?}") };
        assert_eq!(manifest.media_type.as_deref(), Some(own));
        // Documents that could be read as two kinds are still refused.
        let sly = manifest_with_manifests(own);
        assert!(refusal(&sly, Some(expected)).to_string().contains("the document type is ambiguous"));
    }
}

fn manifest_with_manifests(media_type: &str) -> String {
    manifest(CONFIG, LAYER, &format!(r#","mediaType":"{media_type}","manifests":[]"#))
}

#[test]
fn x5_equal_and_variant_keys_are_refused_in_every_object() {
    for text in [
        manifest(CONFIG, LAYER, r#","layers":[]"#),
        manifest(CONFIG, LAYER, r#","Layers":[]"#),
        manifest(CONFIG, LAYER, r#","MediaType":"x","mediaType":"x""#),
        index(&[descriptor(OCI_MANIFEST, r#","Digest":"x""#)], ""),
        index(&[descriptor(OCI_MANIFEST, r#","platform":{"OS":"linux","os":"linux"}"#)], ""),
        index(&[descriptor(OCI_MANIFEST, r#","annotations":{"a":"1","a":"2"}"#)], ""),
    ] {
        assert!(matches!(refusal(&text, None), Error::Malformed { .. }), "{text}");
    }
}

/// A key in another case must not hide that a manifest could be read as another document.
#[test]
fn x5_a_key_in_another_case_counts_in_every_check() {
    let text = manifest(CONFIG, LAYER, r#","Manifests":[]"#);
    assert!(refusal(&text, None).to_string().contains("has both 'manifests' and 'config'"));
    let text = manifest(CONFIG, LAYER, r#","FSLayers":[]"#);
    assert!(refusal(&text, None).to_string().contains("'fsLayers' belongs"));
}

#[test]
fn f15_attestations_are_known_by_annotation_or_platform() {
    for (more, attestation) in [
        (r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#, true),
        (r#","platform":{"architecture":"unknown","os":"unknown"}"#, true),
        (r#","platform":{"architecture":"amd64","os":"linux"}"#, false),
        ("", false),
    ] {
        let index = parse_index(&index(&[descriptor(OCI_MANIFEST, more)], ""));
        assert_eq!(first(&index).is_attestation(), attestation, "{more}");
    }
}

#[test]
fn f16_a_build_cache_is_refused_by_name() {
    let cache = descriptor("application/vnd.buildkit.cacheconfig.v0", "");
    let error = refusal(&index(&[descriptor(LAYER, ""), cache], ""), None).to_string();
    assert!(error.contains("cacheconfig.v0': not supported: a BuildKit cache"), "{error}");
}

#[test]
fn f19_embedded_data_must_equal_the_content() {
    let descriptor = |data: &str| {
        let text = index(&[descriptor(OCI_MANIFEST, &format!(r#","data":"{data}""#))], "");
        parse_index(&text).manifests.remove(0)
    };
    let good = descriptor("YWJj");
    assert_eq!(good.data.as_deref(), Some(&b"abc"[..]));
    assert!(good.check(&Subject::Image, b"abc").is_ok());
    assert!(matches!(good.check(&Subject::Image, b"abd"), Err(Error::Mismatch { .. })));
    assert!(matches!(good.check(&Subject::Image, b"abcd"), Err(Error::Mismatch { .. })));
}

#[test]
fn f20_x2_a_digest_is_checked_before_anything_is_done_with_it() {
    for digest in ["md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../../etc/passwd"] {
        let text = index(&[descriptor(OCI_MANIFEST, "").replace(ABC, digest)], "");
        let error = refusal(&text, None).to_string();
        assert!(error.starts_with(&format!("digest '{digest}'")), "{error}");
    }
}

#[test]
fn f22_f24_a_manifest_names_the_layer_it_cannot_serve() {
    for media_type in [
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.erofs.layer.v1",
        "application/vnd.oci.image.layer.v1.squashfs",
    ] {
        let error = parse_manifest(&manifest(CONFIG, media_type, "")).check_image();
        assert!(error.unwrap_err().to_string().contains(media_type));
    }
}

#[test]
fn f23_schema_1_is_named() {
    for (text, expected) in [
        (r#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#, None),
        (r#"{"fsLayers":[]}"#, Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
    ] {
        let error = refusal(text, expected).to_string();
        assert!(error.contains("a Docker schema 1 manifest"), "{error}");
    }
}

#[test]
fn f14_platforms_of_descriptors_are_normalised() {
    let more = r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}"#;
    let index = parse_index(&index(&[descriptor(OCI_MANIFEST, more)], ""));
    assert_eq!(first(&index).platform.as_ref().unwrap().to_string(), "linux/arm64");
}

#[test]
fn a_manifest_without_a_config_is_refused() {
    let text = r#"{"schemaVersion":2,"layers":[]}"#;
    assert!(refusal(text, None).to_string().contains("'config' is missing"));
}

#[test]
fn more_layers_than_the_limit_are_refused() {
    let mut manifest = parse_manifest(&manifest(CONFIG, LAYER, ""));
    let layer = manifest.layers.remove(0);
    manifest.layers = vec![layer; crate::layer::MAX_LAYERS + 1];
    assert!(matches!(manifest.check_image(), Err(Error::Limit { limit: "MAX_LAYERS", max: 4096, .. })));
}
