//! Compares the output of `--json` with docs/json.md, whose tables are the schema.
//!
//! The rows of a table are fields: name, type, remark. A section is found by its heading. A field that
//! holds objects has its table below the heading of the field's name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use imgmount::WarningKind;
use serde_json::{Map, Value};

use crate::fixture::{
    Compression, Image, Item, Registry, dir, docker_legacy, file, oci, opaque, sample_layers, symlink, tar,
    whiteout,
};
use crate::mounted::{Imgmount, run};

const DOCUMENT: &str = include_str!("../../docs/json.md");

/// The contents of one table.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    /// Field and type, in the document's order.
    fields: Vec<(String, String)>,
    /// The tables of fields that hold objects.
    inner: BTreeMap<String, Schema>,
}

/// The parts of a schema that occurred: each field with each kind of value.
pub(crate) type Seen = BTreeSet<String>;

impl Schema {
    /// Reads the section `## heading` of the document.
    pub(crate) fn of(heading: &str) -> Self {
        let start =
            DOCUMENT.find(&format!("\n## `{heading}`\n")).unwrap_or_else(|| panic!("no section {heading}"));
        let section = &DOCUMENT[start + 4..];
        let section = &section[..section.find("\n## ").unwrap_or(section.len())];
        let mut parts = section.split("\n### `");
        let mut schema = Schema { fields: rows(parts.next().unwrap()), inner: BTreeMap::new() };
        for part in parts {
            let (name, rest) = part.split_once('`').unwrap();
            schema.inner.insert(name.to_owned(), Schema { fields: rows(rest), inner: BTreeMap::new() });
        }
        // A table can have a field whose table follows it.
        let tables: Vec<(String, Vec<(String, String)>)> =
            schema.inner.iter().map(|(name, table)| (name.clone(), table.fields.clone())).collect();
        for table in schema.inner.values_mut() {
            let inner = tables.iter().map(|(name, fields)| {
                (name.clone(), Schema { fields: fields.clone(), inner: BTreeMap::new() })
            });
            table.inner = inner.collect();
        }
        schema
    }

    /// Panics unless `value` is an object of exactly these fields, in this order and of these types.
    #[track_caller]
    pub(crate) fn check(&self, value: &Value, about: &str, seen: &mut Seen) {
        let object: &Map<String, Value> =
            value.as_object().unwrap_or_else(|| panic!("{about}: no object: {value}"));
        let undocumented: Vec<_> =
            object.keys().filter(|key| !self.fields.iter().any(|(name, _)| name == *key)).collect();
        assert_eq!(undocumented, [""; 0], "{about}: not in the document");
        for (name, kind) in &self.fields {
            let about = format!("{about}.{name}");
            let (kind, optional) =
                kind.strip_suffix(", optional").map_or((kind.as_str(), false), |kind| (kind, true));
            match object.get(name) {
                None => {
                    assert!(optional, "{about} is missing");
                    seen.insert(format!("{about}: absent"));
                }
                Some(value) => self.check_value(name, value, kind, &about, seen),
            }
        }
    }

    fn check_value(&self, name: &str, value: &Value, kind: &str, about: &str, seen: &mut Seen) {
        if let Some(kind) = kind.strip_suffix(" or null") {
            if value.is_null() {
                seen.insert(format!("{about}: null"));
                return;
            }
            return self.check_value(name, value, kind, about, seen);
        }
        seen.insert(format!("{about}: value"));
        let fits = match kind {
            "string" => value.is_string(),
            "number" => value.is_u64(),
            "boolean" => value.is_boolean(),
            "object" => {
                if let Some(inner) = self.inner.get(name) {
                    inner.check(value, about, seen);
                }
                value.is_object()
            }
            "object of string" => {
                value.as_object().is_some_and(|object| object.values().all(Value::is_string))
            }
            "array of string" => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
            "array of object" => {
                let inner =
                    self.inner.get(name).unwrap_or_else(|| panic!("{about}: no table for its objects"));
                for item in value.as_array().unwrap() {
                    inner.check(item, about, seen);
                }
                true
            }
            other => panic!("{about}: the document's type '{other}' is unknown"),
        };
        assert!(fits, "{about} should be {kind}: {value}");
    }

