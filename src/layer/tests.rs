use std::sync::Arc;

use super::entry::{Entry, EntryKind, Extent, FileData, Meta, Segment, Stored, Xattrs};
use super::growth::Growth;
use super::index::{Expected, Indexed, Request, Scratch, Verify, index_layer};
use super::reader::LayerReader;
use super::samples::{
    ALL, LAYER, compressed, expected, gzip, index, names, read_all, read_span, request, sample_tar, scratch,
};
use super::stored::StoredIndex;
use super::table::{CheckpointKind, CheckpointRecord, IndexBuilder, LayerFacts, LayerIndex};
use crate::bytes::checksum;
use crate::compress::{Compression, DecoderMemory};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, Property, Result};
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

#[test]
fn every_span_of_every_compression_reads_back() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        for scratch in [None, Some(scratch())] {
            let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, scratch).unwrap();
            let found = StoredIndex::from_pass(found).unwrap();
            assert_eq!(names(&found), ["first", "large", "last"]);
            assert!(found.index.span_count() > 3);
            assert!(read_all(found, blob.clone(), Verify::Full).unwrap() == tar, "{compression}");
        }
    }
}

/// Frames that end anywhere, also exactly where a span would end.
#[test]
fn where_a_frame_begins_a_span_can_be_entered_and_no_copy_is_made() {
    let tar = sample_tar();
    let frames = [
        (Compression::Zstd, 10_007),
        (Compression::Zstd, 1 << 20),
        (Compression::Zstd, (1 << 20) + 1),
        (Compression::Zstd, 2_500_000),
        (Compression::Xz, 2_500_000),
        (Compression::Bzip2, 900_000),
    ];
    for (compression, frame_bytes) in frames {
        let pieces = tar.chunks(frame_bytes).map(|piece| compressed(compression, piece));
        let blob = pieces.collect::<Vec<_>>().concat();
        let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, Some(scratch())).unwrap();
        let found = StoredIndex::from_pass(found).unwrap();
        let about = format!("{compression}, frames of {frame_bytes} bytes");
        assert_eq!(found.index.facts().copy_bytes, 0, "{about}");
        let spans = (0..found.index.span_count()).filter_map(|at| found.index.span(at));
        assert!(spans.into_iter().all(|span| span.extent.len_bytes <= 1 << 20), "{about}");
        assert!(read_all(found, blob, Verify::Full).unwrap() == tar, "{about}");
    }
}

#[test]
fn what_can_be_entered_anywhere_gets_no_copy() {
    let tar = sample_tar();
    for compression in [Compression::Plain, Compression::Gzip] {
        let blob = compressed(compression, &tar);
        let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, Some(scratch())).unwrap();
        assert!(found.copy.is_none(), "{compression}");
    }
}

/// The checksum detects accidental damage only, so a forged index may have a valid one.
#[test]
fn x16_a_forged_index_is_refused_or_can_be_read() {
    let mut builder = IndexBuilder::default();
    let mut packed = Vec::new();
    Xattrs::pack(&mut packed, b"user.a", b"1");
    let segment = Segment { file_offset: 1, extent: Extent { offset: 512, len_bytes: 9 } };
    let sparse = FileData { size: 99, stored: Stored::Sparse(vec![segment].into()) };
    for kind in [EntryKind::Directory, EntryKind::Symlink(b"to"), EntryKind::File(sparse)] {
        let (meta, xattrs) = (Meta::default(), Xattrs::from_packed(&packed));
        builder.push_entry(&Entry { header_offset: 0, name: b"name", kind, meta, xattrs }).unwrap();
    }
    builder.push_span(0, Some([1; 32]), Some(Extent { offset: 0, len_bytes: 10 }));
    builder.push_span(1024, Some([2; 32]), None);
    builder.push_warning(WarningKind::Damaged, b"name");
    let facts = LayerFacts {
        diff_id: Some(Algorithm::Sha256.digest(b"")),
        blob_digest: None,
        blob_bytes: 2048,
        compression: Compression::Gzip,
        tar_bytes: 2048,
        copy_bytes: 10,
    };
    let mut whole = Vec::new();
    builder.finish(facts).write_to(&mut whole).unwrap();
    LayerIndex::from_bytes(whole.clone(), &LAYER).unwrap();
    let (mut refused, mut read) = (0, 0);
    for at in 0..whole.len() {
        for value in [0, 1, 2, 3, 0x7f, 0xff] {
            let mut forged = whole.clone();
            forged[at] = value;
            let sum = checksum(&forged[..352], &forged[384..]);
            forged[352..384].copy_from_slice(&sum);
            let Ok(index) = LayerIndex::from_bytes(forged, &LAYER) else {
                refused += 1;
                continue;
            };
            let entries = index.entries().map(|(_, entry)| format!("{entry:?}").len()).sum::<usize>();
            assert!(entries < 100_000, "byte {at} as {value}");
            for place in [0, 1, 1023, 1024, 2047, 2048, u64::MAX] {
                let _ = (index.span_at(place).map(|span| index.span(span)), index.checkpoint_at(place));
            }
            let _ = (index.warnings().count(), index.checkpoint(0));
            read += 1;
        }
    }
    assert!(refused > 100 && read > 100, "{refused} refused, {read} read");
}

