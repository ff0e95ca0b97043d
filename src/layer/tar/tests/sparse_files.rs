//! Sparse files in their four forms.

use super::*;
use crate::layer::entry::Segment;

/// Keyword, without `GNU.sparse.`, and value of each record.
type Records<'a> = &'a [(&'a str, &'a [u8])];

/// "ab" at 1000 and "cde" at 5000 of a file of 9000 bytes.
const RUNS: [(u64, u64); 2] = [(1000, 2), (5000, 3)];

fn expected() -> Vec<u8> {
    let mut bytes = vec![0; 9000];
    bytes[1000..1002].copy_from_slice(b"ab");
    bytes[5000..5003].copy_from_slice(b"cde");
    bytes
}

fn text_map(runs: &[(u64, u64)]) -> Vec<u8> {
    let mut map = format!("{}\n", runs.len());
    for (offset, len) in runs {
        map.push_str(&format!("{offset}\n{len}\n"));
    }
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

/// PAX 1.0.
fn in_payload(runs: &[(u64, u64)], size: &str, data: &[u8]) -> Stream {
    let payload = [text_map(runs).as_slice(), data].concat();
    Stream::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real/name"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .member(b'0', "GNUSparseFile.1/name", &payload)
        .member(b'0', "next", b"")
}

fn fields(fields: &mut [::tar::GnuSparseHeader], runs: &[(u64, u64)]) {
    for (field, (offset, len)) in fields.iter_mut().zip(runs) {
        put(&mut field.offset, format!("{offset:011o}").as_bytes());
        put(&mut field.numbytes, format!("{len:011o}").as_bytes());
    }
}

/// Old GNU, with as many extended blocks as needed.
fn old_gnu(runs: &[(u64, u64)], size: u64, data: &[u8]) -> Stream {
    let (front, mut rest) = runs.split_at(runs.len().min(4));
    let header = sealed(::tar::Header::new_gnu(), b'S', "sparse", data, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        fields(&mut gnu.sparse, front);
        gnu.set_real_size(size);
        gnu.set_is_extended(!rest.is_empty());
    });
    let mut stream = Stream::new().raw(&header, b"");
    while !rest.is_empty() {
        let (front, tail) = rest.split_at(rest.len().min(21));
        let mut block = ::tar::GnuExtSparseHeader::new();
        fields(block.sparse_mut(), front);
        block.set_is_extended(!tail.is_empty());
        stream.0.extend_from_slice(block.as_bytes());
        rest = tail;
    }
    stream.0.extend_from_slice(data);
    stream.0.resize(stream.0.len().next_multiple_of(512), 0);
    stream.member(b'0', "next", b"")
}

fn check(stream: &Stream, name: &str) {
    let found = stream.parse().unwrap();
    assert_eq!(found.names(), [name, "next"]);
    let file = &found.entries[0];
    assert_eq!((file.data().size, file.data().stored_bytes()), (9000, 5));
    assert_eq!(file.bytes(&stream.0), expected());
}

#[test]
fn m14_old_gnu() {
    check(&old_gnu(&RUNS, 9000, b"abcde"), "sparse");
}

#[test]
fn m14_old_gnu_with_extended_blocks() {
    let runs: Vec<(u64, u64)> = (0..60).map(|n| (n * 10, 1)).collect();
    let data: Vec<u8> = (1..=60).collect();
    let stream = old_gnu(&runs, 600, &data);
    let found = stream.parse().unwrap();
    assert_eq!(found.names(), ["sparse", "next"]);
    let bytes = found.entries[0].bytes(&stream.0);
    assert_eq!(bytes.iter().copied().step_by(10).collect::<Vec<_>>(), data);
}

