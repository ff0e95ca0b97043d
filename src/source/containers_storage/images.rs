//! The lists of a store: images, layers and containers, and the file names of their big data.
//!
//! This module parses bytes and does no I/O. It owns the format of `images.json`, `layers.json` and
//! `containers.json`, and which IDs may become part of a path. It must not know where the files are. Source:
//! containers/storage, images.go, layers.go and containers.go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result, Subject};
use crate::image::strict_json::{self, Object};
use crate::source::directory::IdRange;

/// Longest ID in bytes. Engines write 64 hexadecimal digits.
const MAX_ID_BYTES: usize = 128;

/// The time that Go writes for a time that was never set.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The big data of a layer that was pulled in parts.
const CHUNKED_MANIFEST: &str = "zstd-chunked-manifest";

/// One image of `images.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageRecord {
    pub(super) id: String,
    /// Digest of the manifest; old stores have none.
    pub(super) digest: Option<Digest>,
    /// Full names; may be empty.
    pub(super) names: Vec<String>,
    /// The topmost layer; `None` for an image without layers, and for a list of images.
    pub(super) layer: Option<String>,
    /// Copies of the topmost layer whose owners were changed for containers with a user namespace.
    pub(super) mapped_layers: Vec<String>,
    /// Time of creation (RFC 3339).
    pub(super) created: Option<String>,
}

/// One layer of `layers.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerRecord {
    pub(super) id: String,
    /// The layer below; `None` for the lowest.
    pub(super) parent: Option<String>,
    /// Digest of the uncompressed tar, if the engine computed it: not for the layer of a container, nor for a
    /// layer of which only those files were pulled that the store did not have (zstd:chunked).
    pub(super) diff_digest: Option<Digest>,
    /// Length of the uncompressed tar in bytes.
    pub(super) diff_size: Option<u64>,
    /// True while an engine writes the layer, and after the engine was killed.
    pub(super) is_incomplete: bool,
    pub(super) maps: IdMaps,
}

/// One container of `containers.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) names: Vec<String>,
    /// ID of the image; `None` for a container that was made without an image.
    pub(super) image: Option<String>,
    /// Name of the image when the container was created, if the engine recorded it.
    pub(super) image_name: Option<String>,
    /// The writable layer.
    pub(super) layer: String,
    /// Time of creation (RFC 3339).
    pub(super) created: Option<String>,
    pub(super) maps: IdMaps,
}

/// The users and groups of a container with a user namespace of its own; empty for other containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct IdMaps {
    pub(super) users: Vec<IdRange>,
    pub(super) groups: Vec<IdRange>,
}

impl IdMaps {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    fn parse(what: &Subject, object: &Object<'_>) -> Result<Self> {
        Ok(IdMaps { users: id_map(what, object, "uidmap")?, groups: id_map(what, object, "gidmap")? })
    }
}

/// Parses `images.json`. `what` names the file in errors.
///
/// # Errors
/// [`Error::Malformed`] for bytes that are not such a list, and for IDs that cannot be part of a path. The
/// same applies to the functions below.
pub(super) fn parse_images(what: &Subject, bytes: &[u8]) -> Result<Vec<ImageRecord>> {
    let fields = ["id", "digest", "names", "layer", "mapped-layers", "created"];
    parse_list(what, bytes, &fields, |object| {
        Ok(ImageRecord {
            id: required_id(what, object, "id")?,
            digest: digest(object, "digest")?,
            names: object.strings("names")?,
            layer: id(what, object, "layer")?,
            mapped_layers: ids(what, object, "mapped-layers")?,
            created: time(object)?,
        })
    })
}

/// Parses `layers.json` or `volatile-layers.json`.
pub(super) fn parse_layers(what: &Subject, bytes: &[u8]) -> Result<Vec<LayerRecord>> {
    let fields = ["id", "parent", "diff-digest", "diff-size", "big-data-names", "flags", "uidmap", "gidmap"];
    parse_list(what, bytes, &fields, |object| {
        let big_data = object.strings("big-data-names")?;
        let is_pulled_in_parts = big_data.iter().any(|name| name == CHUNKED_MANIFEST);
        let flags = object.get("flags").map(|flags| Object::new(what, flags, &["incomplete"])).transpose()?;
        Ok(LayerRecord {
            id: required_id(what, object, "id")?,
            parent: id(what, object, "parent")?,
            // Some versions record the digest of the compressed layer for a layer that was pulled in parts.
            diff_digest: digest(object, "diff-digest")?.filter(|_| !is_pulled_in_parts),
            diff_size: object.u64("diff-size")?,
            is_incomplete: flags.map_or(Ok(false), |flags| flags.bool("incomplete"))?,
            maps: IdMaps::parse(what, object)?,
        })
    })
}

