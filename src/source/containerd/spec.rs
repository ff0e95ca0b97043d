//! The runtime spec of a container: what a runtime mounts over its tree, and its users.
//!
//! This module parses bytes. Sources: containerd stores the spec as a protobuf `google.protobuf.Any`
//! (field 1: type URL, field 2: value), whose value is JSON; OCI runtime-spec, config.md, section Mounts, and
//! config-linux.md, section User namespace mappings.

use serde_json::Value;

use super::metadata::uvarint;
use crate::error::{Error, Result, Subject};
use crate::image::ContainerMount;
use crate::image::strict_json;
use crate::source::directory::IdRange;

/// The tag of field 2 with a length: `field << 3 | wire type 2`.
const VALUE_TAG: u64 = 2 << 3 | 2;
/// The wire type of a field with a length.
const WITH_LENGTH: u64 = 2;
/// Directories for devices, which a runtime covers with its own in every container.
const DEVICES: &str = "/dev";
/// Maximum number of ranges of IDs, as the kernel limits it (user_namespaces(7)).
const MAX_ID_RANGES: usize = 340;

/// What is read of a spec.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Spec {
    /// What a runtime mounts over the tree: files, directories and volumes of the host, and empty file
    /// systems in memory. The kernel's own file systems, such as `proc`, are left out.
    pub(super) mounts: Vec<ContainerMount>,
    /// The users of the container's user namespace; empty if it has none.
    pub(super) uids: Vec<IdRange>,
    /// The groups of the container's user namespace; empty if it has none.
    pub(super) gids: Vec<IdRange>,
}

impl Spec {
    /// Parses a spec. `what` names the container in errors.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the spec violates its format.
    pub(super) fn parse(what: &Subject, spec: &[u8]) -> Result<Self> {
        let json = value(spec).ok_or_else(|| Error::malformed(what.clone(), "the spec is not a message"))?;
        if json.is_empty() {
            return Ok(Spec::default());
        }
        let spec = strict_json::parse(what, json)?;
        let mounts = spec.get("mounts").and_then(Value::as_array);
        let linux = spec.get("linux").unwrap_or(&Value::Null);
        Ok(Spec {
            mounts: mounts.into_iter().flatten().filter_map(mount).collect(),
            uids: id_ranges(what, linux.get("uidMappings"))?,
            gids: id_ranges(what, linux.get("gidMappings"))?,
        })
    }
}

fn id_ranges(what: &Subject, mappings: Option<&Value>) -> Result<Vec<IdRange>> {
    let mappings = mappings.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if mappings.len() > MAX_ID_RANGES {
        let (count, max) = (mappings.len() as u64, MAX_ID_RANGES as u64);
        return Err(Error::limit(what.clone(), "MAX_ID_RANGES", count, max));
    }
    let range = |mapping: &Value| {
        let number = |key| mapping.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        Some(IdRange { container: number("containerID")?, host: number("hostID")?, len: number("size")? })
    };
    let ranges: Option<Vec<IdRange>> = mappings.iter().map(range).collect();
    ranges.ok_or_else(|| Error::malformed(what.clone(), "the spec has a mapping of IDs without numbers"))
}

fn mount(mount: &Value) -> Option<ContainerMount> {
    let text = |key: &str| mount.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let options = mount.get("options").and_then(Value::as_array);
    let is_bind =
        options.into_iter().flatten().any(|option| matches!(option.as_str(), Some("bind" | "rbind")));
    let destination = text("destination")?;
    let kind = match text("type") {
        Some("bind") => "bind",
        Some("tmpfs") if destination != DEVICES && !destination.starts_with("/dev/") => "tmpfs",
        _ if is_bind => "bind",
        _ => return None,
    };
    let source = text("source").filter(|_| kind == "bind").map(str::to_owned);
    Some(ContainerMount { destination: destination.to_owned(), source, kind: kind.to_owned() })
}