#[test]
fn m14_pax_0_0() {
    let stream = Stream::new()
        .pax(&[
            ("GNU.sparse.size", b"9000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"1000"),
            ("GNU.sparse.numbytes", b"2"),
            ("GNU.sparse.offset", b"5000"),
            ("GNU.sparse.numbytes", b"3"),
        ])
        .member(b'0', "sparse", b"abcde")
        .member(b'0', "next", b"");
    check(&stream, "sparse");
}

#[test]
fn m14_pax_0_1() {
    let stream = Stream::new()
        .pax(&[
            ("GNU.sparse.size", b"9000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.name", b"real/name"),
            ("GNU.sparse.map", b"1000,2,5000,3"),
        ])
        .member(b'0', "GNUSparseFile.1/name", b"abcde")
        .member(b'0', "next", b"");
    check(&stream, "real/name");
}

#[test]
fn m14_pax_1_0() {
    check(&in_payload(&RUNS, "9000", b"abcde"), "real/name");
}

#[test]
fn m14_a_map_in_the_payload_may_take_several_blocks() {
    let runs: Vec<(u64, u64)> = (0..300).map(|n| (n * 10, 1)).collect();
    let data = vec![b'x'; 300];
    let stream = in_payload(&runs, "3000", &data);
    let found = stream.parse().unwrap();
    assert_eq!(found.names(), ["real/name", "next"]);
    assert_eq!(found.entries[0].data().stored_bytes(), 300);
}

#[test]
fn m14_a_map_that_fills_its_block_is_followed_by_data_at_once() {
    // Leading zeros make the last line fill the rest of the block.
    let mut map = String::from("1\n5\n");
    map.push_str(&format!("{:0>507}\n", 3));
    assert_eq!(map.len(), 512);
    let stream = Stream::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"8")])
        .member(b'0', "a", &[map.as_bytes(), b"abc"].concat());
    assert_eq!(stream.only().bytes(&stream.0), b"\0\0\0\0\0abc");
}

#[test]
fn m14_a_file_that_is_one_hole_stores_nothing() {
    let stream = in_payload(&[(1_000_000, 0)], "1000000", b"");
    let file = &stream.parse().unwrap().entries[0];
    assert_eq!(file.data(), &FileData { size: 1_000_000, stored: Stored::Sparse(vec![].into()) });
}

#[test]
fn m14_segments_name_their_place_in_the_tar() {
    let segments = [(1000, 2048, 2), (5000, 2050, 3)].map(|(file_offset, offset, len_bytes)| Segment {
        file_offset,
        extent: Extent { offset, len_bytes },
    });
    let file = &in_payload(&RUNS, "9000", b"abcde").parse().unwrap().entries[0];
    assert_eq!(file.data().stored, Stored::Sparse(segments.to_vec().into()));
}

#[test]
fn m14_pax_size_and_long_names_hold_for_old_gnu_too() {
    let mut stream = Stream::new().pax(&[("size", b"5")]).gnu(b'L', "l", b"long", |_| ());
    stream.0.extend(old_gnu(&RUNS, 9000, b"abcde").0);
    check(&stream, "long");
}

fn fault(stream: &Stream) -> String {
    let error = stream.error();
    error.rsplit_once(": ").map(|(_, reason)| reason.to_owned()).unwrap_or(error)
}

#[test]
fn x7_maps_that_are_not_of_their_file_are_refused() {
    let refused = |runs: &[(u64, u64)], data: &[u8], reason: &str| {
        assert_eq!(fault(&in_payload(runs, "9000", data)), reason, "{runs:?}");
        assert_eq!(fault(&old_gnu(runs, 9000, data)), reason, "{runs:?}");
    };
    refused(&[(5000, 3), (1000, 2)], b"abcde", "the sparse map goes backwards");
    refused(&[(1000, 3), (1002, 2)], b"abcde", "the sparse map goes backwards");
    refused(&[(1000, 0), (900, 5)], b"abcde", "the sparse map goes backwards");
    refused(&[(8998, 3)], b"abc", "the sparse map reaches past the end of the file");
    refused(&[(9001, 0)], b"", "the sparse map reaches past the end of the file");
    refused(&[(0, 3)], b"abcd", "the sparse map covers 3 bytes, but 4 are stored");
    refused(&[(0, 5)], b"abcd", "the sparse map covers 5 bytes, but 4 are stored");
}

#[test]
fn x7_a_run_that_ends_past_63_bits_is_refused() {
    let last = i64::MAX.unsigned_abs();
    let stream = in_payload(&[(last, last)], &last.to_string(), b"");
    assert_eq!(fault(&stream), "the sparse map reaches past the end of the file");
}