/// Parses `containers.json` or `volatile-containers.json`.
pub(super) fn parse_containers(what: &Subject, bytes: &[u8]) -> Result<Vec<ContainerRecord>> {
    let fields = ["id", "names", "image", "layer", "metadata", "created", "uidmap", "gidmap"];
    parse_list(what, bytes, &fields, |object| {
        Ok(ContainerRecord {
            id: required_id(what, object, "id")?,
            names: object.strings("names")?,
            image: id(what, object, "image")?,
            image_name: object.string("metadata")?.and_then(image_name),
            layer: required_id(what, object, "layer")?,
            created: time(object)?,
            maps: IdMaps::parse(what, object)?,
        })
    })
}

/// Returns the file name of the big data `key`, as the library forms it: keys with other characters than
/// lower-case letters, digits and dots are written as base64 after `=`.
pub(super) fn big_data_file(key: &str) -> String {
    let is_plain = |c: char| c == '.' || c.is_ascii_digit() || c.is_ascii_lowercase();
    if key.chars().all(is_plain) {
        return key.to_owned();
    }
    format!("={}", STANDARD.encode(key))
}

/// Parses an array of objects with these fields. Empty bytes are an empty list, as for the library, which
/// creates such a file before it writes the first record.
fn parse_list<T>(
    what: &Subject,
    bytes: &[u8],
    fields: &[&str],
    parse: impl Fn(&Object<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let value = strict_json::parse(what, bytes)?;
    match &value {
        Value::Null => Ok(Vec::new()),
        Value::Array(records) => {
            records.iter().map(|record| parse(&Object::new(what, record, fields)?)).collect()
        }
        _ => Err(Error::malformed(what.clone(), "not an array of records")),
    }
}

/// Returns the name of the image in the metadata that podman, buildah and CRI-O write for a container. Other
/// programs may write any text.
fn image_name(metadata: &str) -> Option<String> {
    let value: Value = serde_json::from_str(metadata).ok()?;
    let name = value.get("image-name")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn digest(object: &Object<'_>, key: &str) -> Result<Option<Digest>> {
    object.string(key)?.filter(|text| !text.is_empty()).map(str::parse).transpose()
}

fn time(object: &Object<'_>) -> Result<Option<String>> {
    Ok(object.string("created")?.filter(|time| *time != NO_TIME).map(str::to_owned))
}

fn required_id(what: &Subject, object: &Object<'_>, key: &str) -> Result<String> {
    id(what, object, key)?.ok_or_else(|| object.missing(key))
}

fn id(what: &Subject, object: &Object<'_>, key: &str) -> Result<Option<String>> {
    let text = object.string(key)?.filter(|text| !text.is_empty());
    text.map(|text| check_id(what, key, text)).transpose()
}

fn ids(what: &Subject, object: &Object<'_>, key: &str) -> Result<Vec<String>> {
    object.strings(key)?.iter().map(|text| check_id(what, key, text)).collect()
}

/// Checks that an ID can be one component of a path (X2).
fn check_id(what: &Subject, key: &str, text: &str) -> Result<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_id = !text.starts_with('.') && text.len() <= MAX_ID_BYTES && text.bytes().all(is_plain);
    if is_id {
        return Ok(text.to_owned());
    }
    let text: String = text.chars().take(MAX_ID_BYTES).collect();
    Err(Error::malformed(what.clone(), format!("'{key}' is not an ID: '{}'", text.escape_debug())))
}

fn id_map(what: &Subject, object: &Object<'_>, key: &str) -> Result<Vec<IdRange>> {
    let ranges = object.array(key)?.iter().map(|range| {
        let range = Object::new(what, range, &["container_id", "host_id", "size"])?;
        let number = |field| {
            let number = range.u64(field)?.ok_or_else(|| range.missing(field))?;
            u32::try_from(number)
                .map_err(|_| Error::malformed(what.clone(), format!("'{field}' in '{key}' is too large")))
        };
        Ok(IdRange { container: number("container_id")?, host: number("host_id")?, len: number("size")? })
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "69a102171b5025da9a7c78420fc292c135a9b4fc6ebffb984606684be7f0eb98";

    fn fails(result: Result<impl std::fmt::Debug>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn f30_records_are_read_as_podman_writes_them() {
        let text = format!(
            r#"[{{"id":"{ID}","digest":"sha256:{ID}","names":["localhost/demo:1"],"names-history":["x"],
            "layer":"88e1","metadata":"{{}}","big-data-names":["manifest"],"created":"2026-11-21T19:50:52.4Z"}},
            {{"id":"a","created":"0001-01-01T00:00:00Z","mapped-layers":["b"]}}]"#
        );
        let images = parse_images(&Subject::Image, text.as_bytes()).unwrap();
        assert_eq!(images[0].digest.unwrap().hex(), ID);
        assert_eq!(
            (&images[0].names[..], images[0].layer.as_deref()),
            (&["localhost/demo:1".into()][..], Some("88e1"))
        );
        assert_eq!(images[0].created.as_deref(), Some("2026-11-21T19:50:52.4Z"));
        assert_eq!((&images[1].digest, &images[1].layer, &images[1].created), (&None, &None, &None));
        assert_eq!(images[1].mapped_layers, ["b"]);

        let text = format!(
            r#"[{{"id":"c","parent":"p","diff-digest":"sha256:{ID}","diff-size":4096,"uidset":[0]}},
            {{"id":"e","diff-digest":"sha256:{ID}","big-data-names":["zstd-chunked-manifest"]}},
            {{"id":"d","names":["c1-layer"],"flags":{{"incomplete":true}},
              "uidmap":[{{"container_id":0,"host_id":1000,"size":1}}],"gidmap":null}}]"#
        );
        let layers = parse_layers(&Subject::Image, text.as_bytes()).unwrap();
        assert_eq!((layers[0].parent.as_deref(), layers[0].diff_size), (Some("p"), Some(4096)));
        assert_eq!((layers[0].diff_digest.unwrap().hex().as_str(), layers[1].diff_digest), (ID, None));
        assert_eq!((layers[0].is_incomplete, layers[2].is_incomplete), (false, true));
        assert_eq!(layers[2].maps.users, [IdRange { container: 0, host: 1000, len: 1 }]);
        assert!(layers[0].maps.is_empty());

        let text = r#"[{"id":"e","names":["c1"],"image":"","layer":"d",
            "metadata":"{\"image-name\":\"localhost/demo:1\"}"},{"id":"f","layer":"g","metadata":"plain"}]"#;
        let containers = parse_containers(&Subject::Image, text.as_bytes()).unwrap();
        assert_eq!(containers[0].image_name.as_deref(), Some("localhost/demo:1"));
        assert_eq!((&containers[0].image, &containers[1].image_name), (&None, &None));
    }

    #[test]
    fn f30_a_list_may_be_empty() {
        for text in ["", "null", "[]"] {
            assert_eq!(parse_images(&Subject::Image, text.as_bytes()).unwrap(), [], "{text}");
        }
    }

    #[test]
    fn x2_an_id_cannot_lead_to_another_directory() {
        for id in ["../x", "a/b", ".", "..", "/etc", "a\\u0000b", "a b", &"a".repeat(MAX_ID_BYTES + 1)] {
            let text = format!(r#"[{{"id":"a","layer":"{id}"}}]"#);
            let error = fails(parse_images(&Subject::Image, text.as_bytes()));
            assert!(error.contains("'layer' is not an ID"), "{id}: {error}");
            let text = format!(r#"[{{"id":"a","parent":"{id}"}}]"#);
            assert!(parse_layers(&Subject::Image, text.as_bytes()).is_err(), "{id}");
            let text = format!(r#"[{{"id":"{id}","layer":"a"}}]"#);
            assert!(parse_containers(&Subject::Image, text.as_bytes()).is_err(), "{id}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["garbage", "{}", "[1]", "[{}]", r#"[{"id":1}]"#, r#"[{"id":"a","id":"b"}]"#] {
            assert!(parse_images(&Subject::Image, text.as_bytes()).is_err(), "{text}");
        }
        let text = r#"[{"id":"a","uidmap":[{"container_id":0,"host_id":4294967296,"size":1}]}]"#;
        assert!(fails(parse_layers(&Subject::Image, text.as_bytes())).contains("'host_id' in 'uidmap'"));
    }

    #[test]
    fn f30_keys_of_big_data_become_file_names() {
        let config = "sha256:1c3fee6fa6c0ae9913fd9a7ba21df18b851eb2f965769211f578cef63624eefc";
        let file = "=c2hhMjU2OjFjM2ZlZTZmYTZjMGFlOTkxM2ZkOWE3YmEyMWRmMThiODUxZWIyZjk2NTc2OTIxMWY1NzhjZWY2MzYyNGVlZmM=";
        assert_eq!(big_data_file(config), file);
        assert_eq!(big_data_file("manifest"), "manifest");
        assert_eq!(big_data_file("instances.json"), "instances.json");
        assert_eq!(big_data_file("A"), "=QQ==");
    }
}
