//! Writes OCI layouts as a stream and splits them: no layer is ever in memory.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The default level of gzip.
const LEVEL: u32 = 6;

/// A layer of a layout.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The path of its blob.
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
    media_type: String,
    digest: String,
    diff_id: String,
}

/// A layer that is being written.
pub(crate) type LayerTar = tar::Builder<Hashed<GzEncoder<Hashed<BufWriter<File>>>>>;

/// Counts and hashes the bytes that it passes on.
pub(crate) struct Hashed<W> {
    inner: W,
    hash: Sha256,
    len: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Hashed { inner, hash: Sha256::new(), len: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.hash.update(&bytes[..len]);
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a layout into the directory `dir`. `fill` writes its layers as tars, one after the other;
/// they are compressed with gzip.
pub(crate) fn write(
    dir: &Path,
    layers: usize,
    mut fill: impl FnMut(usize, &mut LayerTar) -> Result<()>,
) -> Result<()> {
    let blobs = blobs(dir);
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make '{}'", blobs.display()))?;
    let mut written = Vec::new();
    for number in 0..layers {
        let draft = blobs.join("draft");
        let stored = Hashed::new(BufWriter::new(File::create(&draft)?));
        let mut tar = tar::Builder::new(Hashed::new(GzEncoder::new(stored, Compression::new(LEVEL))));
        fill(number, &mut tar)?;
        let plain = tar.into_inner()?;
        let mut stored = plain.inner.finish()?;
        stored.flush()?;
        let hex = hex_of(stored.hash);
        let path = blobs.join(&hex);
        fs::rename(draft, &path)?;
        written.push(Layer {
            path,
            len: stored.len,
            media_type: GZIP_LAYER.to_owned(),
            digest: format!("sha256:{hex}"),
            diff_id: format!("sha256:{}", hex_of(plain.hash)),
        });
    }
    write_documents(dir, &written)
}

/// Writes a layout into `dir` with these layers of the layout `from`. Blobs are hard links where
/// possible.
pub(crate) fn select(from: &Path, range: Range<usize>, dir: &Path) -> Result<()> {
    fs::create_dir_all(blobs(dir))?;
    let all = layers(from)?;
    let chosen = all.get(range).context("the image has fewer layers")?;
    for layer in chosen {
        let name = layer.path.file_name().context("a blob has a name")?;
        let path = blobs(dir).join(name);
        if fs::hard_link(&layer.path, &path).is_err() {
            fs::copy(&layer.path, &path)?;
        }
    }
    write_documents(dir, chosen)
}

/// Returns the layers of the first image in a layout, the lowest first.
pub(crate) fn layers(dir: &Path) -> Result<Vec<Layer>> {
    let index = read_json(&dir.join("index.json"))?;
    let manifest = read_json(&blob(dir, &index["manifests"][0])?)?;
    let config = read_json(&blob(dir, &manifest["config"])?)?;
    let (Some(described), Some(diff_ids)) =
        (manifest["layers"].as_array(), config["rootfs"]["diff_ids"].as_array())
    else {
        bail!("'{}' has no layers", dir.display());
    };
    let layers = described.iter().zip(diff_ids).map(|(layer, diff_id)| {
        Ok(Layer {
            path: blob(dir, layer)?,
            len: layer["size"].as_u64().unwrap_or(0),
            media_type: layer["mediaType"].as_str().unwrap_or_default().to_owned(),
            digest: layer["digest"].as_str().unwrap_or_default().to_owned(),
            diff_id: diff_id.as_str().unwrap_or_default().to_owned(),
        })
    });
    layers.collect()
}

fn write_documents(dir: &Path, layers: &[Layer]) -> Result<()> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let described: Vec<Value> = layers
        .iter()
        .map(|layer| json!({"mediaType": layer.media_type, "digest": layer.digest, "size": layer.len}))
        .collect();
    let config = write_blob(dir, CONFIG, &config)?;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described});
    let mut manifest = write_blob(dir, MANIFEST, &manifest)?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string())?;
    fs::write(dir.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    Ok(())
}

/// Writes a document, and returns its descriptor.
fn write_blob(dir: &Path, media_type: &str, document: &Value) -> Result<Value> {
    let text = document.to_string();
    let hex = hex_of(Sha256::new_with_prefix(&text));
    fs::write(blobs(dir).join(&hex), &text)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": text.len()}))
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("'{}' is no JSON", path.display()))
}

fn blobs(dir: &Path) -> PathBuf {
    dir.join("blobs/sha256")
}

/// Returns the path of a descriptor's blob.
fn blob(dir: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    Ok(blobs(dir).join(digest.with_context(|| format!("'{}' names no sha256 digest", dir.display()))?))
}

fn hex_of(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns OCI's name of this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
