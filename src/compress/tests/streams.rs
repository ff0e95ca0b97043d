//! Test data and compressors.

use std::io::Write;
use std::sync::LazyLock;

use crc32fast::hash as crc32;
use flate2::GzBuilder;
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};

use super::super::Compression;
use super::super::xz_block::vli;

/// Text, noise and zeros in turns, in runs of up to 40 KB, like the contents of layers.
pub(super) fn mixed(len_bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data = Vec::with_capacity(len_bytes);
    while data.len() < len_bytes {
        let run = 1000 + next() % 40_000;
        match next() % 4 {
            0 => data.extend((0..run).map(|_| next().to_le_bytes()[0])),
            1 => data.resize(data.len() + usize::try_from(run).unwrap(), 0),
            _ => (0..run / 20).for_each(|_| writeln!(data, "line {} of a file", next() % 1000).unwrap()),
        }
    }
    data.truncate(len_bytes);
    data
}

pub(super) fn gzip(data: &[u8], level: u32) -> Vec<u8> {
    gzip_with(GzBuilder::new(), data, level)
}

pub(super) fn gzip_with(header: GzBuilder, data: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = header.write(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// One frame, with a checksum.
pub(super) fn zstd(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd_skippable(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x50 | kind, 0x2a, 0x4d, 0x18];
    frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    frame.extend(content);
    frame
}

pub(super) fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// One stream of one block.
pub(super) fn xz(data: &[u8], check: Check) -> Vec<u8> {
    encode_xz(Stream::new_easy_encoder(1, check).unwrap(), &[data])
}

/// One stream of one block, the contents filtered as code and as samples.
pub(super) fn xz_filtered(data: &[u8]) -> Vec<u8> {
    let mut filters = Filters::new();
    filters.x86().delta_properties(&[3]).unwrap().lzma2(&LzmaOptions::new_preset(1).unwrap());
    encode_xz(Stream::new_stream_encoder(&filters, Check::Crc64).unwrap(), &[data])
}

/// One stream with a block for every part; the block headers state no sizes.
pub(super) fn xz_blocks(parts: &[&[u8]]) -> Vec<u8> {
    encode_xz(Stream::new_easy_encoder(1, Check::Crc64).unwrap(), parts)
}

/// One stream of blocks of `block_bytes`, whose headers state sizes, as `xz -T` writes it. The contents are
/// those of one-block streams.
pub(super) fn xz_sized_blocks(data: &[u8], block_bytes: usize) -> Vec<u8> {
    let mut bytes = xz(b"", Check::Crc32)[..12].to_vec();
    let mut records = Vec::new();
    let parts = data.chunks(block_bytes);
    let mut index = vec![0, u8::try_from(parts.len()).unwrap()];
    for part in parts {
        let alone = xz(part, Check::Crc32);
        // Stream header 12 bytes, block header 12; the index gives the size up to the check's end.
        let footer = alone.len() - 12;
        let index_bytes = 4 * (usize::from(alone[footer + 4]) + 1);
        let mut record = alone[footer - index_bytes + 2..].iter().copied();
        let unpadded = vli(|| record.next().ok_or(())).unwrap().unwrap();
        let compressed_bytes = unpadded - 12 - 4;
        let header = sized_header(&alone[14..17], compressed_bytes, part.len() as u64);
        bytes.extend(&header);
        bytes.extend(&alone[24..footer - index_bytes]);
        push_vli(&mut records, header.len() as u64 + compressed_bytes + 4);
        push_vli(&mut records, part.len() as u64);
    }
    index.extend(records);
    finish_with_crc(&mut index);
    let backward = u32::try_from(index.len() / 4 - 1).unwrap();
    let footer = [&backward.to_le_bytes()[..], &bytes[6..8]].concat();
    [&bytes, &index, &crc32(&footer).to_le_bytes()[..], &footer, b"YZ"].concat()
}

fn sized_header(filter: &[u8], compressed_bytes: u64, output_bytes: u64) -> Vec<u8> {
    let mut header = vec![0, 0xc0];
    push_vli(&mut header, compressed_bytes);
    push_vli(&mut header, output_bytes);
    header.extend(filter);
    header[0] = u8::try_from(header.len().div_ceil(4)).unwrap();
    finish_with_crc(&mut header);
    header
}

fn finish_with_crc(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(crc32(bytes).to_le_bytes());
}

fn push_vli(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn encode_xz(mut encoder: Stream, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut run = |mut input: &[u8], action: Action| {
        loop {
            bytes.reserve(64 << 10);
            let before = encoder.total_in();
            let status = encoder.process_vec(input, &mut bytes, action).unwrap();
            input = &input[usize::try_from(encoder.total_in() - before).unwrap()..];
            if status == Status::StreamEnd {
                return;
            }
        }
    };
    for part in parts {
        run(part, Action::FullFlush);
    }
    run(&[], Action::Finish);
    bytes
}

/// A compressed stream and what it decodes to.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) compression: Compression,
    pub(super) bytes: Vec<u8>,
    pub(super) data: Vec<u8>,
}

/// Returns samples of every format, alone and in all sequences of frames.
pub(super) fn samples(len_bytes: usize) -> Vec<Sample> {
    let data = mixed(len_bytes);
    let thirds: Vec<&[u8]> = data.chunks(len_bytes / 3 + 1).collect();
    let joined = |one: &dyn Fn(&[u8]) -> Vec<u8>| thirds.iter().flat_map(|part| one(part)).collect();
    let sample = |name, compression, bytes| Sample { name, compression, bytes, data: data.clone() };
    vec![
        sample("plain", Compression::Plain, data.clone()),
        sample("gzip -0", Compression::Gzip, gzip(&data, 0)),
        sample("gzip -1", Compression::Gzip, gzip(&data, 1)),
        sample("gzip -6", Compression::Gzip, gzip(&data, 6)),
        sample("gzip -9", Compression::Gzip, gzip(&data, 9)),
        sample("gzip members", Compression::Gzip, joined(&|part| gzip(part, 6))),
        sample("zstd", Compression::Zstd, zstd(&data)),
        sample("zstd frames", Compression::Zstd, joined(&zstd)),
        sample(
            "zstd skippable",
            Compression::Zstd,
            joined(&|part| [zstd_skippable(7, b"x"), zstd(part)].concat()),
        ),
        sample("xz", Compression::Xz, xz(&data, Check::Crc64)),
        sample("xz crc32", Compression::Xz, xz(&data, Check::Crc32)),
        sample("xz sha256", Compression::Xz, xz(&data, Check::Sha256)),
        sample("xz no check", Compression::Xz, xz(&data, Check::None)),
        sample("xz filtered", Compression::Xz, xz_filtered(&data)),
        sample("xz streams", Compression::Xz, joined(&|part| xz(part, Check::Crc64))),
        sample("xz padded", Compression::Xz, joined(&|part| [xz(part, Check::Crc32), vec![0; 8]].concat())),
        sample("xz blocks", Compression::Xz, xz_blocks(&thirds)),
        sample("xz sized blocks", Compression::Xz, xz_sized_blocks(&data, len_bytes / 5 + 1)),
        sample("bzip2", Compression::Bzip2, bzip2(&data)),
        sample("bzip2 streams", Compression::Bzip2, joined(&bzip2)),
    ]
}

/// [`samples`] of a few MiB, created once for all tests.
pub(super) static LARGE: LazyLock<Vec<Sample>> = LazyLock::new(|| samples(2 << 20));
