//! What an engine mounts over the tree of a container, from its runtime configuration.
//!
//! This module owns which of these mounts are worth naming. Source: OCI runtime-spec, config.md.

use serde_json::Value;

use super::area::Area;
use super::images::ContainerRecord;
use crate::error::{Result, Subject};
use crate::image::ContainerMount;
use crate::image::strict_json::{self, Object};

/// File systems that show the kernel or its devices. Every container has them.
const KERNEL: [&str; 6] = ["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"];

/// Returns the mounts of a container; none if it was never prepared to run. A configuration that cannot be
/// read gives a warning, because the tree does not depend on it.
pub(super) fn mounts(area: &Area, container: &ContainerRecord) -> Vec<ContainerMount> {
    let read = || match area.runtime_config(container)? {
        Some((what, bytes)) => parse(&what, &bytes),
        None => Ok(Vec::new()),
    };
    read().unwrap_or_else(|error| {
        log::warn!("{error}");
        Vec::new()
    })
}

fn parse(what: &Subject, bytes: &[u8]) -> Result<Vec<ContainerMount>> {
    let value = strict_json::parse(what, bytes)?;
    let object = Object::new(what, &value, &["mounts"])?;
    let mounts = object.array("mounts")?.iter().map(|mount| parse_mount(what, mount));
    let mounts = mounts.collect::<Result<Vec<_>>>()?;
    let is_of_kernel = |mount: &ContainerMount| {
        KERNEL.contains(&mount.kind.as_str()) || (mount.kind == "tmpfs" && mount.destination == "/dev")
    };
    Ok(mounts.into_iter().filter(|mount| !is_of_kernel(mount)).collect())
}

fn parse_mount(what: &Subject, value: &Value) -> Result<ContainerMount> {
    let object = Object::new(what, value, &["destination", "source", "type"])?;
    Ok(ContainerMount {
        destination: object.required_string("destination")?.to_owned(),
        source: object.string("source")?.map(str::to_owned),
        kind: object.string("type")?.unwrap_or("bind").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f31_mounts_are_those_of_the_runtime_configuration() {
        let text = br#"{"ociVersion":"1.0.2","mounts":[
            {"destination":"/data","type":"bind","source":"/srv/data","options":["ro"]},
            {"destination":"/proc","type":"proc","source":"proc"},
            {"destination":"/dev","type":"tmpfs","source":"tmpfs"},
            {"destination":"/tmp/x"}]}"#;
        let mount = |destination: &str, source: Option<&str>| ContainerMount {
            destination: destination.to_owned(),
            source: source.map(str::to_owned),
            kind: "bind".to_owned(),
        };
        let found = parse(&Subject::Image, text).unwrap();
        assert_eq!(found, [mount("/data", Some("/srv/data")), mount("/tmp/x", None)]);
        assert_eq!(parse(&Subject::Image, b"{}").unwrap(), []);
        for text in ["garbage", r#"{"mounts":{}}"#, r#"{"mounts":[{"source":"/x"}]}"#] {
            assert!(parse(&Subject::Image, text.as_bytes()).is_err(), "{text}");
        }
    }
}
