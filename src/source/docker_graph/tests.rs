use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::digest::{Algorithm, Digest};
use crate::read_at::read_to_vec;
use crate::source::{BlobIdentity, OpenOptions, Reference, open_with_input};

/// ID of the container that [`Store::container`] makes.
const CONTAINER: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";

/// The data directory of an engine, made in code.
struct Store {
    temp: TempDir,
    driver: &'static str,
}

fn sha256(bytes: impl AsRef<[u8]>) -> Digest {
    Algorithm::Sha256.digest(bytes.as_ref())
}

/// Returns the tar with one file, and its `tar-split.json`.
fn layer_tar(name: &str, content: &str) -> (Vec<u8>, String) {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let padding = vec![0; content.len().next_multiple_of(512) - content.len() + 1024];
    let crc = crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO).checksum(content.as_bytes());
    let lines = [
        json!({"type": 2, "payload": STANDARD.encode(header.as_bytes()), "position": 0}),
        json!({"type": 1, "name": name, "size": content.len(), "payload": STANDARD.encode(crc.to_be_bytes()),
            "position": 1}),
        json!({"type": 2, "payload": STANDARD.encode(&padding), "position": 2}),
    ];
    let text = lines.iter().map(|line| format!("{line}\n")).collect();
    ([header.as_bytes(), content.as_bytes(), &padding].concat(), text)
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

impl Store {
    fn new(driver: &'static str) -> Self {
        let store = Store { temp: tempfile::tempdir().unwrap(), driver };
        store.write("imagedb/content/sha256/.tmp-1", "");
        store
    }

    fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Returns the path of `name` in `image/DRIVER`.
    fn image_path(&self, name: &str) -> PathBuf {
        self.path().join("image").join(self.driver).join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        write(&self.image_path(name), content);
    }

    /// Returns the path of the directory of layer `number`.
    fn layer_path(&self, number: usize) -> PathBuf {
        let id = format!("{number:064}");
        self.path().join(if self.driver == "vfs" {
            format!("vfs/dir/{id}")
        } else {
            format!("overlay2/{id}/diff")
        })
    }

