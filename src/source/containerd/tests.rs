//! Data directories built in code: what a real containerd writes rarely, or never.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::digest::Algorithm;
use crate::source::bolt::tests::{Node, database};

/// Creates a data directory with these namespaces, and these snapshots of overlayfs.
fn data(namespaces: Node, snapshots: Node) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, root) in [
        (DATABASE, Node::from([("v1", namespaces)])),
        (
            "io.containerd.snapshotter.v1.overlayfs/metadata.db",
            Node::from([("v1", [("snapshots", snapshots)].into())]),
        ),
    ] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, database(4096, 8, &root)).unwrap();
    }
    dir
}

/// Returns a directory with an image and a container, for the fuzz target.
pub(in crate::source) fn seed() -> TempDir {
    let containers =
        Node::from([("c", container(&[("image", "a:1"), ("snapshotter", "overlayfs")], &[("a", "b")]))]);
    let namespace = Node::from([("images", Node::from([("a:1", image("a"))])), ("containers", containers)]);
    data([("default", namespace)].into(), nothing())
}

fn open(dir: &TempDir) -> Result<Containerd> {
    Containerd::open(Beneath::open(dir.path()).unwrap(), None, Verify::Full)
}

/// Returns the error of opening `selection`.
fn fault(dir: &TempDir, selection: Selection) -> String {
    let fault = open(dir).unwrap().image(&selection, None).unwrap_err().to_string();
    fault.replace(dir.path().to_str().unwrap(), "DIR")
}

fn digest(text: &str) -> String {
    Algorithm::Sha256.digest(text.as_bytes()).to_string()
}

/// A name of the image with this target.
fn image(target: &str) -> Node {
    let target = [
        ("digest", Node::from(&*digest(target))),
        ("mediatype", "application/vnd.oci.image.manifest.v1+json".into()),
        ("size", Node::from(&[0xcc, 0x06][..])),
    ];
    [("target", target.into())].into()
}

fn container(fields: &[(&str, &str)], labels: &[(&str, &str)]) -> Node {
    let mut entries: std::collections::BTreeMap<Vec<u8>, Node> =
        fields.iter().map(|(key, value)| (key.as_bytes().to_vec(), Node::from(*value))).collect();
    let labels = labels.iter().map(|(key, value)| (key.as_bytes().to_vec(), Node::from(*value)));
    entries.insert(b"labels".to_vec(), Node::Bucket(labels.collect()));
    Node::Bucket(entries)
}

fn nothing() -> Node {
    Node::from([])
}

#[test]
fn f35_the_three_names_that_kubernetes_gives_are_one_image() {
    let (full, pinned) = ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause@sha256:abcd");
    let id = digest("config");
    let images = [(full, image("a")), (pinned, image("a")), (id.as_str(), image("a")), ("z", image("b"))];
    let dir = data([("k8s.io", [("images", images.into())].into())].into(), nothing());
    let store = open(&dir).unwrap();
    let summaries = store.images().unwrap();
    assert_eq!(summaries.len(), 2);
    assert_eq!(summaries[0].names, [full, pinned, &id]);
    assert_eq!(summaries[0].id, Some(digest("a")));
    let hex = id.strip_prefix("sha256:").unwrap();
    for name in [full, pinned, &id, hex, &hex[..8], "pause:3.9", &digest("a")] {
        let picked = store.pick(&Selection::Name(name.to_owned())).unwrap();
        assert_eq!(picked.summary.index, 0, "{name}");
    }
    assert!(matches!(store.pick(&Selection::Sole), Err(Error::Ambiguous { .. })));
}

