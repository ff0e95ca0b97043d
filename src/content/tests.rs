use super::*;
use crate::compress::{Compression, DecoderMemory, Patience};
use crate::error::Subject;
use crate::layer::entry::{Extent, Segment};
use crate::layer::growth::Growth;
use crate::layer::index::{Expected, Request, Verify, index_layer};
use crate::layer::stored::StoredIndex;
use crate::limits::Limits;

const LAYER: Subject = Subject::Layer { number: 0, diff_id: None };

/// Returns 5 MiB in which every 8 bytes contain their position.
fn content() -> Vec<u8> {
    (0..5_u64 << 17).flat_map(u64::to_le_bytes).collect()
}

/// Returns a layer of one file, and the extent of its bytes in the tar.
fn layer(content: &[u8], cache_bytes: usize, ahead: bool) -> (Arc<LayerBytes>, Extent) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    builder.append_data(&mut header, "file", content).unwrap();
    let tar = builder.into_inner().unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    io::Write::write_all(&mut encoder, &tar).unwrap();
    let blob: Arc<dyn ReadAt> = Arc::new(encoder.finish().unwrap());
    let indexed = index_layer(Request {
        bytes: blob.clone(),
        what: &LAYER,
        compression: Some(Compression::Gzip),
        expected: Expected::default(),
        verify: Verify::Full,
        limits: Limits::default(),
        scratch: None,
        progress: &|_| {},
        observer: None,
        growth: &Growth::new(1 << 20, Limits::default()),
        decoders: &DecoderMemory::alone(),
        patience: Patience::Long,
    });
    let index = StoredIndex::from_pass(indexed.unwrap()).unwrap();
    let reader = LayerReader::new(LAYER, index, blob, Verify::Full, DecoderMemory::alone());
    let read_ahead = ahead.then(|| Arc::new(ReadAhead::new(4)));
    let bytes = LayerBytes::new(reader, Arc::new(SpanCache::new(cache_bytes)), read_ahead);
    (Arc::new(bytes), Extent { offset: 512, len_bytes: content.len() as u64 })
}

fn read(layer: &Arc<LayerBytes>, file: &FileData<'_>, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xAA; len];
    let filled = layer.read_file(file, &mut buf, offset).unwrap();
    buf.truncate(filled);
    buf
}

#[test]
fn any_part_of_a_file_is_the_slice_of_its_content() {
    let content = content();
    // A cache of less than one span: every read decodes again.
    for (cache_bytes, ahead) in [(1, false), (64 << 20, true)] {
        let (layer, extent) = layer(&content, cache_bytes, ahead);
        let file = FileData { size: extent.len_bytes, stored: Stored::Contiguous(extent) };
        for offset in [0, 1, 511, 1 << 20, (1 << 20) - 1, (3 << 20) + 7, (5 << 20) - 1, 5 << 20, 6 << 20] {
            for len in [0, 1, 4096, 3 << 20] {
                let start = offset.min(content.len());
                let end = (offset + len).min(content.len());
                assert!(read(&layer, &file, offset as u64, len) == content[start..end], "{offset}, {len}");
            }
        }
    }
}

#[test]
fn m14_holes_are_zeros_wherever_a_read_begins() {
    let content = content();
    let (layer, extent) = layer(&content, 64 << 20, false);
    let segment = |file_offset, from: u64, len_bytes| Segment {
        file_offset,
        extent: Extent { offset: extent.offset + from, len_bytes },
    };
    // A hole, data, a hole, two touching segments, a hole.
    let segments = [segment(100, 0, 50), segment(300, 50, 10), segment(310, 60, 40)];
    let file = FileData { size: 500, stored: Stored::Sparse(segments[..].into()) };
    let mut expected = vec![0; 500];
    expected[100..150].copy_from_slice(&content[..50]);
    expected[300..350].copy_from_slice(&content[50..100]);
    for offset in 0..500 {
        for len in [1, 49, 160, 500] {
            let end = (offset + len).min(500);
            assert_eq!(read(&layer, &file, offset as u64, len), expected[offset..end], "{offset}, {len}");
        }
    }
}

#[test]
fn a_file_that_claims_more_than_its_layer_holds_is_an_error() {
    let (layer, extent) = layer(b"short", 1 << 20, false);
    let stored = Stored::Contiguous(Extent { offset: extent.offset, len_bytes: 1 << 40 });
    let file = FileData { size: 1 << 40, stored };
    let error = layer.read_file(&file, &mut [0; 10], 1 << 30).unwrap_err();
    assert!(error.to_string().contains("cannot read layer 0 at offset"), "{error}");
}

