//! Writes layers that are far larger than their compressed form, as a stream.

use std::io::{self, Write};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::fixture::{Item, file, sha256_hex, tar};

/// How a layer is compressed, at the level that makes it smallest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
    /// A window of 128 MiB.
    ZstdLong,
    Bzip2,
    /// A dictionary of this many MiB.
    Xz(u32),
}

enum Encoder {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Bzip2(bzip2::write::BzEncoder<Vec<u8>>),
    Xz(liblzma::write::XzEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(packing: Packing) -> Self {
        match packing {
            Packing::Gzip => {
                Encoder::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6)))
            }
            Packing::Zstd | Packing::ZstdLong => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                if packing == Packing::ZstdLong {
                    encoder.long_distance_matching(true).unwrap();
                    encoder.window_log(27).unwrap();
                }
                Encoder::Zstd(encoder)
            }
            Packing::Bzip2 => {
                Encoder::Bzip2(bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best()))
            }
            Packing::Xz(mebibytes) => {
                let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
                options.dict_size(mebibytes << 20);
                let mut filters = liblzma::stream::Filters::new();
                filters.lzma2(&options);
                let stream =
                    liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32);
                Encoder::Xz(liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap()))
            }
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Encoder::Gzip(writer) => writer,
            Encoder::Zstd(writer) => writer,
            Encoder::Bzip2(writer) => writer,
            Encoder::Xz(writer) => writer,
        }
    }

    fn written(&self) -> usize {
        match self {
            Encoder::Gzip(writer) => writer.get_ref().len(),
            Encoder::Zstd(writer) => writer.get_ref().len(),
            Encoder::Bzip2(writer) => writer.get_ref().len(),
            Encoder::Xz(writer) => writer.get_ref().len(),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Encoder::Gzip(writer) => writer.finish(),
            Encoder::Zstd(writer) => writer.finish(),
            Encoder::Bzip2(writer) => writer.finish(),
            Encoder::Xz(writer) => writer.finish(),
        }
        .unwrap()
    }
}

/// A layer that is being written.
pub(super) struct LayerWriter {
    encoder: Encoder,
    hasher: Sha256,
}

/// A layer with its blob.
#[derive(Clone)]
pub(super) struct Made {
    pub(super) diff_id: String,
    pub(super) blob: Vec<u8>,
}

impl LayerWriter {
    pub(super) fn new(packing: Packing) -> Self {
        LayerWriter { encoder: Encoder::new(packing), hasher: Sha256::new() }
    }

    /// Returns the length of the compressed bytes so far. The encoder holds some more.
    pub(super) fn stored_bytes(&self) -> usize {
        self.encoder.written()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.encoder.writer().write_all(bytes).unwrap();
    }

    /// Writes `count` zeros.
    pub(super) fn zeros(&mut self, count: u64) {
        let piece = vec![0; 1 << 20];
        let mut left = count;
        while left > 0 {
            let len = usize::try_from(left.min(1 << 20)).unwrap();
            self.bytes(&piece[..len]);
            left -= len as u64;
        }
    }

    /// Writes a member with this header; the payload is padded to whole blocks.
    pub(super) fn member(&mut self, header: &tar::Header, payload: &[u8]) {
        self.bytes(header.as_bytes());
        self.bytes(payload);
        self.bytes(&vec![0; payload.len().next_multiple_of(512) - payload.len()]);
    }

    /// Writes a PAX header with these records.
    pub(super) fn pax(&mut self, records: &[(&str, &[u8])]) {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (1..20).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
            write!(body, "{} {key}=", rest + digits).unwrap();
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let mut header = header(b"pax", b'x');
        header.set_size(body.len() as u64);
        header.set_cksum();
        self.member(&header, &body);
    }

    /// Writes an empty member of this type.
    pub(super) fn empty(&mut self, name: &[u8], kind: u8) {
        let mut header = header(name, kind);
        header.set_cksum();
        self.member(&header, b"");
    }

    /// Writes a link of this type.
    pub(super) fn link(&mut self, name: &[u8], kind: u8, target: &[u8]) {
        let mut header = header(name, kind);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.member(&header, b"");
    }

    /// Writes the header of a file whose payload follows.
    pub(super) fn file_of(&mut self, name: &[u8], size: u64) {
        let mut header = header(name, b'0');
        header.set_size(size);
        header.set_cksum();
        self.bytes(header.as_bytes());
    }

    pub(super) fn file(&mut self, name: &[u8], content: &[u8]) {
        let mut header = header(name, b'0');
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.member(&header, content);
    }

    pub(super) fn finish(mut self) -> Made {
        self.bytes(&[0; 1024]);
        let digits = self.hasher.finalize();
        let hex: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
        Made { diff_id: format!("sha256:{hex}"), blob: self.encoder.finish() }
    }
}

/// Returns the header of an empty member, without checksum. The name has at most 100 bytes.
pub(super) fn header(name: &[u8], kind: u8) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(0);
    header
}

/// Returns the config of an image of these layers, with `more` fields.
fn config(layers: &[Made], more: &serde_json::Value) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    let mut config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config.to_string().into_bytes()
}

/// Returns the members of a docker-archive of these layers. The config has `more` fields.
pub(super) fn archive_items(layers: &[Made], more: &serde_json::Value) -> Vec<Item> {
    let config = config(layers, more);
    let config_name = format!("{}.json", sha256_hex(&config));
    let names: Vec<_> = (0..layers.len()).map(|at| format!("{at}.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": ["a:1"], "Layers": names}]);
    let blobs = names.iter().zip(layers).map(|(name, layer)| file(name, &layer.blob));
    blobs.chain([file(config_name, config), file("manifest.json", manifest.to_string())]).collect()
}

/// Returns a docker-archive of these layers.
pub(super) fn archive(layers: &[Made]) -> Vec<u8> {
    tar(&archive_items(layers, &json!({})))
}

/// Compresses a whole archive.
pub(super) fn pack(packing: Packing, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Vec<u8> {
    let mut encoder = Encoder::new(packing);
    write(encoder.writer()).unwrap();
    encoder.finish()
}
