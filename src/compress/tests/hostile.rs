//! Damaged, truncated and hostile streams: an error that names the offset, and never wrong bytes or a panic.

use std::io::{self, Cursor, Read};

use crc32fast::hash as crc32;
use liblzma::stream::Check;

use super::super::{Checkpoint, Compression, Decoder, Resume};
use super::streams::{gzip, mixed, samples, xz, zstd};
use super::{decode_all, decoder};
use crate::error::StreamFault;

/// Samples without any checksum.
const UNCHECKED: [&str; 2] = ["plain", "xz no check"];

/// Returns the error of decoding `bytes`.
fn reason(compression: Compression, bytes: &[u8]) -> String {
    match decode_all(decoder(compression, bytes)) {
        Err(StreamFault::Decompress { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn z1_a_stream_cut_anywhere_is_an_error_that_names_the_offset() {
    let data = mixed(2000);
    for (compression, bytes) in [
        (Compression::Gzip, gzip(&data, 6)),
        (Compression::Zstd, zstd(&data)),
        (Compression::Xz, xz(&data, Check::Crc64)),
        (Compression::Bzip2, super::streams::bzip2(&data)),
    ] {
        for cut in 0..bytes.len() {
            match decode_all(decoder(compression, &bytes[..cut])) {
                Err(StreamFault::Decompress { format, offset, reason, .. }) => {
                    assert_eq!((format, offset), (compression.name(), cut as u64), "{reason}");
                }
                other => panic!("{compression} cut at {cut}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_cut_between_frames_gives_no_more_than_what_came_before() {
    for sample in samples(2000) {
        for cut in 0..sample.bytes.len() {
            if let Ok(out) = decode_all(decoder(sample.compression, &sample.bytes[..cut])) {
                assert!(sample.data.starts_with(&out), "{} cut at {cut}", sample.name);
            }
        }
    }
}

#[test]
fn a_flipped_bit_never_gives_wrong_bytes() {
    for sample in samples(2000) {
        if UNCHECKED.contains(&sample.name) {
            continue;
        }
        for index in 0..sample.bytes.len() {
            let mut bytes = sample.bytes.clone();
            bytes[index] ^= 1 << (index % 8);
            if let Ok(out) = decode_all(decoder(sample.compression, &bytes)) {
                assert!(sample.data.starts_with(&out), "{} flipped at {index}", sample.name);
            }
        }
    }
}

#[test]
fn a_flipped_bit_behind_a_checkpoint_never_gives_wrong_bytes_where_there_is_a_check() {
    for sample in samples(30_000) {
        let first_pass = decoder(sample.compression, &sample.bytes);
        let (_, checkpoints) = super::decode_with_checkpoints(first_pass, 10_000);
        let last = checkpoints.last().unwrap();
        let start = usize::try_from(last.compressed_offset).unwrap();
        let expected = &sample.data[usize::try_from(last.output_offset).unwrap()..];
        // A gzip checksum cannot be compared from the middle of its member; that must not panic.
        let inside_gzip = sample.compression == Compression::Gzip && last.state != Resume::Start;
        let checked = !UNCHECKED.contains(&sample.name) && !inside_gzip;
        for index in (start..sample.bytes.len()).step_by(97) {
            let mut rest = sample.bytes[start..].to_vec();
            rest[index - start] ^= 0x10;
            let resumed = Decoder::resume(sample.compression, Box::new(Cursor::new(rest)), last);
            let out = resumed.and_then(decode_all);
            assert!(
                !checked || out.is_err() || out.is_ok_and(|out| expected.starts_with(&out)),
                "{} flipped at {index}",
                sample.name
            );
        }
    }
}

#[test]
fn a_gzip_trailer_that_lies_is_refused() {
    let bytes = gzip(b"data", 6);
    let (crc, len) = (bytes.len() - 8, bytes.len() - 4);
    for (index, expected) in [(crc, "wrong CRC-32"), (len, "wrong length")] {
        let mut bytes = bytes.clone();
        bytes[index] ^= 1;
        assert!(reason(Compression::Gzip, &bytes).starts_with(expected));
    }
}

#[test]
fn a_gzip_header_with_unknown_flags_is_refused() {
    let mut bytes = gzip(b"data", 6);
    bytes[3] = 0x20;
    assert_eq!(reason(Compression::Gzip, &bytes), "unknown header flags 0x20");
}

#[test]
fn a_gzip_header_is_compared_with_its_checksum() {
    let plain = gzip(b"data", 6);
    let mut header = plain[..10].to_vec();
    header[3] = 0x02;
    let found = crc32(&header);
    let with_crc = |crc: u32| [&header, &crc.to_le_bytes()[..2], &plain[10..]].concat();
    assert_eq!(decode_all(decoder(Compression::Gzip, &with_crc(found))).unwrap(), b"data");
    let wrong = reason(Compression::Gzip, &with_crc(!found));
    assert_eq!(wrong, "the header checksum does not match");
}

#[test]
fn x9_a_zstd_window_over_the_limit_is_refused() {
    // One raw block of one byte, in a frame with window descriptor `window`.
    let frame = |window: u8| [&[0x28, 0xb5, 0x2f, 0xfd, 0, window][..], &[9, 0, 0, b'x']].concat();
    // The exponent is in the upper five bits, and counts from 10.
    let window_log = |log: u8| frame((log - 10) << 3);
    assert_eq!(decode_all(decoder(Compression::Zstd, &window_log(27))).unwrap(), b"x");
    let refused = reason(Compression::Zstd, &window_log(28));
    assert_eq!(refused, "the window is larger than 128 MiB (2^27 bytes)");
}

#[test]
fn x9_an_xz_dictionary_over_the_limit_is_refused() {
    // The block header follows 12 bytes of stream header: size, flags, LZMA2, one property byte.
    let with_dictionary = |code: u8| {
        let mut bytes = xz(b"data", Check::Crc64);
        assert_eq!(bytes[12..16], [2, 0, 0x21, 1]);
        bytes[16] = code;
        let crc = crc32(&bytes[12..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        decode_all(decoder(Compression::Xz, &bytes))
    };
    // 256 MiB is code 32.
    assert_eq!(with_dictionary(32).unwrap(), b"data");
    match with_dictionary(33) {
        Err(StreamFault::Limit { value, max, .. }) => assert_eq!((value, max), (384 << 20, 256 << 20)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_xz_index_that_lies_is_refused() {
    let mut bytes = xz(b"data", Check::Crc64);
    // Index: indicator, one record, unpadded size, length, checksum; then 12 bytes of footer.
    let index = bytes.len() - 12 - 8;
    assert_eq!((bytes[index..index + 2].to_vec(), bytes[index + 3]), (vec![0, 1], 4));
    bytes[index + 3] = 5;
    let crc = crc32(&bytes[index..index + 4]);
    bytes[index + 4..index + 8].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(reason(Compression::Xz, &bytes), "the index does not match the blocks");
}

#[test]
fn another_format_is_refused_by_name() {
    let bytes = gzip(b"data", 6);
    for compression in [Compression::Zstd, Compression::Xz, Compression::Bzip2] {
        assert_eq!(reason(compression, &bytes), "wrong signature");
    }
}

#[test]
fn a_checkpoint_of_another_format_is_refused() {
    let state = Resume::Inside { note: 3, window: Vec::new() };
    let checkpoint = Checkpoint { output_offset: 1, compressed_offset: 1, state };
    assert!(Decoder::resume(Compression::Zstd, Box::new(io::empty()), &checkpoint).is_err());
}

#[test]
fn a_checkpoint_that_makes_no_sense_is_refused() {
    for (compression, state) in [
        (Compression::Gzip, Resume::Inside { note: 8, window: Vec::new() }),
        (Compression::Gzip, Resume::Inside { note: 1, window: Vec::new() }),
        (Compression::Xz, Resume::Inside { note: 2, window: Vec::new() }),
        (Compression::Xz, Resume::Inside { note: 4, window: vec![0] }),
    ] {
        let checkpoint = Checkpoint { output_offset: 1, compressed_offset: 1, state };
        let resumed = Decoder::resume(compression, Box::new(io::empty()), &checkpoint);
        assert!(matches!(resumed, Err(StreamFault::Decompress { offset: 1, .. })));
    }
}

#[test]
fn a_decoder_that_failed_stays_failed() {
    let mut bytes = [gzip(b"data", 6), gzip(b"more", 6)].concat();
    let crc = gzip(b"data", 6).len() - 8;
    bytes[crc] ^= 1;
    let mut decoder = decoder(Compression::Gzip, &bytes);
    for _ in 0..3 {
        assert!(decoder.decode(&mut Vec::new(), 100, 100).is_err());
    }
}

#[test]
fn a_reader_that_fails_is_an_io_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }
    let mut decoder = Decoder::new(Compression::Gzip, Box::new(Broken)).unwrap();
    let error = decoder.decode(&mut Vec::new(), 1, 1).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the stream at offset 0"), "{error}");
}
