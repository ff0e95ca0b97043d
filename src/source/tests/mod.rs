//! Tests of sources, and their fixtures.

use std::ffi::OsStr;
use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::blobs::FileIdentity;
use super::scan::scan;
use super::{
    BlobIdentity, ImageSource, ImageSummary, Location, Member, OpenOptions, OpenedImage, Reference,
    Selection, Transport, Unpack, open, open_with_input,
};
use crate::compress::Compression;
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Result, Subject};
use crate::image::Platform;
use crate::image::media_type::{DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::limits::Limits;
use crate::read_at::{ReadAt, read_to_vec};

mod archives;
mod bounds;
mod docker;
mod layouts;
mod memory;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Named files, in the order of the archive.
#[derive(Default, Clone)]
struct Files(Vec<(String, Body)>);

#[derive(Clone)]
enum Body {
    File(Vec<u8>),
    Symlink(String),
    Hardlink(String),
}

impl Files {
    fn file(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.0.push((name.to_owned(), Body::File(bytes.into())));
        self
    }

    fn json(&mut self, name: &str, value: &Value) -> &mut Self {
        self.file(name, value.to_string())
    }

    fn symlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.0.push((name.to_owned(), Body::Symlink(target.to_owned())));
        self
    }

    fn hardlink(&mut self, name: &str, target: &str) -> &mut Self {
        self.0.push((name.to_owned(), Body::Hardlink(target.to_owned())));
        self
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| found != name);
    }

    /// Adds a blob at its path in an OCI layout, and returns its descriptor.
    fn blob(&mut self, media_type: &str, bytes: impl Into<Vec<u8>>) -> Value {
        let bytes = bytes.into();
        let descriptor = descriptor(media_type, &bytes);
        let name = blob_name(&descriptor);
        if !self.0.iter().any(|(found, _)| *found == name) {
            self.file(&name, bytes);
        }
        descriptor
    }

    /// Adds a whole image with these `layers`, and returns the manifest's descriptor.
    fn image(&mut self, platform: &str, layers: &[&str]) -> Value {
        let stored: Vec<_> = layers.iter().map(|layer| self.blob(LAYER, *layer)).collect();
        let config = self.blob(OCI_CONFIG, config(platform, layers).to_string());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": stored});
        self.blob(OCI_MANIFEST, manifest.to_string())
    }

    /// Completes an OCI layout with these manifests.
    fn layout(&mut self, manifests: &[Value]) -> &mut Self {
        self.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        self.json("index.json", &json!({"schemaVersion": 2, "manifests": manifests}))
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, body) in &self.0 {
            let (kind, target, bytes) = match body {
                Body::File(bytes) => (tar::EntryType::Regular, "", bytes.as_slice()),
                Body::Symlink(target) => (tar::EntryType::Symlink, target.as_str(), &[][..]),
                Body::Hardlink(target) => (tar::EntryType::Link, target.as_str(), &[][..]),
            };
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn as_tar(&self) -> Site {
        Site::of_bytes(&self.tar())
    }

    fn as_directory(&self) -> Site {
        let temporary = TempDir::new().unwrap();
        let path = temporary.path().join("image");
        fs::create_dir(&path).unwrap();
        for (name, body) in &self.0 {
            let file = path.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            match body {
                Body::File(bytes) => fs::write(file, bytes).unwrap(),
                Body::Symlink(target) => std::os::unix::fs::symlink(target, file).unwrap(),
                Body::Hardlink(target) => fs::hard_link(path.join(target), file).unwrap(),
            }
        }
        Site { temporary, path }
    }
}

/// A file or directory on disk that is removed when this value is dropped.
struct Site {
    temporary: TempDir,
    path: PathBuf,
}

impl Site {
    fn of_bytes(bytes: &[u8]) -> Self {
        let temporary = TempDir::new().unwrap();
        let path = temporary.path().join("image.tar");
        fs::write(&path, bytes).unwrap();
        Site { temporary, path }
    }

    fn open(&self) -> Result<Box<dyn ImageSource>> {
        self.open_as("")
    }

