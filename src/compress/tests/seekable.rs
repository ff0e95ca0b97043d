//! Random access returns the same bytes as slicing, with one or several readers, and reading forward does not
//! restart decoding.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::super::{Checkpoint, DecoderMemory, Seekable};
use super::streams::{LARGE, Sample, gzip, mixed, samples, zstd};
use super::{Compression, decode_with_checkpoints, decoder};
use crate::error::StreamFault;
use crate::read_at::{ReadAt, read_to_vec};

/// A seekable stream over `sample`, with a checkpoint about every `soft` bytes.
fn seekable(sample: &Sample, soft: usize) -> Seekable {
    let (_, checkpoints) = decode_with_checkpoints(decoder(sample.compression, &sample.bytes), soft);
    let input = Arc::new(sample.bytes.clone());
    Seekable::new(
        input,
        sample.compression,
        sample.data.len() as u64,
        Arc::new(checkpoints),
        DecoderMemory::alone(),
    )
}

fn read(from: &Seekable, offset: usize, len_bytes: usize) -> Vec<u8> {
    let mut buf = vec![0xaa; len_bytes];
    from.read_exact_at(&mut buf, offset as u64).unwrap();
    buf
}

#[test]
fn f10_any_part_of_any_stream_equals_the_slice() {
    for sample in LARGE.iter() {
        let seekable = seekable(sample, 100_000);
        for step in 0..24_usize {
            // Back and forth, in steps that share no factor with other sizes.
            let offset = step * 786_433 % sample.data.len();
            let len_bytes = (step * 39_119 % 400_000).min(sample.data.len() - offset);
            let expected = &sample.data[offset..offset + len_bytes];
            assert!(read(&seekable, offset, len_bytes) == expected, "{} at {offset}", sample.name);
        }
    }
}

#[test]
fn several_threads_read_at_once() {
    let data = mixed(1 << 20);
    let sample = Sample { name: "gzip", compression: Compression::Gzip, bytes: gzip(&data, 6), data };
    let seekable = seekable(&sample, 64 << 10);
    thread::scope(|scope| {
        for reader in 0..8_usize {
            let (seekable, data) = (&seekable, &sample.data);
            scope.spawn(move || {
                for step in 0..60 {
                    let offset = (reader * 131_071 + step * 17_389) % (data.len() - 20_000);
                    assert!(read(seekable, offset, 20_000) == data[offset..offset + 20_000]);
                }
            });
        }
    });
}

#[test]
fn reading_forward_without_checkpoints_decodes_once_for_each_reader() {
    let data = mixed(1 << 20);
    let bytes = zstd(&data);
    let input = Arc::new(Counted { bytes: bytes.clone(), read: AtomicU64::new(0) });
    let table = Arc::new(Vec::<Checkpoint>::new());
    let seekable =
        Seekable::new(input.clone(), Compression::Zstd, data.len() as u64, table, DecoderMemory::alone());
    for offset in (0..data.len()).step_by(4096) {
        for reader in 0..3 {
            // Three readers, each a third of the stream behind the previous one.
            let offset = (offset + reader * data.len() / 3) % data.len();
            let len_bytes = 4096.min(data.len() - offset);
            assert!(read(&seekable, offset, len_bytes) == data[offset..offset + len_bytes]);
        }
    }
    let read = input.read.load(Ordering::Relaxed);
    // Each of the three starts one decoder, and two of them another one when they wrap around to the start.
    assert!(read <= 5 * bytes.len() as u64, "{read} of {} bytes", bytes.len());
}

#[test]
fn past_the_end_there_is_nothing_to_read() {
    let data = mixed(5000);
    let sample = Sample { name: "gzip", compression: Compression::Gzip, bytes: gzip(&data, 6), data };
    let seekable = seekable(&sample, 1000);
    for (offset, len_bytes) in [(4999, 2), (5000, 1), (u64::MAX, 1)] {
        let error = seekable.read_exact_at(&mut vec![0; len_bytes], offset).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    seekable.read_exact_at(&mut [], 5000).unwrap();
}

#[test]
fn a_stream_shorter_than_promised_is_an_error_and_not_a_short_read() {
    let table = Arc::new(Vec::<Checkpoint>::new());
    let seekable =
        Seekable::new(Arc::new(gzip(b"data", 6)), Compression::Gzip, 100, table, DecoderMemory::alone());
    let error = seekable.read_exact_at(&mut [0; 50], 2).unwrap_err();
    let inner = error.into_inner().unwrap().downcast::<StreamFault>().unwrap();
    assert!(matches!(*inner, StreamFault::Decompress { format: "gzip", .. }), "{inner}");
}

#[test]
fn a_damaged_part_is_an_error_and_the_rest_still_reads() {
    let data = mixed(900_000);
    let mut bytes: Vec<u8> = data.chunks(300_000).flat_map(|part| gzip(part, 6)).collect();
    let sample = Sample { name: "gzip", compression: Compression::Gzip, bytes: bytes.clone(), data };
    let (_, checkpoints) = decode_with_checkpoints(decoder(Compression::Gzip, &bytes), 300_000);
    let second = usize::try_from(checkpoints[1].compressed_offset).unwrap();
    // The second member has no magic.
    bytes[second] = 0;
    let seekable = Seekable::new(
        Arc::new(bytes),
        Compression::Gzip,
        900_000,
        Arc::new(checkpoints),
        DecoderMemory::alone(),
    );
    assert!(seekable.read_exact_at(&mut [0; 10], 300_000).is_err());
    assert!(read(&seekable, 0, 300_000) == sample.data[..300_000]);
    assert!(read(&seekable, 600_000, 300_000) == sample.data[600_000..]);
}

#[test]
fn f10_a_seekable_stream_inside_another() {
    let data = mixed(200_000);
    let layer = zstd(&data);
    let archive = Sample { name: "", compression: Compression::Gzip, bytes: gzip(&layer, 6), data: layer };
    let outer = Arc::new(seekable(&archive, 10_000));
    let table = Arc::new(Vec::<Checkpoint>::new());
    let inner = Seekable::new(outer, Compression::Zstd, data.len() as u64, table, DecoderMemory::alone());
    assert!(read_to_vec(&inner).unwrap() == data);
}

proptest! {
    #![proptest_config(crate::seed::config(24))]

    #[test]
    fn any_read_of_any_stream_equals_the_slice(
        len_bytes in 1_usize..20_000,
        soft in 1_usize..8_000,
        reads in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64), 1..6),
    ) {
        for sample in samples(len_bytes) {
            let seekable = seekable(&sample, soft);
            for &(from, to) in &reads {
                let [mut start, mut end] = [from, to].map(|part| share(len_bytes, part));
                if start > end {
                    std::mem::swap(&mut start, &mut end);
                }
                prop_assert!(read(&seekable, start, end - start) == sample.data[start..end], "{}", sample.name);
            }
        }
    }
}

/// Returns `part` (0 to 1) of `len_bytes`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "small and not negative"
)]
fn share(len_bytes: usize, part: f64) -> usize {
    (len_bytes as f64 * part) as usize
}

/// Counts the bytes that are read from it.
#[derive(Debug)]
struct Counted {
    bytes: Vec<u8>,
    read: AtomicU64,
}

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.bytes.read_exact_at(buf, offset)
    }
}