    /// Returns every claim of the document: each field with a value and, where allowed, without one.
    pub(crate) fn claims(&self, about: &str) -> Seen {
        let mut claims = Seen::new();
        for (name, kind) in &self.fields {
            claims.insert(format!("{about}.{name}: value"));
            if kind.ends_with(", optional") {
                claims.insert(format!("{about}.{name}: absent"));
            }
            if kind.ends_with(" or null") {
                claims.insert(format!("{about}.{name}: null"));
            }
            if let Some(inner) = self.inner.get(name) {
                claims.extend(inner.claims(&format!("{about}.{name}")));
            }
        }
        claims
    }
}

fn rows(section: &str) -> Vec<(String, String)> {
    let table = section.lines().filter(|line| line.starts_with("| `"));
    let cells = table.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())).collect()
}

/// Returns the output of a command, one value per line.
fn printed(imgmount: &Imgmount, arguments: &[&str], image: &Path) -> Vec<Value> {
    let out = run(imgmount.command(arguments).arg(image)).expect(0);
    out.lines().into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asserts that `line` has its fields in the order of the schema.
fn assert_in_order(line: &str, schema: &Schema) {
    let at =
        schema.fields.iter().filter_map(|(name, _)| line.find(&format!("\"{name}\":"))).collect::<Vec<_>>();
    assert!(at.is_sorted(), "fields stand in another order than in the document: {line}");
}

/// Makes an image with unusual names, without history and without config.
fn odd_image() -> Image {
    let odd: Vec<Item> = vec![
        symlink("odd", b"caf\xe9"),
        dir("d"),
        opaque(""),
        file(b"d/caf\xe9/.wh.", b""),
        whiteout("d/gone"),
    ];
    sample_layers()
        .into_iter()
        .fold(Image::named("example.com/odd:1"), |image, (by, items)| image.layer(by, &items))
        .layer("RUN odd", &odd)
}

#[test]
fn ls_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &tar(&oci(&[odd_image()])));
    let schema = Schema::of("ls --json");
    let mut seen = Seen::new();
    let entries = printed(&imgmount, &["ls", "-R", "--json"], &image);
    for entry in &entries {
        schema.check(entry, "entry", &mut seen);
    }
    // An entry always has a layer, and every layer a diff_id.
    let mut claims = schema.claims("entry");
    assert!(claims.remove("entry.diff_id: null"));
    assert_eq!(seen, claims, "each claim of the document is seen, and nothing else");
    let out = run(imgmount.command(&["ls", "--json"]).arg(&image)).expect(0);
    out.lines().into_iter().for_each(|line| assert_in_order(line, &schema));
    let types: BTreeSet<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(types, BTreeSet::from(["block", "char", "dir", "fifo", "file", "symlink"]));
}

#[test]
fn inspect_prints_what_the_document_says() {
    let imgmount = Imgmount::new();
    let schema = Schema::of("inspect --json");
    let mut seen = Seen::new();
    imgmount.write("oci.tar", &tar(&oci(&[odd_image()])));
    imgmount.write("bare.tar", &bare_archive());
    imgmount.write("rootfs.tar", &tar(&[file("f", b"1")]));
    write_containers(&imgmount.dir().join("data"));
    // Layers of a registry, which are not read yet, with and without a media type.
    let registry = Registry::start();
    registry.push("app:1", &odd_image());
    let text = String::from_utf8(odd_image().manifest()).unwrap();
    let typed = r#""mediaType":"application/vnd.oci.image.layer.v1.tar","#;
    assert!(text.contains(typed), "{text}");
    registry.push_with_manifest("app:2", &odd_image(), text.replace(typed, "").into_bytes());
    let (typed, untyped) = (registry.reference("app:1"), registry.reference("app:2"));
    for (image, option) in [
        (&*typed, "--verify=full"),
        (&*untyped, "--verify=full"),
        ("oci.tar", "--verify=full"),
        ("bare.tar", "--verify=full"),
        ("rootfs:rootfs.tar", "--verify=off"),
        ("docker-graph:data@web", "--verify=full"),
        ("docker-graph:data@bare", "--verify=full"),
    ] {
        let out = imgmount.run(&["inspect", "--json", option, image]).expect(0);
        assert!(out.text().starts_with("{\"format\":"), "{}", out.text());
        schema.check(&serde_json::from_str(out.text().trim()).unwrap(), "image", &mut seen);
    }
    assert_eq!(seen, schema.claims("image"), "each claim of the document is seen, and nothing else");
}