/// The reason of the refusal; the offsets of spans, and of checkpoints; an entry.
type Case<'a> = (&'a str, &'a [u64], &'a [(u64, u64)], EntryKind<'a>);

/// A length of a span was allocated whatever it was, and a span without bytes was read for ever.
#[test]
fn x16_false_contents_with_a_right_checksum_are_refused() {
    let file = |offset: u64, len_bytes: u64| {
        EntryKind::File(FileData {
            size: len_bytes,
            stored: Stored::Contiguous(Extent { offset, len_bytes }),
        })
    };
    let sparse = |size: u64, parts: &[(u64, u64, u64)]| {
        let segment = |(file_offset, offset, len_bytes): &(u64, u64, u64)| Segment {
            file_offset: *file_offset,
            extent: Extent { offset: *offset, len_bytes: *len_bytes },
        };
        let segments: Vec<_> = parts.iter().map(segment).collect();
        EntryKind::File(FileData { size, stored: Stored::Sparse(segments.into()) })
    };
    let [spans, checkpoints] = ["the spans do not follow one another", "the checkpoints do not ascend"];
    let [end, outside] = ["the spans do not cover the tar", "a checkpoint lies outside the layer"];
    let [tar, ascend] = ["a file lies outside the tar", "the segments of a sparse file do not ascend"];
    let none = EntryKind::Directory;
    // A tar of 16 MiB in two spans, and what is false about it.
    let right = [0, 8 << 20];
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        ("", &right, &[(0, 0), (9, 9), (9, 10)], file(512, 7)),
        ("", &right, &[], sparse(1 << 40, &[(1, 512, 9), (10, 521, 1)])),
        (end, &[], &[], none.clone()),
        (end, &[0], &[], none.clone()),
        (end, &[0, 8 << 20, 16 << 20], &[], none.clone()),
        (spans, &[1, 8 << 20], &[], none.clone()),
        (spans, &[0, (8 << 20) + 1], &[], none.clone()),
        (spans, &[0, 0, 8 << 20], &[], none.clone()),
        (spans, &[0, 8 << 20, 5], &[], none.clone()),
        (spans, &[0, u64::MAX], &[], none.clone()),
        (checkpoints, &right, &[(9, 9), (8, 9)], none.clone()),
        (checkpoints, &right, &[(9, 9), (9, 8)], none.clone()),
        (outside, &right, &[((16 << 20) + 1, 0)], none.clone()),
        (outside, &right, &[(0, 1001)], none.clone()),
        (tar, &right, &[], file(16 << 20, 1)),
        (tar, &right, &[], file(512, u64::MAX)),
        (tar, &right, &[], sparse(99, &[(1, 16 << 20, 9)])),
        (ascend, &right, &[], sparse(99, &[(5, 512, 9), (13, 600, 1)])),
        ("the segments of a sparse file are not adjacent in the tar", &right, &[], sparse(99, &[(5, 512, 9), (14, 522, 1)])),
        (ascend, &right, &[], sparse(99, &[(91, 512, 9)])),
        (ascend, &right, &[], sparse(99, &[(5, 512, 0)])),
        (ascend, &right, &[], sparse(u64::MAX, &[(u64::MAX, 512, 9)])),
    ];
    for (number, (expected, spans, checkpoints, kind)) in cases.iter().enumerate() {
        let mut builder = IndexBuilder::default();
        let (kind, meta, xattrs) = (kind.clone(), Meta::default(), Xattrs::default());
        builder.push_entry(&Entry { header_offset: 0, name: b"name", kind, meta, xattrs }).unwrap();
        spans.iter().for_each(|offset| builder.push_span(*offset, Some([1; 32]), None));
        for (output_offset, compressed_offset) in *checkpoints {
            builder.push_checkpoint(&CheckpointRecord {
                output_offset: *output_offset,
                compressed_offset: *compressed_offset,
                kind: CheckpointKind::Start,
                window: Extent::default(),
                window_hash: [0; 8],
            });
        }
        let mut bytes = Vec::new();
        let facts = LayerFacts {
            diff_id: None,
            blob_digest: None,
            blob_bytes: 1000,
            compression: Compression::Gzip,
            tar_bytes: 16 << 20,
            copy_bytes: 0,
        };
        builder.finish(facts).write_to(&mut bytes).unwrap();
        let reason =
            LayerIndex::from_bytes(bytes, &LAYER).map_or_else(|fault| fault.to_string(), |_| String::new());
        assert!(
            if expected.is_empty() { reason.is_empty() } else { reason.ends_with(expected) },
            "{number}: {reason}"
        );
    }
}

