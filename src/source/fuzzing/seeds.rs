//! Seeds of the targets for stores, from the fixtures of the tests.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::json;

use crate::digest::Algorithm;
use crate::source::bolt::tests::{Node, database};
use crate::source::{containerd, docker_graph, tar_split};

/// Returns databases with pages of several sizes.
pub(crate) fn bolt() -> Vec<Vec<u8>> {
    let image = Node::from([(
        "target",
        Node::from([
            ("digest", Node::from(&*Algorithm::Sha256.digest(b"a").to_string())),
            ("mediatype", "application/vnd.oci.image.manifest.v1+json".into()),
            ("size", Node::from(&[0xcc, 0x06][..])),
        ]),
    )]);
    let snapshot =
        Node::from([("id", Node::from(&[1][..])), ("kind", Node::from(&[3][..])), ("parent", "b".into())]);
    let root = Node::from([(
        "v1",
        Node::from([
            ("default", Node::from([("images", Node::from([("a:1", image.clone()), ("b", image)]))])),
            ("snapshots", Node::from([("default/1/a", snapshot)])),
        ]),
    )]);
    [(1024, 2), (1024, 8), (4096, 3)].map(|(page, fan_out)| database(page, fan_out, &root)).to_vec()
}

pub(crate) fn tar_split() -> Vec<Vec<u8>> {
    tar_split::tests::seeds()
}

/// Returns stores as parts: choices, then names and contents.
pub(crate) fn stores() -> Vec<Vec<Vec<u8>>> {
    let mut seeds = vec![
        parts(0, docker_graph::tests::seed("overlay2").path()),
        parts(0, docker_graph::tests::seed("vfs").path()),
        parts(2, containerd::tests::seed().path()),
    ];
    let (podman, oci) = (containers_storage(), layout());
    seeds.push(with_choices(1, &podman));
    seeds.push(with_choices(4, &oci));
    seeds.push(with_choices(7, &oci));
    seeds.push(with_choices(3, &registry()));
    seeds.push(with_choices(5, &skopeo()));
    seeds
}

fn with_choices(transport: u8, files: &[(String, String)]) -> Vec<Vec<u8>> {
    let files =
        files.iter().flat_map(|(name, content)| [name.clone().into_bytes(), content.clone().into_bytes()]);
    [vec![transport, 0]].into_iter().chain(files).collect()
}

/// Returns the files of a directory.
fn parts(transport: u8, root: &Path) -> Vec<Vec<u8>> {
    let mut parts = vec![vec![transport, 0]];
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if path.is_symlink() {
                parts.push([&name[..], b"@"].concat());
                parts.push(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec());
            } else if path.is_dir() {
                open.push(path);
            } else {
                parts.push(name);
                parts.push(fs::read(&path).unwrap());
            }
        }
    }
    parts
}

/// An image with one layer: digest and content of layer, config and manifest.
fn image() -> [(String, String); 3] {
    let digest = |text: &str| Algorithm::Sha256.digest(text.as_bytes()).to_string();
    let layer = "not a tar".to_owned();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}})
    .to_string();
    let descriptor = |kind: &str, text: &str| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(text), "size": text.len()});
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config), "layers": [descriptor("layer.v1.tar", &layer)]})
    .to_string();
    [layer, config, manifest].map(|text| (digest(&text), text))
}

fn layout() -> Vec<(String, String)> {
    let image = image();
    let manifest = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image[2].0,
        "size": image[2].1.len(), "annotations": {"org.opencontainers.image.ref.name": "a"}});
    let mut files = vec![
        ("oci-layout".to_owned(), r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned()),
        ("index.json".to_owned(), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string()),
    ];
    files.extend(image.map(|(digest, text)| (format!("blobs/{}", digest.replace(':', "/")), text)));
    files
}

fn skopeo() -> Vec<(String, String)> {
    let [layer, config, manifest] = image();
    let mut files = vec![
        ("version".to_owned(), "Directory Transport Version: 1.1\n".to_owned()),
        ("manifest.json".to_owned(), manifest.1),
    ];
    files.extend([layer, config].map(|(digest, text)| (digest.replace("sha256:", ""), text)));
    files
}

fn registry() -> Vec<(String, String)> {
    let tree = "docker/registry/v2";
    let image = image();
    let mut files = Vec::new();
    for (digest, text) in &image {
        let hex = digest.replace("sha256:", "");
        files.push((format!("{tree}/blobs/sha256/{}/{hex}/data", &hex[..2]), text.clone()));
        files.push((format!("{tree}/repositories/a/b/_layers/sha256/{hex}/link"), digest.clone()));
    }
    let manifests = format!("{tree}/repositories/a/b/_manifests");
    let hex = image[2].0.replace("sha256:", "");
    files.push((format!("{manifests}/revisions/sha256/{hex}/link"), image[2].0.clone()));
    files.push((format!("{manifests}/tags/latest/current/link"), image[2].0.clone()));
    files
}

fn containers_storage() -> Vec<(String, String)> {
    let [layer, config, manifest] = image();
    let id = config.0.replace("sha256:", "");
    let images = json!([{"id": id, "digest": manifest.0, "names": ["localhost/demo:1"], "layer": "88e1",
        "big-data-names": ["manifest"], "created": "2026-11-21T19:50:52.4Z"}]);
    let layers = json!([{"id": "88e1", "diff-digest": layer.0, "diff-size": 9, "uidset": [0]},
        {"id": "d", "parent": "88e1", "uidmap": [{"container_id": 0, "host_id": 1000, "size": 1}]}]);
    let containers = json!([{"id": "e", "names": ["c1"], "image": id, "layer": "d",
        "metadata": "{\"image-name\":\"localhost/demo:1\"}"}]);
    let data = |key: &str| format!("overlay-images/{id}/{}", crate::source::containers_storage::file_of(key));
    [
        ("overlay-images/images.json".to_owned(), images.to_string()),
        ("overlay-layers/layers.json".to_owned(), layers.to_string()),
        ("overlay-containers/containers.json".to_owned(), containers.to_string()),
        (data("manifest"), manifest.1),
        (data(&config.0), config.1),
        ("overlay/88e1/diff/etc/a".to_owned(), "hello".to_owned()),
        ("overlay/88e1/link".to_owned(), "ABC".to_owned()),
        ("overlay/d/diff/etc/b".to_owned(), "written".to_owned()),
        ("overlay/l/ABC@".to_owned(), "../88e1/diff".to_owned()),
    ]
    .to_vec()
}
