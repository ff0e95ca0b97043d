//! A sample layer in every compression, for tests of this module and of modules that store or read its index.

#![allow(clippy::unwrap_used, reason = "a sample that cannot be made is a fault")]
#![cfg_attr(not(test), allow(dead_code, reason = "fuzz targets need a part of it"))]

use std::io::Write;
use std::sync::{Arc, LazyLock};

use super::growth::Growth;
use super::index::{Expected, Indexed, Request, Scratch, Verify, index_layer};
use super::reader::LayerReader;
use super::stored::StoredIndex;
use crate::compress::{Compression, DecoderMemory, Patience};
use crate::digest::Algorithm;
use crate::error::{Result, Subject};
use crate::limits::Limits;

pub(crate) const LAYER: Subject = Subject::Layer { number: 7, diff_id: None };

pub(crate) const ALL: [Compression; 5] =
    [Compression::Plain, Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];

/// Returns a tar of a few files. One file is larger than several spans and compresses to about half.
pub(crate) fn sample_tar() -> Vec<u8> {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize]
    })
    .take(11 << 20)
    .collect();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in [("first", &b"1"[..]), ("large", &noise), ("last", b"the end")] {
        let mut header = tar::Header::new_ustar();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn compressed(compression: Compression, tar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Plain => tar.to_vec(),
        Compression::Gzip => gzip(tar),
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
    }
}

pub(crate) fn expected(tar: &[u8], blob: &[u8]) -> Expected {
    Expected {
        diff_id: Some(Algorithm::Sha256.digest(tar)),
        blob_digest: Some(Algorithm::Sha256.digest(blob)),
        blob_bytes: Some(blob.len() as u64),
        learn: false,
    }
}

pub(crate) fn index(
    blob: &[u8],
    compression: Compression,
    expected: Expected,
    verify: Verify,
    scratch: Option<Scratch>,
) -> Result<Indexed> {
    index_layer(Request { compression: Some(compression), verify, ..request(blob, expected, scratch) })
}

/// Returns a request to index `blob` with full verification, alone in its image.
pub(crate) fn request(blob: &[u8], expected: Expected, scratch: Option<Scratch>) -> Request<'static> {
    static GROWTH: LazyLock<Growth> = LazyLock::new(|| Growth::new(u64::MAX, Limits::default()));
    static DECODERS: LazyLock<Arc<DecoderMemory>> = LazyLock::new(DecoderMemory::alone);
    Request {
        bytes: Arc::new(blob.to_vec()),
        what: &LAYER,
        compression: None,
        expected,
        verify: Verify::Full,
        limits: Limits::default(),
        scratch,
        progress: &|_| {},
        observer: None,
        growth: &GROWTH,
        decoders: &DECODERS,
        patience: Patience::Long,
    }
}

pub(crate) fn read_span(reader: &LayerReader, at: u32) -> Result<Vec<u8>> {
    // The previous contents of the buffer must not appear in the result.
    let mut buffer = b"left over".repeat(9);
    reader.read_span(at, &mut buffer).map(|()| buffer)
}

pub(crate) fn read_all(index: StoredIndex, blob: Vec<u8>, verify: Verify) -> Result<Vec<u8>> {
    let reader = LayerReader::new(LAYER, index, Arc::new(blob), verify, DecoderMemory::alone());
    let spans = reader.index().span_count();
    let parts: Vec<Vec<u8>> = (0..spans).map(|span| read_span(&reader, span)).collect::<Result<_>>()?;
    Ok(parts.concat())
}

pub(crate) fn names(indexed: &StoredIndex) -> Vec<String> {
    let entries = indexed.index.entries();
    entries.map(|(_, entry)| String::from_utf8_lossy(entry.name).into_owned()).collect()
}

/// Creates unnamed files, as a store does.
pub(crate) fn scratch() -> Scratch {
    Scratch { windows: tempfile::tempfile().unwrap(), copy: tempfile::tempfile().unwrap() }
}
