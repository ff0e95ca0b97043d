//! The output of a decoder, where it stops, and that it can resume there.

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::GzBuilder;
use liblzma::stream::Check;

use super::super::{Checkpoint, Compression, Decoder, Resume, Stop};
use super::streams::{
    LARGE, bzip2, gzip, gzip_with, mixed, samples, xz, xz_blocks, xz_sized_blocks, zstd, zstd_skippable,
};
use super::{Drip, decode_all, decode_with_checkpoints, decoder};

#[test]
fn f10_every_format_is_told_by_its_first_bytes() {
    for sample in samples(3000) {
        let head = &sample.bytes[..Compression::HEAD_BYTES];
        assert_eq!(Compression::detect_head(head), sample.compression, "{}", sample.name);
    }
}

#[test]
fn what_only_resembles_a_format_is_plain() {
    for head in [&b""[..], b"\x1f", b"\x1f\x8b\x07", b"BZh9 is text", b"\x28\xb5\x2f", b"\x60\x2a\x4d\x18"] {
        assert_eq!(Compression::detect_head(head), Compression::Plain, "{head:?}");
    }
}

#[test]
fn every_format_decodes_whole() {
    for sample in LARGE.iter() {
        let mut decoder = decoder(sample.compression, &sample.bytes);
        let mut out = Vec::new();
        assert_eq!(decoder.decode(&mut out, usize::MAX, usize::MAX).unwrap(), Stop::End);
        assert!(out == sample.data, "{}", sample.name);
        assert_eq!(decoder.output_offset(), sample.data.len() as u64, "{}", sample.name);
        assert_eq!(decoder.compressed_offset(), sample.bytes.len() as u64, "{}", sample.name);
        assert_eq!(decoder.trailing_bytes(), 0, "{}", sample.name);
    }
}

#[test]
fn every_format_decodes_from_a_reader_that_drips() {
    for sample in samples(50_000) {
        let drip = Box::new(Drip(Cursor::new(sample.bytes)));
        let decoder = Decoder::new(sample.compression, drip).unwrap();
        let (out, _) = decode_with_checkpoints(decoder, 1);
        assert!(out == sample.data, "{}", sample.name);
    }
}

#[test]
fn every_checkpoint_goes_on_to_the_end() {
    for sample in LARGE.iter() {
        let first_pass = decoder(sample.compression, &sample.bytes);
        let (out, checkpoints) = decode_with_checkpoints(first_pass, 100_000);
        assert!(out == sample.data, "{}", sample.name);
        for checkpoint in checkpoints {
            check_resume(&sample.bytes, &sample.data, sample.compression, &checkpoint);
        }
    }
}

#[test]
fn every_deflate_block_is_a_checkpoint_whatever_the_reader_gives() {
    let data = mixed(200_000);
    for level in [0, 3, 9] {
        let bytes = gzip(&data, level);
        let drip = Box::new(Drip(Cursor::new(bytes.clone())));
        let (_, dripped) = decode_with_checkpoints(Decoder::new(Compression::Gzip, drip).unwrap(), 1);
        let (_, checkpoints) = decode_with_checkpoints(decoder(Compression::Gzip, &bytes), 1);
        assert!(checkpoints.len() > 2, "level {level}: {}", checkpoints.len());
        assert!(dripped == checkpoints, "level {level}");
        for checkpoint in &checkpoints {
            check_resume(&bytes, &data, Compression::Gzip, checkpoint);
        }
    }
}

#[test]
fn a_resumed_decoder_makes_the_same_checkpoints() {
    let bytes = gzip(&mixed(1 << 20), 6);
    let (_, checkpoints) = decode_with_checkpoints(decoder(Compression::Gzip, &bytes), 1);
    let from = &checkpoints[3];
    let rest = Cursor::new(bytes[usize::try_from(from.compressed_offset).unwrap()..].to_vec());
    let resumed = Decoder::resume(Compression::Gzip, Box::new(rest), from).unwrap();
    let (_, again) = decode_with_checkpoints(resumed, 1);
    let positions = |all: &[Checkpoint]| -> Vec<(u64, u64)> {
        all.iter().skip(1).map(|one| (one.output_offset, one.compressed_offset)).collect()
    };
    assert_eq!(positions(&again), positions(&checkpoints[3..]));
}

#[test]
fn a_boundary_comes_after_soft_and_hard_cuts_exactly() {
    let bytes = gzip(&vec![0; 8 << 20], 9);
    let mut decoder = decoder(Compression::Gzip, &bytes);
    let mut out = Vec::new();
    assert_eq!(decoder.decode(&mut out, 1, 1000).unwrap(), Stop::Full);
    assert_eq!((out.len(), decoder.checkpoint()), (1000, None));
    assert_eq!(decoder.decode(&mut out, 1, usize::MAX).unwrap(), Stop::Boundary);
    assert_eq!(decoder.checkpoint().unwrap().output_offset, out.len() as u64);
    assert_eq!(decoder.decode(&mut out, 0, 0).unwrap(), Stop::Full);
}

#[test]
fn x9_a_deflate_block_without_end_is_decoded_in_constant_memory() {
    let bytes = gzip(&vec![0; 64 << 20], 9);
    let mut decoder = decoder(Compression::Gzip, &bytes);
    let mut out = Vec::with_capacity(64 << 10);
    let before = out.capacity();
    while decoder.decode(&mut out, 64 << 10, 64 << 10).unwrap() != Stop::End {
        out.clear();
    }
    assert_eq!((decoder.output_offset(), out.capacity()), (64 << 20, before));
}

