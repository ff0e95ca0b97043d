//! The memory of decoders: one budget for all streams, and work that waits for its turn.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

use super::super::{Checkpoint, Compression, DecoderMemory, Patience, Seekable};
use super::streams::mixed;
use crate::read_at::ReadAt;

/// The window of each stream, as a power of two: 16 MiB.
const WINDOW_LOG: u32 = 24;

/// Returns a zstd stream of `data` that needs a window of 16 MiB.
fn with_window(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(WINDOW_LOG)).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn streams(count: usize, data: &[u8], memory: &Arc<DecoderMemory>) -> Vec<Seekable> {
    let bytes = Arc::new(with_window(data));
    let table = || Arc::new(Vec::<Checkpoint>::new());
    let stream =
        |_| Seekable::new(bytes.clone(), Compression::Zstd, data.len() as u64, table(), Arc::clone(memory));
    (0..count).map(stream).collect()
}

#[test]
fn x9_idle_decoders_of_all_streams_have_one_budget() {
    // Each stream kept its decoders: 24 layers of 201 KB in all held 3.2 GB.
    let data = mixed(200_000);
    let memory = DecoderMemory::new(40 << 20, 100 << 20);
    let streams = streams(24, &data, &memory);
    let mut buf = [0; 1000];
    for stream in &streams {
        stream.read_exact_at(&mut buf, 70_000).unwrap();
        assert!(buf[..] == data[70_000..71_000]);
        assert!(memory.held_bytes() <= 40 << 20, "{} bytes", memory.held_bytes());
    }
    assert!(memory.held_bytes() > 32 << 20, "two decoders are kept");
    // The reads go on, whether or not their decoder was kept.
    for stream in &streams {
        stream.read_exact_at(&mut buf, 71_000).unwrap();
        assert!(buf[..] == data[71_000..72_000]);
    }
    drop(streams);
    assert_eq!(memory.held_bytes(), 0, "a stream that is closed leaves no decoder");
}

#[test]
fn the_decoder_that_was_used_last_is_kept_however_large_it_is() {
    let data = mixed(200_000);
    let memory = DecoderMemory::new(1 << 20, 1 << 20);
    let streams = streams(3, &data, &memory);
    for stream in &streams {
        stream.read_exact_at(&mut [0; 1000], 0).unwrap();
    }
    assert!((16 << 20..32 << 20).contains(&memory.held_bytes()), "{} bytes", memory.held_bytes());
}

#[test]
fn decoders_in_use_wait_for_memory_and_one_may_always_work() {
    let memory = DecoderMemory::new(0, 100);
    let (mut first, mut second) = (memory.begin(), memory.begin());
    assert!(first.grow(70, Patience::None) && second.grow(30, Patience::None));
    assert!(!second.grow(31, Patience::None));
    assert_eq!(memory.held_bytes(), 100);
    let (waiting, released) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut third = memory.begin();
            waiting.send(()).unwrap();
            assert!(third.grow(90, Patience::Long));
            assert_eq!(memory.held_bytes(), 90);
        });
        released.recv().unwrap();
        drop(first);
        drop(second);
    });
    assert_eq!(memory.held_bytes(), 0);
    let mut alone = memory.begin();
    assert!(alone.grow(500, Patience::None), "no other decoder holds memory");
}