fn assert_mismatch(result: Result<Indexed>, which: Property, expected: impl ToString, found: impl ToString) {
    match result {
        Err(Error::Mismatch { subject, property, expected: wanted, found: got }) => {
            assert_eq!((*subject, property), (LAYER, which));
            assert_eq!((wanted, got), (expected.to_string(), found.to_string()));
        }
        other => panic!("not a mismatch: {other:?}"),
    }
}

#[test]
fn a_wrong_diff_id_names_layer_expected_and_found() {
    let tar = sample_tar();
    let other: Digest = Algorithm::Sha256.digest(b"other");
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let wanted = Expected { diff_id: Some(other), ..expected(&tar, &blob) };
        let result = index(&blob, compression, wanted, Verify::Full, None);
        assert_mismatch(result, Property::DiffId, other, Algorithm::Sha256.digest(&tar));
    }
}

#[test]
fn damage_is_told_as_the_digest_that_does_not_match() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let wanted = expected(&tar, &blob);
        let digest = wanted.blob_digest.unwrap();
        let mut damaged = blob.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        let result = index(&damaged, compression, wanted, Verify::Full, None);
        // The blob of a plain layer is its tar, and the diff_id is compared.
        let which = if compression == Compression::Plain { Property::DiffId } else { Property::BlobDigest };
        assert_mismatch(result, which, digest, Algorithm::Sha256.digest(&damaged));
    }
}

#[test]
fn a_wrong_size_is_told_before_anything_is_read() {
    let tar = sample_tar();
    let blob = gzip(&tar);
    let wanted = expected(&tar, &blob);
    let result = index(&blob[..blob.len() - 1], Compression::Gzip, wanted, Verify::Full, None);
    let (whole, cut) = (blob.len(), blob.len() - 1);
    assert_mismatch(result, Property::Size, format!("{whole} bytes"), format!("{cut} bytes"));
}

#[test]
fn without_verification_a_damaged_layer_shows_what_can_be_had() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let cut = &blob[..blob.len() / 2];
        let found = index(cut, compression, expected(&tar, &blob), Verify::Off, None).unwrap();
        let warnings: Vec<WarningKind> = found.index.warnings().map(|warning| warning.kind).collect();
        assert_eq!(warnings, [WarningKind::Damaged], "{compression}");
        let found = StoredIndex::from_pass(found).unwrap();
        assert_eq!(names(&found), ["first", "large"]);
        let (_, first) = found.index.entries().next().unwrap();
        let EntryKind::File(FileData { stored: Stored::Contiguous(extent), .. }) = first.kind else {
            panic!("not a file: {first:?}");
        };
        let reader =
            LayerReader::new(LAYER, found, Arc::new(cut.to_vec()), Verify::Off, DecoderMemory::alone());
        let span = read_span(&reader, 0).unwrap();
        assert_eq!(span[usize::try_from(extent.offset).unwrap()], b'1');
    }
}

#[test]
fn x17_bytes_that_changed_since_are_never_served() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, None).unwrap();
        let found = StoredIndex::from_pass(found).unwrap();
        let mut changed = blob.clone();
        for at in (changed.len() / 2..changed.len()).step_by(1000) {
            changed[at] ^= 0x55;
        }
        let reader = LayerReader::new(LAYER, found, Arc::new(changed), Verify::Full, DecoderMemory::alone());
        let last = reader.index().span_count() - 1;
        assert!(read_span(&reader, last).is_err(), "{compression}");
    }
}

#[test]
fn a_header_scan_finds_the_entries_that_a_pass_finds() {
    let tar = sample_tar();
    let scanned = index(&tar, Compression::Plain, Expected::default(), Verify::Off, None).unwrap();
    let passed = index(&tar, Compression::Plain, expected(&tar, &tar), Verify::Full, None).unwrap();
    let entries = |indexed: &Indexed| {
        indexed.index.entries().map(|(_, entry)| format!("{entry:?}")).collect::<Vec<_>>()
    };
    assert_eq!(entries(&scanned), entries(&passed));
}