#[test]
fn x7_maps_are_bounded() {
    let limits = limited("sparse-segments", 6);
    let runs: Vec<(u64, u64)> = (0..7).map(|n| (n, 1)).collect();
    let listed: Vec<String> = runs.iter().map(|(offset, len)| format!("{offset},{len}")).collect();
    let in_records = Stream::new()
        .pax(&[
            ("GNU.sparse.size", b"9"),
            ("GNU.sparse.numblocks", b"7"),
            ("GNU.sparse.map", listed.join(",").as_bytes()),
        ])
        .member(b'0', "a", &[0; 7]);
    for stream in [in_payload(&runs, "9", &[0; 7]), old_gnu(&runs, 9, &[0; 7]), in_records] {
        let error = parse_with(&stream.0, limits, [512]).unwrap_err().to_string();
        assert!(error.ends_with(": 7 exceeds the limit sparse-segments (6)"), "{error}");
    }
}

/// The count alone must not make a reader reserve memory.
#[test]
fn x7_a_map_that_only_claims_to_be_long_is_refused() {
    let payload = [b"1048577\n".as_slice(), &[b'0'; 504]].concat();
    let stream = Stream::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
        .member(b'0', "a", &payload);
    assert_eq!(
        stream.error(),
        "layer: entry \'a\' at offset 1024: 1048577 exceeds the limit sparse-segments (1048576)"
    );
}

#[test]
fn x7_a_map_longer_than_its_payload_is_refused() {
    for payload in [&b""[..], b"1\n", b"1\n0\n0\n", &[b'0'; 600]] {
        let stream = Stream::new()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
            .member(b'0', "a", payload);
        assert_eq!(fault(&stream), "the sparse map is longer than the payload", "{payload:?}");
    }
}

#[test]
fn x7_text_maps_hold_numbers_and_newlines_only() {
    for map in ["x\n", "\n", "1\n-1\n0\n", "1\n0\n\n", "1 \n", "1\n9223372036854775808\n0\n"] {
        let mut payload = map.as_bytes().to_vec();
        payload.resize(512, 0);
        let stream = Stream::new()
            .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
            .member(b'0', "a", &payload);
        assert!(fault(&stream).starts_with("the sparse map contains "), "{map:?}");
    }
}

#[test]
fn x4_an_old_gnu_map_that_goes_on_after_its_end_is_refused() {
    let stream = Stream::new().gnu(b'S', "a", b"", |gnu| {
        fields(&mut gnu.sparse, &[(0, 0)]);
        gnu.set_real_size(0);
        gnu.set_is_extended(true);
    });
    assert_eq!(fault(&stream), "the sparse map continues after its end");
}

#[test]
fn x4_sparse_records_that_are_no_whole_map_are_refused() {
    let cases: [(Records, &str); 9] = [
        (&[("map", b"0,1,2"), ("numblocks", b"1"), ("size", b"9")], "invalid sparse map"),
        (&[("map", b"0,1"), ("numblocks", b"2"), ("size", b"9")], "the sparse map has the wrong length"),
        (&[("map", b"0,1"), ("size", b"9")], "the sparse map has the wrong length"),
        (&[("map", b"0,1"), ("numblocks", b"1")], "a sparse file without a size"),
        (&[("major", b"2"), ("minor", b"0"), ("size", b"9")], "a sparse file of an unknown version"),
        (&[("name", b"a"), ("size", b"9")], "the sparse map has the wrong length"),
        (&[("offset", b"0"), ("offset", b"1")], "the sparse map contains an offset without a length"),
        (&[("numbytes", b"0")], "the sparse map contains a length without an offset"),
        (
            &[("offset", b"0"), ("numbytes", b"1"), ("map", b"0,1"), ("numblocks", b"1"), ("size", b"9")],
            "a sparse file with two maps",
        ),
    ];
    for (records, reason) in cases {
        let keys: Vec<String> = records.iter().map(|(key, _)| format!("GNU.sparse.{key}")).collect();
        let records: Vec<(&str, &[u8])> =
            keys.iter().zip(records).map(|(key, (_, value))| (key.as_str(), *value)).collect();
        assert_eq!(fault(&Stream::new().pax(&records).member(b'0', "a", b"x")), reason, "{keys:?}");
    }
}

#[test]
fn x4_only_a_file_can_be_sparse() {
    let stream = Stream::new()
        .pax(&[("GNU.sparse.map", b"0,1"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.size", b"9")])
        .member(b'5', "d", b"");
    assert_eq!(fault(&stream), "a sparse map for an entry that is not a file");
    assert_eq!(fault(&Stream::new().member(b'S', "a", b"")), "a sparse file in a format other than GNU");
}