/// Returns the value of an `Any`; empty if it has none.
fn value(mut message: &[u8]) -> Option<&[u8]> {
    let mut value: &[u8] = &[];
    while !message.is_empty() {
        let (tag, rest) = uvarint(message)?;
        let (len, rest) = uvarint(rest).filter(|_| tag & 7 == WITH_LENGTH)?;
        let (field, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        if tag == VALUE_TAG {
            value = field;
        }
        message = rest;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(json: &str) -> Vec<u8> {
        let mut message = b"\x0a\x04type\x12".to_vec();
        message.extend([
            u8::try_from(json.len() & 0x7f).unwrap() | 0x80,
            u8::try_from(json.len() >> 7).unwrap(),
        ]);
        message.extend(json.as_bytes());
        message
    }

    fn shown(spec: &[u8]) -> Vec<String> {
        let mounts = Spec::parse(&Subject::Image, spec).unwrap().mounts;
        let shown = |mount: ContainerMount| {
            format!("{} {} {}", mount.destination, mount.source.unwrap_or_default(), mount.kind)
        };
        mounts.into_iter().map(shown).collect()
    }

    #[test]
    fn f39_mounts_over_the_tree_are_listed_and_kernel_file_systems_are_not() {
        let spec = any(r#"{"ociVersion":"1.0.2","mounts":[
            {"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]},
            {"destination":"/dev","type":"tmpfs","source":"tmpfs"},
            {"destination":"/dev/shm","type":"tmpfs","source":"shm"},
            {"destination":"/run","type":"tmpfs","source":"tmpfs"},
            {"destination":"/etc/hosts","type":"bind","source":"/var/lib/x/hosts","options":["rbind","ro"]},
            {"destination":"/data","source":"/srv/data","options":["rbind"]},
            {"destination":"/dev/termination-log","type":"bind","source":"/var/log/x"},
            {"type":"bind","source":"/no/destination"}]}"#);
        assert_eq!(
            shown(&spec),
            [
                "/run  tmpfs",
                "/etc/hosts /var/lib/x/hosts bind",
                "/data /srv/data bind",
                "/dev/termination-log /var/log/x bind"
            ]
        );
        assert_eq!(shown(&any(r#"{"mounts":null}                       "#)), [""; 0]);
        assert_eq!(shown(b""), [""; 0]);
    }

    #[test]
    fn f39_the_user_namespace_of_a_container_is_read() {
        let mappings = |uids: &str| {
            let json = format!(r#"{{"linux":{{"uidMappings":{uids},"gidMappings":[]}}}}          "#);
            Spec::parse(&Subject::Image, &any(&format!("{json:130}")))
        };
        let spec = mappings(
            r#"[{"containerID":0,"hostID":1000,"size":1},{"containerID":1,"hostID":100000,"size":65536}]"#,
        );
        let range = |container, host, len| IdRange { container, host, len };
        let expected = Spec { uids: vec![range(0, 1000, 1), range(1, 100_000, 65_536)], ..Spec::default() };
        assert_eq!(spec.unwrap(), expected);
        for broken in [r#"[{"containerID":0,"hostID":-1,"size":1}]"#, r#"[{"containerID":0,"hostID":1}]"#] {
            assert!(matches!(mappings(broken), Err(Error::Malformed { .. })), "{broken}");
        }
        let many = vec![r#"{"containerID":0,"hostID":1,"size":1}"#; MAX_ID_RANGES + 1].join(",");
        let many = mappings(&format!("[{many}]"));
        assert!(matches!(many, Err(Error::Limit { limit: "MAX_ID_RANGES", value: 341, .. })), "{many:?}");
    }

    #[test]
    fn f39_a_damaged_spec_is_an_error() {
        for spec in [
            &b"\x0a"[..],
            b"\x0a\x05ab",
            b"\x08\x01",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
            b"\x12\x01{",
        ] {
            assert!(matches!(Spec::parse(&Subject::Image, spec), Err(Error::Malformed { .. })), "{spec:?}");
        }
    }
}
