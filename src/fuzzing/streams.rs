//! Compressed streams: random access returns the bytes of a full decode, of a second decoder, and of the data
//! that was compressed.

use std::io::{Cursor, Read, Write as _};
use std::sync::Arc;

use super::input::{Choices, split};
use super::mutate::{self, Mutation, Plain, Random};
use crate::compress::{Checkpoint, Compression, Decoder, DecoderMemory, Seekable, Stop};
use crate::error::StreamResult;
use crate::layer::samples::compressed;
use crate::read_at::ReadAt as _;

/// Most output of a stream that is decoded; what follows is not looked at.
const MOST_OUTPUT_BYTES: usize = 1 << 20;
const COMPRESSED: [Compression; 4] =
    [Compression::Gzip, Compression::Zstd, Compression::Xz, Compression::Bzip2];

pub(super) fn mutation(data: &mut Vec<u8>, random: &mut Random, plain: &mut Plain<'_>) {
    mutate::parts(data, random, plain, |_| -> Mutation { mutate::bytes });
}

/// Parts: choices, then pieces. Either the pieces are data, and each is compressed as a frame, member, stream or
/// block of its own; or they are the compressed stream itself.
pub(super) fn run(data: &[u8]) {
    let parts = split(data);
    let Some((first, pieces)) = parts.split_first() else { return };
    let mut choices = Choices::new(first);
    let compression = *choices.pick(&COMPRESSED);
    let is_data = choices.flag();
    let soft = usize::from(choices.short()) + 1;
    let Ok((out, checkpoints, is_whole)) = (if is_data {
        let stream =
            pieces.iter().map(|piece| frame(compression, piece, choices.byte())).collect::<Vec<_>>().concat();
        let decoded = decode(compression, &stream, soft);
        if !stream.is_empty() {
            let (out, _, is_whole) = decoded.as_ref().expect("what an encoder writes can be read");
            assert!(out.starts_with(&pieces.concat()) || !is_whole, "not the data that was compressed");
        }
        decoded.inspect(|decoded| random_access(compression, &stream, decoded, &mut choices))
    } else {
        let stream = pieces.concat();
        let decoded = decode(compression, &stream, soft);
        in_small_steps(compression, &stream, &decoded);
        second_decoder(compression, &stream, &decoded);
        decoded.inspect(|decoded| random_access(compression, &stream, decoded, &mut choices))
    }) else {
        return;
    };
    assert!(!is_whole || checkpoints.iter().all(|checkpoint| checkpoint.output_offset <= out.len() as u64));
}

/// Output, checkpoints, and whether this is all of the stream.
type Decoded = (Vec<u8>, Vec<Checkpoint>, bool);

fn frame(compression: Compression, piece: &[u8], choice: u8) -> Vec<u8> {
    match (compression, choice % 3) {
        (Compression::Zstd, 1) => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(piece).unwrap();
            encoder.finish().unwrap()
        }
        (Compression::Gzip, 1 | 2) => {
            let level = flate2::Compression::new(u32::from(choice / 3 % 2) * 9);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            for part in piece.chunks(piece.len() / 3 + 1) {
                encoder.write_all(part).unwrap();
                encoder.flush().unwrap();
            }
            encoder.finish().unwrap()
        }
        _ => compressed(compression, piece),
    }
}

fn decoder(compression: Compression, stream: &[u8]) -> StreamResult<Decoder> {
    Decoder::new(compression, Box::new(Cursor::new(stream.to_vec())))
}

fn decode(compression: Compression, stream: &[u8], soft: usize) -> StreamResult<Decoded> {
    let mut decoder = decoder(compression, stream)?;
    let mut out = Vec::new();
    let mut checkpoints = Vec::from_iter(decoder.checkpoint());
    while out.len() < MOST_OUTPUT_BYTES {
        let before = out.len();
        let stop = decoder.decode(&mut out, soft, soft.saturating_mul(4))?;
        assert_eq!(decoder.output_offset(), out.len() as u64);
        assert!(out.len() - before <= soft.saturating_mul(4), "more than was asked for");
        match stop {
            Stop::End => {
                assert!(decoder.trailing_bytes() <= stream.len() as u64);
                return Ok((out, checkpoints, true));
            }
            Stop::Boundary => checkpoints.extend(decoder.checkpoint()),
            Stop::Full => assert!(out.len() - before == soft.saturating_mul(4)),
        }
        if checkpoints.len() > 64 {
            checkpoints.drain(1..32);
        }
    }
    Ok((out, checkpoints, false))
}