#[test]
fn an_end_stays_the_end() {
    for sample in samples(3000) {
        let mut decoder = decoder(sample.compression, &sample.bytes);
        let mut out = Vec::new();
        while decoder.decode(&mut out, 100, 100).unwrap() != Stop::End {}
        assert_eq!(decoder.decode(&mut out, 1, 1).unwrap(), Stop::End, "{}", sample.name);
        assert!(out == sample.data, "{}", sample.name);
        assert_eq!(decoder.checkpoint(), None, "{}", sample.name);
    }
}

#[test]
fn z3_all_gzip_members_are_read_and_each_start_is_a_checkpoint() {
    let members = [gzip(b"one", 6), gzip(b"", 6), gzip(b"two", 0), gzip(b"three", 9)];
    let (out, checkpoints) = decode_with_checkpoints(decoder(Compression::Gzip, &members.concat()), 1);
    assert_eq!(out, b"onetwothree");
    let ends = [0, members[0].len(), members[..3].iter().map(Vec::len).sum()];
    let starts: Vec<Checkpoint> = [0, 3, 6]
        .iter()
        .zip(ends)
        .map(|(&output_offset, end)| Checkpoint {
            output_offset,
            compressed_offset: end as u64,
            state: Resume::Start,
        })
        .collect();
    assert_eq!(checkpoints, starts);
}

#[test]
fn z3_header_fields_are_passed_over() {
    let header = GzBuilder::new().extra("extra").filename("layer.tar").comment("made by hand").mtime(7);
    let bytes = gzip_with(header, b"data", 6);
    assert_eq!(decode_all(decoder(Compression::Gzip, &bytes)).unwrap(), b"data");
}

#[test]
fn z4_bytes_after_the_last_frame_are_tolerated_counted_and_read() {
    let junk = [vec![0; 300_000], b"junk".to_vec()].concat();
    for (name, compression, mut bytes) in [
        ("gzip", Compression::Gzip, gzip(b"data", 6)),
        ("zstd", Compression::Zstd, zstd(b"data")),
        ("xz", Compression::Xz, xz(b"data", Check::Crc64)),
        ("bzip2", Compression::Bzip2, bzip2(b"data")),
    ] {
        bytes.extend(&junk);
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { inner: Cursor::new(bytes.clone()), read: Arc::clone(&read) };
        let mut decoder = Decoder::new(compression, Box::new(counted)).unwrap();
        let mut out = Vec::new();
        assert_eq!(decoder.decode(&mut out, 1, 1000).unwrap(), Stop::End, "{name}");
        assert_eq!((out.as_slice(), decoder.trailing_bytes()), (&b"data"[..], junk.len() as u64), "{name}");
        assert_eq!(read.load(Ordering::Relaxed), bytes.len() as u64, "{name}");
    }
}

#[test]
fn z4_a_few_nuls_after_gzip_are_counted() {
    let bytes = [gzip(b"data", 6), vec![0; 3]].concat();
    let mut decoder = decoder(Compression::Gzip, &bytes);
    decoder.decode(&mut Vec::new(), 1000, 1000).unwrap();
    assert_eq!(decoder.trailing_bytes(), 3);
}

#[test]
fn z4_xz_padding_is_part_of_the_format_and_not_counted() {
    for (zeros, counted) in [(4, 0), (8, 0), (3, 3), (6, 6)] {
        let bytes = [xz(b"data", Check::Crc64), vec![0; zeros]].concat();
        let mut decoder = decoder(Compression::Xz, &bytes);
        assert_eq!(decoder.decode(&mut Vec::new(), 1000, 1000).unwrap(), Stop::End);
        assert_eq!(decoder.trailing_bytes(), counted, "{zeros} zeros");
    }
}

#[test]
fn z5_zstd_frames_and_skippable_frames_are_read_in_any_order() {
    let frames = [
        zstd_skippable(0, &[1; 200_000]),
        zstd(b"one"),
        zstd_skippable(15, b""),
        zstd(b""),
        zstd(b"two"),
        zstd_skippable(3, b"index"),
    ];
    let (out, checkpoints) = decode_with_checkpoints(decoder(Compression::Zstd, &frames.concat()), 1);
    assert_eq!(out, b"onetwo");
    let second = frames[..2].concat().len() as u64;
    assert_eq!((checkpoints[1].output_offset, checkpoints[1].compressed_offset), (3, second));
}

#[test]
fn xz_blocks_are_checkpoints_with_and_without_sizes_in_their_headers() {
    let data = mixed(300_000);
    let parts: Vec<&[u8]> = data.chunks(100_000).collect();
    for (name, bytes) in [("blocks", xz_blocks(&parts)), ("sized", xz_sized_blocks(&data, 100_000))] {
        let (_, checkpoints) = decode_with_checkpoints(decoder(Compression::Xz, &bytes), 1);
        let offsets: Vec<u64> = checkpoints.iter().map(|one| one.output_offset).collect();
        assert_eq!(offsets, [0, 100_000, 200_000], "{name}");
        for checkpoint in &checkpoints[1..] {
            assert!(matches!(checkpoint.state, Resume::Inside { .. }), "{name}");
            check_resume(&bytes, &data, Compression::Xz, checkpoint);
        }
    }
}

fn check_resume(bytes: &[u8], data: &[u8], compression: Compression, checkpoint: &Checkpoint) {
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let input = Cursor::new(bytes[at(checkpoint.compressed_offset)..].to_vec());
    let decoder = Decoder::resume(compression, Box::new(input), checkpoint).unwrap();
    let rest = decode_all(decoder).unwrap();
    assert!(rest == data[at(checkpoint.output_offset)..], "{compression} at {}", checkpoint.output_offset);
}

struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.inner.read(buf)?;
        self.read.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}