    /// Opens the path with a transport such as `oci:` before it.
    fn open_as(&self, transport: &str) -> Result<Box<dyn ImageSource>> {
        let text = format!("{transport}{}", self.path.display());
        open(&Reference::parse(OsStr::new(&text), None)?, &options())
    }

    fn image(&self, select: &str) -> Result<OpenedImage> {
        self.image_for(select, None)
    }

    fn image_for(&self, select: &str, platform: Option<&str>) -> Result<OpenedImage> {
        let platform: Option<Platform> = platform.map(|text| text.parse().unwrap());
        self.open()?.image(&selection(select), platform.as_ref())
    }

    /// Returns the contents of the layers, or why they cannot be read.
    fn layers(&self, select: &str) -> Vec<String> {
        contents(&self.image(select).unwrap())
    }

    fn refusal(&self, select: &str) -> Error {
        self.image(select).unwrap_err()
    }
}

fn selection(text: &str) -> Selection {
    match text.strip_prefix('@') {
        Some(index) => Selection::Index(index.parse().unwrap()),
        None if text.is_empty() => Selection::Sole,
        None => Selection::Name(text.to_owned()),
    }
}

fn contents(image: &OpenedImage) -> Vec<String> {
    let read = |bytes: &dyn ReadAt| String::from_utf8(read_to_vec(bytes).unwrap()).unwrap();
    image.layers.iter().map(|layer| read(&*layer.bytes)).collect()
}

fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.digest(bytes)
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes).to_string(), "size": bytes.len()})
}

fn blob_name(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

fn with(mut descriptor: Value, field: &str, value: Value) -> Value {
    descriptor[field] = value;
    descriptor
}

fn named(descriptor: Value, name: &str) -> Value {
    with(descriptor, "annotations", json!({"org.opencontainers.image.ref.name": name}))
}

fn made_for(descriptor: Value, platform: &str) -> Value {
    let platform: Platform = platform.parse().unwrap();
    let value =
        json!({"os": platform.os, "architecture": platform.architecture, "variant": platform.variant});
    with(descriptor, "platform", value)
}

fn config(platform: &str, layers: &[&str]) -> Value {
    let (os, architecture) = platform.split_once('/').unwrap();
    let diff_ids: Vec<_> = layers.iter().map(|layer| sha256(layer.as_bytes()).to_string()).collect();
    json!({"os": os, "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
}

/// Adds an OCI image index of these manifests, as a blob.
fn nested(files: &mut Files, manifests: &[Value]) -> Value {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    files.blob(OCI_INDEX, index.to_string())
}

fn options() -> OpenOptions {
    OpenOptions {
        spool_dirs: vec![std::env::temp_dir()],
        unpack: Some(Arc::new(Inflate)),
        ..OpenOptions::default()
    }
}

/// Reads compressed archives by decompressing them into memory.
struct Inflate;

impl Unpack for Inflate {
    fn open_compressed(
        &self,
        bytes: Arc<dyn ReadAt>,
        _compression: Compression,
        _path: &Path,
        _identity: BlobIdentity,
    ) -> Result<(Arc<dyn ReadAt>, Vec<Member>)> {
        let mut plain = Vec::new();
        let stored = read_to_vec(&*bytes).unwrap();
        flate2::read::GzDecoder::new(stored.as_slice()).read_to_end(&mut plain).unwrap();
        let members = scan(&plain, Limits::default())
            .map_err(|fault| fault.of(&Subject::Archive("compressed".into())))?
            .unwrap();
        Ok((Arc::new(plain), members))
    }
}

fn list(source: &dyn ImageSource) -> Vec<String> {
    source.images().unwrap().iter().map(ImageSummary::to_string).collect()
}

fn from_stdin(bytes: &[u8], options: &OpenOptions) -> Result<Box<dyn ImageSource>> {
    let reference = Reference::parse(OsStr::new("-"), None)?;
    open_with_input(&reference, options, &mut Cursor::new(bytes))
}