/// Decodes byte by byte from a reader that returns few bytes at a time.
fn in_small_steps(compression: Compression, stream: &[u8], whole: &StreamResult<Decoded>) {
    struct Drip(Cursor<Vec<u8>>);
    impl Read for Drip {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let len = buf.len().min(3);
            self.0.read(&mut buf[..len])
        }
    }
    let Ok(mut decoder) = Decoder::new(compression, Box::new(Drip(Cursor::new(stream.to_vec())))) else {
        assert!(whole.is_err(), "the size of reads counts");
        return;
    };
    let (mut out, mut steps) = (Vec::new(), 0);
    let result = loop {
        let len = [1, 7, 512, 40_000][steps % 4];
        steps += 1;
        match decoder.decode(&mut out, len, len) {
            Ok(Stop::End) => break Ok(()),
            Ok(_) if out.len() > MOST_OUTPUT_BYTES => return,
            Ok(_) => {}
            Err(fault) => break Err(fault),
        }
    };
    match (whole, result) {
        (Ok((wanted, _, true)), Ok(())) => assert!(out == *wanted, "the size of steps counts"),
        // zlib reports the same damage at another place, and in other words, if its output is full.
        (Err(_), Err(_)) => {}
        (Ok((_, _, false)), _) => {}
        (whole, found) => panic!("{:?}, in small steps {found:?}", whole.as_ref().map(|(out, ..)| out.len())),
    }
}

/// Decodes with another implementation, or with another way to call the library. What both accept is the same.
fn second_decoder(compression: Compression, stream: &[u8], decoded: &StreamResult<Decoded>) {
    let Ok((wanted, _, true)) = decoded else { return };
    let reader: Box<dyn Read + '_> = match compression {
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        Compression::Zstd => {
            let Ok(mut reader) = zstd::Decoder::new(stream) else { return };
            // As in the decoder under test.
            let _ = reader.window_log_max(27);
            Box::new(reader)
        }
        Compression::Xz => Box::new(liblzma::read::XzDecoder::new_multi_decoder(stream)),
        _ => Box::new(bzip2::read::MultiBzDecoder::new(stream)),
    };
    let mut found = Vec::new();
    // The others refuse bytes after the last frame, which are tolerated here (Z4), but by then they have
    // returned what came before.
    let result = reader.take(2 * MOST_OUTPUT_BYTES as u64).read_to_end(&mut found);
    let same = if result.is_ok() { found == *wanted } else { wanted.starts_with(&found) };
    assert!(same, "the second decoder returns {} bytes, {result:?}, and not {}", found.len(), wanted.len());
}

fn random_access(compression: Compression, stream: &[u8], decoded: &Decoded, choices: &mut Choices<'_>) {
    let (out, checkpoints, _) = decoded;
    let input = Arc::new(stream.to_vec());
    let (len_bytes, table) = (out.len() as u64, Arc::new(checkpoints.clone()));
    let seekable = Seekable::new(input, compression, len_bytes, table, DecoderMemory::alone());
    for _ in 0..6 {
        let start = usize::from(choices.short()) * 31 % (out.len() + 1);
        let len = usize::from(choices.short()) * 7 % (out.len() - start + 1);
        let mut buf = vec![0xaa; len];
        seekable.read_exact_at(&mut buf, start as u64).expect("what was decoded can be read again");
        assert!(buf == out[start..start + len], "{len} bytes at {start} of {}", out.len());
    }
    let mut past = [0];
    assert!(seekable.read_exact_at(&mut past, out.len() as u64).is_err());
}