/// Waits until `so` is true, for the work of other threads.
fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn whoever_follows_a_course_finds_what_comes_next_decoded_and_no_more_than_the_window() {
    let content: Vec<u8> = content().repeat(4);
    let (layer, extent) = layer(&content, 64 << 20, true);
    let spans = layer.reader.index().span_count();
    let depth = u32::try_from(layer.read_ahead().unwrap().depth()).unwrap();
    assert!(depth + 2 < spans, "{spans} spans");
    let scheduled = [ScheduledExtent { place: 7, layer: &layer, extent }];
    let schedule = Schedule::new(layer.read_ahead().cloned(), scheduled.into_iter());
    let mut read = Vec::new();
    let read_on = layer.read_extent(extent, (&schedule, 7), &mut |offset, bytes| {
        let at = layer.reader.index().span_at(extent.offset + offset).unwrap();
        let window = at + 1..(at + 1 + depth).min(spans);
        until("what comes next is decoded", || window.clone().all(|span| layer.has(span)));
        assert!((window.end..spans).all(|span| !layer.has(span)), "more than the window at {at}");
        let passed = (0..at).filter(|span| layer.has(*span)).count();
        assert!(passed <= 3, "{passed} spans are kept of those that were passed");
        read.extend_from_slice(bytes);
        Ok(())
    });
    read_on.unwrap();
    assert!(read == content);
}

#[test]
fn reading_ahead_never_takes_more_than_half_of_the_cache() {
    let content: Vec<u8> = content().repeat(4);
    // Room for two of the eight spans that four threads decode ahead.
    let (layer, extent) = layer(&content, 5 << 20, true);
    let scheduled = [ScheduledExtent { place: 0, layer: &layer, extent }];
    let schedule = Schedule::new(layer.read_ahead().cloned(), scheduled.into_iter());
    let mut read = Vec::new();
    let read_on = layer.read_extent(extent, (&schedule, 0), &mut |_, bytes| {
        let here = (0..layer.reader.index().span_count()).filter(|span| layer.has(*span)).count();
        assert!(here <= 5, "{here} spans of more than 1 MiB");
        read.extend_from_slice(bytes);
        Ok(())
    });
    read_on.unwrap();
    assert!(read == content);
}

#[test]
fn a_course_through_a_layer_without_threads_or_past_its_end_changes_nothing() {
    let content = content();
    let (layer, extent) = layer(&content, 1, false);
    let longer = Extent { len_bytes: 1 << 40, ..extent };
    let scheduled = [ScheduledExtent { place: 0, layer: &layer, extent: longer }];
    let schedule = Schedule::new(layer.read_ahead().cloned(), scheduled.into_iter());
    let mut len = 0;
    let error = layer.read_extent(longer, (&schedule, 0), &mut |_, bytes| {
        len += bytes.len();
        Ok(())
    });
    assert!(error.unwrap_err().to_string().contains("cannot read layer 0 at offset"));
    assert!(len >= content.len());
}

#[test]
fn threads_start_when_there_is_something_to_do_and_are_as_many_as_allowed() {
    let content: Vec<u8> = content().repeat(4);
    let (layer, extent) = layer(&content, 64 << 20, true);
    let file = FileData { size: extent.len_bytes, stored: Stored::Contiguous(extent) };
    assert_eq!(layer.read_ahead().unwrap().threads(), 0);
    // Random reads: nothing is predicted.
    for offset in [9 << 20, 1 << 20, 15 << 20] {
        read(&layer, &file, offset, 4096);
    }
    assert_eq!(layer.read_ahead().unwrap().threads(), 0);
    read(&layer, &file, 0, content.len());
    assert!((1..=4).contains(&layer.read_ahead().unwrap().threads()));
}

#[test]
fn a_sequential_reader_finds_the_next_span_decoded() {
    let content = content();
    let (layer, extent) = layer(&content, 64 << 20, true);
    let file = FileData { size: extent.len_bytes, stored: Stored::Contiguous(extent) };
    read(&layer, &file, 0, 1);
    let second = layer.reader.index().span(1).unwrap().extent.offset;
    read(&layer, &file, second, 1);
    until("span 2 is read ahead", || layer.cache.has((layer.number, 2)));
}