#[test]
fn z6_an_empty_layer_is_an_empty_tree() {
    for tar in [vec![], vec![0; 1024]] {
        for compression in [Compression::Plain, Compression::Gzip] {
            let blob = compressed(compression, &tar);
            let found = index(&blob, compression, expected(&tar, &blob), Verify::Full, None).unwrap();
            assert_eq!(found.index.entry_count(), 0);
        }
    }
}

#[test]
fn a_source_that_shrinks_is_an_error_and_not_other_bytes() {
    #[derive(Debug)]
    struct Shrunk(u64);
    impl ReadAt for Shrunk {
        fn len(&self) -> u64 {
            self.0
        }
        fn read_exact_at(&self, _: &mut [u8], _: u64) -> std::io::Result<()> {
            Err(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
    let tar = sample_tar();
    let blob = gzip(&tar);
    let found = index(&blob, Compression::Gzip, expected(&tar, &blob), Verify::Full, None).unwrap();
    let found = StoredIndex::from_pass(found).unwrap();
    let reader = LayerReader::new(
        LAYER,
        found,
        Arc::new(Shrunk(blob.len() as u64)),
        Verify::Full,
        DecoderMemory::alone(),
    );
    let error = read_span(&reader, 0).unwrap_err();
    assert!(error.to_string().starts_with("cannot read layer 7 at offset 0"), "{error}");
}

#[test]
fn without_its_copy_a_layer_is_readable_and_its_index_is_not_complete() {
    // The disk was full at the first mount: the index was stored without a copy, which was never made again.
    let tar = sample_tar();
    let blob = compressed(Compression::Zstd, &tar);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let files = Scratch { copy: full, ..scratch() };
    let found = index(&blob, Compression::Zstd, expected(&tar, &blob), Verify::Full, Some(files)).unwrap();
    assert!(found.copy.is_none() && !found.is_complete);
    assert!(read_all(StoredIndex::from_pass(found).unwrap(), blob.clone(), Verify::Full).unwrap() == tar);
    let found =
        index(&blob, Compression::Zstd, expected(&tar, &blob), Verify::Full, Some(scratch())).unwrap();
    assert!(found.copy.is_some() && found.is_complete);
}

/// Indexes `blob` after other layers of its image have grown to these lengths.
fn index_after(blob: &[u8], unpacked_bytes: u64, copied_bytes: u64) -> Result<Indexed> {
    let growth = Growth::new(blob.len() as u64, Limits::default());
    growth.unpack(unpacked_bytes).unwrap();
    growth.copy(copied_bytes).unwrap();
    let expected = Expected { learn: true, ..Expected::default() };
    index_layer(Request { growth: &growth, ..request(blob, expected, Some(scratch())) })
}

#[test]
fn x9_a_layer_that_makes_its_image_grow_too_much_is_refused() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        assert!(index_after(&blob, 4 << 30, 0).is_ok(), "{compression}: 700-fold");
        let zeros = compressed(compression, &vec![0; 8 << 20]);
        assert!(
            index_after(&zeros, (4 << 30) - (8 << 20), 0).is_ok(),
            "{compression}: not more than is free"
        );
    }
    let zeros = compressed(Compression::Bzip2, &vec![0; 8 << 20]);
    let error = index_after(&zeros, 4 << 30, 0).unwrap_err().to_string();
    assert!(error.ends_with("exceeds the limit unpacked-bytes (4294967296)"), "{error}");
}

#[test]
fn x9_a_layer_that_is_too_long_is_refused() {
    let tar = sample_tar();
    for compression in ALL {
        let blob = compressed(compression, &tar);
        let indexed = |max: u64| {
            let mut limits = Limits::default();
            assert!(limits.set("layer-bytes", max));
            let expected = Expected { learn: true, ..Expected::default() };
            index_layer(Request { limits, ..request(&blob, expected, None) })
        };
        assert!(indexed(tar.len() as u64).is_ok());
        let error = indexed(tar.len() as u64 - 1).unwrap_err().to_string();
        assert!(error.contains(" exceeds the limit layer-bytes ("), "{compression}: {error}");
    }
}

#[test]
fn x9_a_copy_that_would_be_too_large_is_left_out_and_the_layer_can_be_read() {
    // 8.7 MB of zstd wrote 3 GB of copies.
    let tar = sample_tar();
    let blob = compressed(Compression::Zstd, &tar);
    let found = index_after(&blob, 0, 1 << 30).unwrap();
    assert!(found.copy.is_none() && found.is_complete, "a later pass would not write the copy either");
    assert!(read_all(StoredIndex::from_pass(found).unwrap(), blob, Verify::Full).unwrap() == tar);
}