/// Writes the data directory of a Docker engine with the driver vfs and two containers: `web` with all
/// fields, and one with the ID `bare` and only the required fields.
fn write_containers(data: &Path) {
    let write = |path: String, text: String| {
        let path = data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    fs::create_dir_all(data.join("image/vfs/imagedb")).unwrap();
    let point = serde_json::json!({"Type": "volume", "Name": "logs", "Destination": "/var/log"});
    let web = serde_json::json!({
        "ID": "web1", "Name": "/web", "Created": "2026-01-02T03:04:05Z", "Driver": "vfs", "Config": {"Image": "app:1"},
        "ShmPath": "/run/shm", "MountPoints": {"/var/log": point},
    });
    for (id, config) in [("web1", web), ("bare", serde_json::json!({"ID": "bare", "Driver": "vfs"}))] {
        write(format!("containers/{id}/config.v2.json"), config.to_string());
        write(format!("image/vfs/layerdb/mounts/{id}/mount-id"), format!("mount-{id}"));
        write(format!("vfs/dir/mount-{id}/file"), "1".to_owned());
    }
}

/// Makes a docker-archive whose config has only the required fields.
fn bare_archive() -> Vec<u8> {
    let image = Image::named("bare:1").layer_as("", &[file("f", b"1")], "", Compression::Plain);
    let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": [image.layers[0].diff_id()]}});
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": null, "Layers": ["l.tar"]}]);
    tar(&[
        file("c.json", config.to_string()),
        file("l.tar", &image.layers[0].blob),
        file("manifest.json", manifest.to_string()),
    ])
}

#[test]
fn every_kind_of_warning_is_in_the_document_and_no_other() {
    let list = DOCUMENT.split("Each `kind`").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented: Vec<&str> = list.lines().filter(|line| line.starts_with("- `")).collect();
    let known: Vec<String> = WarningKind::all().map(|kind| format!("- `{}`: {kind}", kind.name())).collect();
    assert_eq!(documented, known);
}

#[test]
fn a_docker_archive_is_described_too() {
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &tar(&docker_legacy(&[odd_image()])));
    let answers = printed(&imgmount, &["inspect", "--json"], &image);
    Schema::of("inspect --json").check(&answers[0], "image", &mut Seen::new());
    assert_eq!(answers[0]["format"], "docker-archive");
    assert_eq!(answers[0]["manifest_digest"], Value::Null);
}

#[test]
fn verify_and_cache_ls_print_what_their_tables_say() {
    let imgmount = Imgmount::new();
    let layers = |content: &[u8]| {
        let layer = [file("large", content)];
        let image = Image::named("a:1").layer_as("ADD", &layer, "", Compression::Gzip(6));
        tar(&oci(&[image]))
    };
    let sound = imgmount.write("sound.tar", &layers(b"content"));
    let mut bytes = layers(b"content");
    // The first gzip header in the archive begins the layer.
    let at = bytes.windows(3).position(|window| window == [0x1f, 0x8b, 8]).unwrap();
    bytes[at + 20] ^= 1;
    let damaged = imgmount.write("damaged.tar", &bytes);

    let (schema, mut seen) = (Schema::of("verify --json"), Seen::new());
    for (image, code) in [(&sound, 0), (&damaged, 1)] {
        let out = run(imgmount.command(&["verify", "--json"]).arg(image)).expect(code);
        for line in out.lines() {
            schema.check(&serde_json::from_str(line).unwrap(), "line", &mut seen);
        }
    }
    assert!(seen.contains("line.layer: null") && seen.contains("line.layer: value"), "{seen:?}");

    run(imgmount.command(&["ls"]).arg(&sound)).expect(0);
    fs::write(imgmount.cache().join(format!("tree-{}.v1.tree", "0".repeat(32))), b"").unwrap();
    let (schema, mut seen) = (Schema::of("cache ls --json"), Seen::new());
    for line in imgmount.run(&["cache", "ls", "--json"]).expect(0).lines() {
        schema.check(&serde_json::from_str(line).unwrap(), "line", &mut seen);
    }
    assert!(seen.contains("line.diff_id: null") && seen.contains("line.diff_id: value"), "{seen:?}");
}