    /// Adds an image with a layer for each file, and returns its ID.
    fn image(&self, files: &[(&str, &str)]) -> Digest {
        let diff_ids = self.layers(files);
        let config = json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>()},
            "history": diff_ids.iter().map(|_| json!({"created_by": "COPY"})).collect::<Vec<_>>(),
        });
        let id = sha256(config.to_string());
        self.write(&format!("imagedb/content/sha256/{}", id.hex()), config.to_string());
        id
    }

    fn layers(&self, files: &[(&str, &str)]) -> Vec<Digest> {
        let mut parent: Option<Digest> = None;
        let mut diff_ids = Vec::new();
        for (number, (name, content)) in files.iter().enumerate() {
            let (tar, split) = layer_tar(name, content);
            let diff_id = sha256(tar);
            let chain = parent.map_or(diff_id, |parent| sha256(format!("{parent} {diff_id}")));
            let dir = format!("layerdb/sha256/{}", chain.hex());
            self.write(&format!("{dir}/diff"), diff_id.to_string());
            self.write(&format!("{dir}/cache-id"), format!("{number:064}\n"));
            self.write(&format!("{dir}/size"), content.len().to_string());
            self.write(&format!("{dir}/tar-split.json.gz"), gzip(&split));
            if let Some(parent) = parent {
                self.write(&format!("{dir}/parent"), parent.to_string());
            }
            write(&self.layer_path(number).join(name), content);
            parent = Some(chain);
            diff_ids.push(diff_id);
        }
        diff_ids
    }

    fn repositories(&self, names: Value) {
        self.write("repositories.json", json!({"Repositories": names}).to_string());
    }

    /// Adds a container of `image` named `web`, whose topmost layer has this chain ID.
    fn container(&self, image: &Digest, top: Digest, driver: &str) {
        let document = json!({
            "ID": CONTAINER, "Name": "/web", "Created": "2026-01-02T03:04:05Z", "Driver": driver,
            "Image": image.to_string(), "Config": {"Image": "app:1", "Env": ["A=1"]},
            "HostnamePath": "/var/lib/docker/containers/c0ffee/hostname", "ShmPath": "",
            "MountPoints": {
                "/data": {"Source": "/x/_data", "Destination": "/data", "Name": "data", "Type": "volume"},
                "/src": {"Source": "/home/me", "Destination": "/src", "Name": "", "Type": "bind"},
            },
        });
        let dir = self.path().join("containers").join(CONTAINER);
        write(&dir.join("config.v2.json"), document.to_string());
        write(&dir.join("hostconfig.json"), json!({"Tmpfs": {"/run": "size=1m"}}).to_string());
        let mount = format!("layerdb/mounts/{CONTAINER}");
        self.write(&format!("{mount}/parent"), top.to_string());
        self.write(&format!("{mount}/mount-id"), "ab12");
        self.write(&format!("{mount}/init-id"), "ab12-init");
        if self.driver == "vfs" {
            write(&self.path().join("vfs/dir/ab12/whole"), "tree");
        } else {
            write(&self.path().join("overlay2/ab12/diff/new"), "written");
            write(&self.path().join("overlay2/ab12-init/diff/.dockerenv"), "");
        }
    }

    fn open(&self, verify: Verify) -> Result<Box<dyn ImageSource>> {
        let text = format!("docker-graph:{}", self.path().display());
        let options = OpenOptions { verify, ..OpenOptions::default() };
        let reference = Reference::parse(OsStr::new(&text), None).unwrap();
        open_with_input(&reference, &options, &mut std::io::empty())
    }

    fn image_named(&self, name: &str) -> Result<OpenedImage> {
        self.open(Verify::Full)?.image(&Selection::Name(name.to_owned()), None)
    }

    fn container_named(&self, name: &str) -> Result<OpenedImage> {
        self.open(Verify::Full)?.image(&Selection::Container(name.to_owned()), None)
    }

    /// Returns the text of an error, without the path of the store.
    fn text(&self, error: &Error) -> String {
        error.to_string().replace(&self.path().display().to_string(), "STORE")
    }

    /// Returns the error of opening the image `app:1`.
    fn fault(&self) -> String {
        self.text(&self.image_named("app:1").map(drop).unwrap_err())
    }

    fn container_fault(&self) -> String {
        self.text(&self.container_named("web").map(drop).unwrap_err())
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Returns a store with an image and a container, for the fuzz target.
pub(in crate::source) fn seed(driver: &'static str) -> TempDir {
    let (store, id, top) = app(driver);
    store.container(&id, top, driver);
    store.temp
}

/// A store with the image `app:1` of two layers, and its topmost chain ID.
fn app(driver: &'static str) -> (Store, Digest, Digest) {
    let store = Store::new(driver);
    let id = store.image(&[("etc/a", "hello"), ("etc/b", "world")]);
    store.repositories(json!({"app": {"app:1": id.to_string()}}));
    let [first, second] =
        [layer_tar("etc/a", "hello"), layer_tar("etc/b", "world")].map(|(tar, _)| sha256(tar));
    (store, id, sha256(format!("{first} {second}")))
}

#[test]
fn f25_images_are_listed_by_name_and_those_without_a_name_by_id() {
    let store = Store::new("overlay2");
    let [b, a, dangling] = ["b", "a", "d"].map(|name| store.image(&[(name, "1")]));
    store.repositories(json!({
        "reg.example/b": {"reg.example/b:2": b, "reg.example/b:1": b},
        "a": {"a:1": a, format!("a@{}", sha256("manifest")): a},
        "gone": {"gone:1": sha256("gone")},
    }));
    let source = store.open(Verify::Full).unwrap();
    let listed: Vec<String> = source.images().unwrap().iter().map(ToString::to_string).collect();
    let short = |id: &Digest| id.hex()[..12].to_owned();
    assert_eq!(
        listed,
        [
            format!("a:1 ({})", short(&a)),
            format!("reg.example/b:1, reg.example/b:2 ({})", short(&b)),
            format!("({})", short(&dangling)),
        ]
    );
    let id_of = |name: String| source.image(&Selection::Name(name), None).unwrap().info.config_digest;
    assert_eq!(id_of(dangling.hex()[..20].to_owned()), Some(dangling));
    assert_eq!(id_of(format!("a@{}", sha256("manifest"))), Some(a));
    assert_eq!(id_of("reg.example/b:2".to_owned()), Some(b));
    let missing = source.image(&Selection::Name("gone:1".to_owned()), None);
    assert!(matches!(missing, Err(Error::NoSuchImage { .. })));
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[test]
fn f25_a_damaged_list_of_names_is_an_error_and_ids_still_work_without_verification() {
    let (store, id, _) = app("overlay2");
    for (text, reason) in [
        ("{\"Repositories\":", "bad JSON: EOF while parsing a value at line 1 column 16"),
        ("[]", "not a JSON object"),
        (r#"{"Repositories":[]}"#, "'Repositories' is not an object"),
        (r#"{"Repositories":{"a":"x"}}"#, "'a' is not an object"),
        (r#"{"Repositories":{"a":{"a:1":"../../etc"}}}"#, "the ID of 'a:1' is not a digest"),
        (
            r#"{"Repositories":{},"repositories":{}}"#,
            "more than one key is 'Repositories', in upper or lower case",
        ),
    ] {
        store.write("repositories.json", text);
        assert_eq!(store.fault(), format!("'repositories.json' in 'STORE/image/overlay2': {reason}"));
        let lax = store.open(Verify::Off).unwrap();
        let found = lax.image(&Selection::Name(id.hex()), None).unwrap();
        assert_eq!(found.info.names, Vec::<String>::new());
    }
}

#[test]
fn f25_the_config_must_have_its_digest() {
    let (store, id, _) = app("overlay2");
    let file = format!("imagedb/content/sha256/{}", id.hex());
    let text = fs::read_to_string(store.image_path(&file)).unwrap().replace("amd64", "arm64");
    store.write(&file, &text);
    let expected = format!("config {id}: digest does not match: expected {id}, found {}", sha256(&text));
    assert_eq!(store.fault(), expected);
    let survey = store.open(Verify::Full).unwrap().survey(&Selection::Sole, None).unwrap();
    assert_eq!(survey.documents[0].found, Some((text.len() as u64, sha256(&text))));
    assert_eq!(survey.layers.len(), 2);
    let lax = store.open(Verify::Off).unwrap().image(&Selection::Sole, None).unwrap();
    assert_eq!(lax.info.platform.unwrap().to_string(), "linux/arm64");
}

#[test]
fn f25_layers_are_found_by_chain_id_and_put_together_exactly() {
    for driver in ["overlay2", "vfs"] {
        let (store, id, _) = app(driver);
        let image = store.image_named("app:1").unwrap();
        assert_eq!(image.info.config_digest, Some(id));
        assert_eq!(image.size, Some(10));
        for (layer, (name, content)) in image.layers.iter().zip([("etc/a", "hello"), ("etc/b", "world")]) {
            let (tar, _) = layer_tar(name, content);
            assert_eq!(layer.bytes.known_len(), None);
            assert_eq!(layer.identity, BlobIdentity::Tar);
            assert_eq!(layer.descriptor.diff_id, Some(sha256(&tar)));
            assert_eq!(read_to_vec(&*layer.bytes).unwrap(), tar, "{driver}");
        }
    }
}

#[test]
fn f25_faults_of_a_layer_are_named() {
    let (store, _, top) = app("overlay2");
    let dir = format!("layerdb/sha256/{}", top.hex());
    let subject = format!("'{dir}/FILE' in 'STORE/image/overlay2'");
    let with = |file: &str, content: Option<&str>| {
        let path = store.image_path(&format!("{dir}/{file}"));
        let before = fs::read(&path).unwrap();
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let fault = store.fault();
        fs::write(&path, before).unwrap();
        let whole = format!("'{file}' in 'STORE/image/overlay2/{dir}'");
        fault.replace(&subject.replace("FILE", file), "FILE").replace(&whole, "FILE")
    };
    let unsafe_name = "FILE: not the name of a layer's directory";
    for name in ["../../../etc", "a/b", ".", "", "/etc", &"a".repeat(129), "a\0b"] {
        assert_eq!(with("cache-id", Some(name)), unsafe_name, "{name:?}");
    }
    assert_eq!(with("cache-id", None), "FILE: the file is missing");
    assert_eq!(
        with("cache-id", Some(&"a".repeat(1025))),
        "FILE: 1025 exceeds the limit MAX_VALUE_BYTES (1024)"
    );
    let gone = "'overlay2/abcd/diff' in 'STORE': the directory of a layer is missing";
    assert_eq!(with("cache-id", Some("abcd")), gone);
    assert_eq!(with("diff", Some("sha256:1")), "FILE: not a digest");
    let other = sha256("other");
    let expected = sha256(layer_tar("etc/b", "world").0);
    let differs = format!("FILE: diff_id does not match: expected {expected}, found {other}");
    assert_eq!(with("diff", Some(&other.to_string())), differs);
    let not_kept = with("tar-split.json.gz", None);
    assert!(
        not_kept.contains("cannot be verified: the engine did not keep the layout of its tar"),
        "{not_kept}"
    );

    fs::remove_dir_all(store.image_path(&dir)).unwrap();
    assert_eq!(store.fault(), format!("'{dir}' in 'STORE/image/overlay2': the layer is missing"));
    let survey = store.open(Verify::Full).unwrap().survey(&Selection::Sole, None).unwrap();
    assert_eq!(survey.layers.iter().map(|layer| layer.bytes.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(survey.faults.len(), 1);
}

#[test]
fn f25_a_link_that_leads_out_is_refused_wherever_it_is() {
    let (store, id, top) = app("overlay2");
    store.container(&id, top, "overlay2");
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "{}").unwrap();
    let image = "image/overlay2";
    let layer = format!("{image}/layerdb/sha256/{}", top.hex());
    let mount = format!("{image}/layerdb/mounts/{CONTAINER}");
    for name in [
        "image".to_owned(),
        image.to_owned(),
        format!("{image}/repositories.json"),
        format!("{image}/imagedb"),
        format!("{image}/imagedb/content/sha256"),
        format!("{image}/imagedb/content/sha256/{}", id.hex()),
        layer.clone(),
        format!("{layer}/diff"),
        format!("{layer}/cache-id"),
        format!("{layer}/tar-split.json.gz"),
        format!("{mount}/mount-id"),
        format!("{mount}/init-id"),
        format!("{mount}/parent"),
        format!("overlay2/{:064}", 0),
        format!("overlay2/{:064}/diff", 0),
        "overlay2/ab12/diff".to_owned(),
        "overlay2/ab12-init/diff".to_owned(),
        "containers".to_owned(),
    ] {
        let path = store.path().join(&name);
        let saved = store.path().join("saved");
        let target = if path.is_dir() { outside.path().to_owned() } else { outside.path().join("file") };
        fs::rename(&path, &saved).unwrap();
        symlink(&target, &path).unwrap();
        let fault = store.container_fault();
        assert!(fault.contains("leads out of the directory"), "{name}: {fault}");
        fs::remove_file(&path).unwrap();
        fs::rename(&saved, &path).unwrap();
    }
    store.container_named("web").unwrap();
}

#[test]
fn f26_without_verification_a_layer_that_does_not_fit_is_shown_as_its_directory_is() {
    let (store, _, _) = app("overlay2");
    fs::write(store.layer_path(0).join("etc/a"), "hello, changed").unwrap();
    let strict = store.image_named("app:1").unwrap();
    let changed = read_to_vec(&*strict.layers[0].bytes).unwrap_err().to_string();
    assert!(changed.contains("'etc/a' in '"), "{changed}");
    assert!(changed.ends_with("has changed since the image was stored: it has 14 bytes, not 5"), "{changed}");

    let lax = store.open(Verify::Off).unwrap().image(&Selection::Sole, None).unwrap();
    let tar = read_to_vec(&*lax.layers[0].bytes).unwrap();
    let mut found = tar::Archive::new(tar.as_slice());
    let files: Vec<(PathBuf, u64)> = found
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.header().entry_type().is_file())
        .map(|entry| (entry.path().unwrap().into_owned(), entry.size()))
        .collect();
    assert_eq!(files, [(PathBuf::from("etc/a"), 14)]);
    // The other layer fits, so it is the exact tar.
    assert_eq!(read_to_vec(&*lax.layers[1].bytes).unwrap(), layer_tar("etc/b", "world").0);

    let (store, _, _) = app("vfs");
    fs::remove_file(store.layer_path(0).join("etc/a")).unwrap();
    let lax = store.open(Verify::Off).unwrap().image(&Selection::Sole, None).unwrap();
    let refused = read_to_vec(&*lax.layers[0].bytes).unwrap_err().to_string();
    assert!(refused.contains("is missing; the storage driver vfs keeps whole trees"), "{refused}");
}

#[test]
fn f27_a_container_has_the_layers_of_its_image_and_its_own() {
    use crate::image::LayerOrigin::{Container, Engine, Image};
    let (store, id, top) = app("overlay2");
    store.container(&id, top, "overlay2");
    for name in ["web", "c0ffee", CONTAINER] {
        let opened = store.container_named(name).unwrap();
        let origins: Vec<_> = opened.info.layers.iter().map(|layer| layer.origin).collect();
        assert_eq!(origins, [Image, Image, Engine, Container]);
        let promised: Vec<_> = opened.info.layers.iter().map(|layer| layer.diff_id.is_some()).collect();
        assert_eq!(promised, [true, true, false, false]);
        assert_eq!(opened.info.layers[3].created_by.as_deref(), Some("container web"));
        assert_eq!(opened.info.config_digest, Some(id));
        let container = opened.info.container.unwrap();
        assert_eq!((container.name.as_deref(), container.image.as_deref()), (Some("web"), Some("app:1")));
        let mounts: Vec<String> = container
            .mounts
            .iter()
            .map(|mount| {
                format!("{} {} {}", mount.destination, mount.kind, mount.source.as_deref().unwrap_or("-"))
            })
            .collect();
        assert_eq!(
            mounts,
            [
                "/data volume data",
                "/etc/hostname bind /var/lib/docker/containers/c0ffee/hostname",
                "/run tmpfs -",
                "/src bind /home/me",
            ]
        );
    }
    let listed = store.open(Verify::Full).unwrap().images().unwrap();
    let listed: Vec<String> = listed.iter().map(ToString::to_string).collect();
    assert_eq!(listed, [format!("app:1 ({})", &id.hex()[..12]), "container web (c0ffee00c0ff)".to_owned()]);

    let (store, id, top) = app("vfs");
    store.container(&id, top, "vfs");
    let opened = store.container_named("web").unwrap();
    assert_eq!(opened.info.layers.iter().map(|layer| layer.origin).collect::<Vec<_>>(), [Container]);
}

#[test]
fn f27_a_container_whose_image_was_removed_has_its_layers_still() {
    let (store, id, top) = app("overlay2");
    store.container(&id, top, "overlay2");
    fs::remove_file(store.image_path(&format!("imagedb/content/sha256/{}", id.hex()))).unwrap();
    let opened = store.container_named("web").unwrap();
    assert_eq!(opened.info.config_digest, None);
    assert_eq!(opened.layers.len(), 4);
    assert_eq!(opened.info.config.runtime["Env"], json!(["A=1"]));
    assert_eq!(read_to_vec(&*opened.layers[1].bytes).unwrap(), layer_tar("etc/b", "world").0);
}

#[test]
fn f27_faults_of_a_container_are_named() {
    let (store, id, top) = app("overlay2");
    store.container(&id, top, "overlay2");
    let mount = format!("layerdb/mounts/{CONTAINER}");
    let subject = |file: &str| format!("'{mount}/{file}' in 'STORE/image/overlay2'");
    for (file, text, reason) in [
        ("mount-id", "../../etc", "not the name of a layer's directory"),
        ("init-id", "..", "not the name of a layer's directory"),
        ("parent", "sha256:..", "not a digest"),
    ] {
        let before = fs::read(store.image_path(&format!("{mount}/{file}"))).unwrap();
        store.write(&format!("{mount}/{file}"), text);
        assert_eq!(store.container_fault(), format!("{}: {reason}", subject(file)));
        store.write(&format!("{mount}/{file}"), before);
    }
    // A layer that names itself as the layer below.
    let parent = format!("layerdb/sha256/{}/parent", top.hex());
    let before = fs::read(store.image_path(&parent)).unwrap();
    store.write(&parent, top.to_string());
    let wrong = "the chain ID is not that of 'parent' and 'diff'";
    assert!(store.container_fault().ends_with(wrong), "{}", store.container_fault());
    store.write(&parent, before);

    let first = sha256(layer_tar("etc/a", "hello").0);
    store.write(&format!("{mount}/parent"), first.to_string());
    let expected = format!("'containers/{CONTAINER}' in 'STORE': its layers are not those of its image {id}");
    assert_eq!(store.container_fault(), expected);

    fs::remove_dir_all(store.image_path(&mount)).unwrap();
    assert_eq!(
        store.container_fault(),
        format!("{}: the container has no writable layer", subject("mount-id"))
    );

    store.container(&id, top, "btrfs");
    let driver =
        "'STORE': not supported: images of the storage driver 'btrfs'; only overlay2 and vfs are supported";
    assert_eq!(store.container_fault(), driver);

    // A container that cannot be read does not hide the image.
    write(&store.path().join("containers").join(CONTAINER).join("config.v2.json"), "{");
    store.image_named("app:1").unwrap();
    assert!(store.container_fault().starts_with("'STORE' holds no image '@web'"));
}

#[test]
fn f28_other_storage_drivers_are_named() {
    for driver in UNSUPPORTED_DRIVERS {
        let store = Store::new(driver);
        let fault = store.text(&store.open(Verify::Full).unwrap_err());
        let reason = format!("images of the storage driver '{driver}'; only overlay2 and vfs are supported");
        assert_eq!(fault, format!("'STORE': not supported: {reason}"));
    }
    let unknown = Store::new("floppy");
    let fault = unknown.open(Verify::Full).unwrap_err().to_string();
    assert!(fault.contains("images of the unknown storage driver 'floppy'"), "{fault}");
    // An engine that changed its driver has the images of both.
    let (store, id, _) = app("overlay2");
    let other = Store { driver: "vfs", ..store };
    other.image(&[("f", "1")]);
    let images = other.open(Verify::Full).unwrap().images().unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].id, Some(id.to_string()));
    fs::create_dir_all(other.path().join("image/zfs/imagedb")).unwrap();
    assert_eq!(other.open(Verify::Full).unwrap().images().unwrap().len(), 2);
}

#[test]
fn f28_the_directory_is_recognised_and_nothing_else_is() {
    let (store, _, _) = app("overlay2");
    let open = |path: &Path| {
        let reference = Reference::parse(path.as_os_str(), None).unwrap();
        open_with_input(&reference, &OpenOptions::default(), &mut std::io::empty())
            .map(|source| source.kind())
    };
    assert_eq!(open(store.path()).unwrap(), "docker-graph");
    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("image/overlay2")).unwrap();
    assert!(matches!(open(empty.path()), Err(Error::NotAnImage { .. })));
    let reference = Reference::parse(OsStr::new(&format!("docker-graph:{}", empty.path().display())), None);
    let fault =
        open_with_input(&reference.unwrap(), &OpenOptions::default(), &mut std::io::empty()).unwrap_err();
    assert!(
        fault.to_string().contains("no images of a storage driver in 'image'; if the engine uses"),
        "{fault}"
    );
}

#[test]
fn f29_own_places_of_root_and_of_users() {
    let root = tempfile::tempdir().unwrap();
    let place = |path: &str| root.path().join(path);
    let mut environment = Environment { root: root.path().to_owned(), ..Environment::default() };
    let defaults = [place("var/lib/docker"), place("var/snap/docker/common/var-lib-docker")];
    assert_eq!(own_places(&environment), defaults);
    write(&place("etc/docker/daemon.json"), r#"{"data-root": "/srv/docker", "debug": true}"#);
    assert_eq!(own_places(&environment)[0], place("srv/docker"));
    write(&place("etc/docker/daemon.json"), r#"{"graph": "/srv/old"}"#);
    assert_eq!(own_places(&environment)[0], place("srv/old"));
    write(&place("etc/docker/daemon.json"), r#"{"data-root": 1}"#);
    assert_eq!(own_places(&environment), defaults);

    environment.uid = 1000;
    environment.home = Some(place("home/me"));
    assert_eq!(own_places(&environment)[0], place("home/me/.local/share/docker"));
    let user = place("home/me/data");
    let text = json!({"data-root": user}).to_string();
    write(&place("home/me/.config/docker/daemon.json"), text);
    let places = own_places(&environment);
    assert_eq!(places[..3], [user, place("home/me/.local/share/docker"), place("var/lib/docker")]);
}

#[test]
fn f29_owners_are_mapped_back_where_the_engine_maps_them() {
    let owners = |path: &str| remapped_owners(Path::new(path)).map(|ids| format!("{ids:?}"));
    let range = |host| vec![IdRange { container: 0, host, len: 65_536 }];
    let mapped = format!("{:?}", IdMap::new(range(165_536), range(231_072)));
    assert_eq!(owners("/var/lib/docker/165536.231072"), Some(mapped));
    for plain in ["/var/lib/docker", "/srv/20.10", "/srv/1.2.3", "/srv/165536", "/srv/a.b", "/"] {
        assert_eq!(owners(plain), None, "{plain}");
    }
}