#[test]
fn f35_namespaces_are_listed_in_the_order_of_their_engines_and_images_come_before_containers() {
    let with = |name: &str| Node::from([("images", [(name, image(name))].into())]);
    let containers = Node::from([("containers", [("c", container(&[], &[]))].into())]);
    let namespaces = [
        ("a", with("1")),
        ("default", with("2")),
        ("k8s.io", with("3")),
        ("moby", with("4")),
        ("b", containers),
    ];
    let dir = data(namespaces.into(), nothing());
    let listed: Vec<_> = open(&dir).unwrap().images().unwrap();
    let names: Vec<_> = listed.iter().map(|summary| summary.to_string()).collect();
    let names: Vec<_> = names.iter().map(|name| name.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["3", "4", "2", "1", "container"]);
    let indexes: Vec<_> = listed.iter().map(|summary| summary.index).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
}

#[test]
fn f35_records_that_cannot_be_used_are_skipped() {
    let broken = |key: &'static str, value: &'static [u8]| {
        let Node::Bucket(mut image) = image("x") else { unreachable!("an image is a bucket") };
        let Some(Node::Bucket(target)) = image.get_mut(&b"target"[..]) else { unreachable!("a target") };
        target.insert(key.into(), value.into());
        Node::Bucket(image)
    };
    let images = Node::Bucket(
        [
            (&b"digest"[..], broken("digest", b"sha256:12")),
            (b"good", image("good")),
            (b"name-\xff", image("x")),
            (b"negative", broken("size", &[1])),
            (b"size", broken("size", &[0xff; 11])),
            (b"target", nothing()),
            (b"value", "not a bucket".into()),
        ]
        .map(|(key, node)| (key.to_vec(), node))
        .into(),
    );
    let dir = data([("default", [("images", images)].into()), ("version", "\x06".into())].into(), nothing());
    let names: Vec<_> = open(&dir).unwrap().images().unwrap().into_iter().flat_map(|one| one.names).collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn f35_a_database_of_another_layout_is_damaged() {
    let dir = data([("default", [("images", "a value".into())].into())].into(), nothing());
    let expected = format!("'{DATABASE}' in 'DIR': damaged database: 'images' is a value, not a bucket");
    assert_eq!(open(&dir).unwrap_err().to_string().replace(dir.path().to_str().unwrap(), "DIR"), expected);
    let empty = data(nothing(), nothing());
    assert_eq!(open(&empty).unwrap().images().unwrap(), []);
}

#[test]
fn f39_a_container_is_selected_by_name_id_and_beginning_of_the_id() {
    let containers = [
        ("0a1b", container(&[], &[("nerdctl/name", "web"), ("io.kubernetes.container.name", "other")])),
        ("0a1bff", container(&[], &[("io.kubernetes.container.name", "app")])),
        ("77", container(&[], &[("io.kubernetes.container.name", "app")])),
    ];
    let dir = data([("default", [("containers", containers.into())].into())].into(), nothing());
    let store = open(&dir).unwrap();
    let pick = |name: &str| store.pick(&Selection::Container(name.to_owned()));
    for (name, id) in [("web", "0a1b"), ("0a1b", "0a1b"), ("0a1bf", "0a1bff"), ("7", "77")] {
        assert_eq!(pick(name).unwrap().summary.id.as_deref(), Some(id), "{name}");
    }
    for name in ["app", "0a"] {
        assert!(matches!(pick(name), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2));
    }
    assert!(matches!(pick("other"), Err(Error::NoSuchImage { .. })));
}

#[test]
fn f39_containers_that_another_engine_knows_are_added_or_replace_those_of_containerd() {
    let running = container(&[("image", "img"), ("snapshotter", "overlayfs")], &[("nerdctl/name", "old")]);
    let namespace = [
        ("containers", [("b1", running), ("d1", container(&[], &[]))].into()),
        ("images", Node::from([("img", image("a")), ("img:old", image("b"))])),
    ];
    let dir = data([("moby", namespace.into())].into(), nothing());
    let known = |id: &str, name: &str, digest: &str| KnownContainer {
        id: id.to_owned(),
        name: Some(name.to_owned()),
        image: Some("img".to_owned()),
        image_digest: Some(self::digest(digest).parse().unwrap()),
        created: None,
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: id.to_owned(),
        mounts: Vec::new(),
    };
    let containers = vec![known("b1", "web", "b"), known("a1", "db", "none"), known("e1", "late", "a")];
    let store = open(&dir).unwrap().with_containers("moby", containers);
    let listed: Vec<_> = store.images().unwrap().iter().skip(2).map(ToString::to_string).collect();
    assert_eq!(listed, ["container db (a1)", "container web (b1)", "container (d1)", "container late (e1)"]);
    let content = store.content(&store.entries[0]).unwrap();
    let targets = (0..4).map(|at| content.target(content.container(at).unwrap()).map(|one| one.digest));
    let digests =
        [None, Some("b"), None, Some("a")].map(|text| text.map(|text| digest(text).parse().unwrap()));
    assert_eq!(targets.collect::<Vec<_>>(), digests);
}

#[test]
fn f38_faults_of_a_chain_of_snapshots_are_named() {
    let snapshot = |name: &str, parent: &str| Node::from([("name", name.into()), ("parent", parent.into())]);
    let stored =
        |id: u8, parent: &str| Node::from([("id", Node::from(&[id][..])), ("parent", parent.into())]);
    let with = |snapshotter: &str, key: &str| {
        let fields = [("snapshotter", snapshotter), ("snapshotKey", key)];
        Node::from([("c", container(&fields, &[]))])
    };
    let snapshots = Node::from([
        ("cut", snapshot("n/cut", "none")),
        ("round", snapshot("n/round", "round")),
        ("top", snapshot("n/top", "base")),
        ("base", snapshot("n/base", "")),
        ("unknown", snapshot("n/unknown", "")),
        ("without-files", snapshot("n/base", "")),
    ]);
    let own = Node::from([("n/base", stored(1, "")), ("n/top", stored(2, "n/other"))]);
    let database = "'metadata.db' in 'DIR/io.containerd.snapshotter.v1.overlayfs'";
    let container = "'container c' in 'DIR'";
    for (containers, expected) in [
        (with("overlayfs", "cut"), format!("{container}: namespace 'd' has no snapshot 'none'")),
        (with("overlayfs", "round"), format!("{container}: 4097 exceeds the limit MAX_LAYERS (4096)")),
        (
            with("overlayfs", "top"),
            format!("{database}: snapshot 'n/top' does not have the parent that '{DATABASE}' states"),
        ),
        (with("overlayfs", "unknown"), format!("{database}: there is no snapshot 'n/unknown'")),
        (
            with("overlayfs", "without-files"),
            "'snapshots/1/fs' in 'DIR/io.containerd.snapshotter.v1.overlayfs': the directory of snapshot \
             'n/base' is missing"
                .to_owned(),
        ),
        (
            with("devmapper", "cut"),
            format!(
                "{container}: not supported: unpacked by the snapshotter 'devmapper'; only snapshots of \
                 'overlayfs' are read"
            ),
        ),
        (
            with("overlayfs", ""),
            format!(
                "{container}: not supported: a container whose tree is a directory of the host, not a snapshot"
            ),
        ),
    ] {
        let namespace =
            [("containers", containers), ("snapshots", [("overlayfs", snapshots.clone())].into())];
        let dir = data([("d", namespace.into())].into(), own.clone());
        assert_eq!(fault(&dir, Selection::Container("c".to_owned())), expected);
    }
}

#[test]
fn f36_values_that_are_too_long_exceed_a_named_limit() {
    let long = |bytes: usize| "x".repeat(bytes);
    for (field, bytes, limit) in
        [("image", (64 << 10) + 1, "MAX_VALUE_BYTES"), ("spec", (4 << 20) + 1, "MAX_SPEC_BYTES")]
    {
        let containers = Node::from([("c", container(&[(field, &long(bytes))], &[]))]);
        let dir = data([("default", [("containers", containers)].into())].into(), nothing());
        let Err(Error::Limit { limit: found, value, .. }) = open(&dir) else { panic!("{field} is accepted") };
        assert_eq!((found, value), (limit, bytes as u64));
    }
}
