//! Tests headers at the limits of their fields.

use super::super::encode::{Kind, Member, SparseMap, encode};
use crate::layer::entry::{DeviceNumber, Extent, Meta, Segment, Timestamp, Xattrs};

fn member<'a>(path: &'a [u8], kind: Kind<'a>) -> Member<'a> {
    Member { path, kind, meta: Meta::default(), xattrs: Xattrs::default() }
}

/// Returns the PAX records of encoded blocks, and the ustar header.
fn parts(blocks: &[u8]) -> (String, ::tar::Header) {
    let header = |at: usize| ::tar::Header::from_byte_slice(&blocks[at..at + 512]).clone();
    if header(0).entry_type() != ::tar::EntryType::XHeader {
        return (String::new(), header(0));
    }
    let len = usize::try_from(header(0).entry_size().unwrap()).unwrap();
    (blocks[512..512 + len].escape_ascii().to_string(), header(512 + len.next_multiple_of(512)))
}

#[test]
fn an_ordinary_member_is_one_block() {
    let file = Meta { mode: 0o644, uid: 1, gid: 2, mtime: Timestamp { seconds: 3, nanos: 0 } };
    let blocks = encode(&Member { meta: file, ..member(b"etc/passwd", Kind::File(10)) });
    assert_eq!(blocks.len(), 512);
    let mut expected = ::tar::Header::new_ustar();
    expected.set_entry_type(::tar::EntryType::Regular);
    expected.set_path("etc/passwd").unwrap();
    expected.set_mode(0o644);
    expected.set_uid(1);
    expected.set_gid(2);
    expected.set_size(10);
    expected.set_mtime(3);
    expected.set_cksum();
    assert_eq!(blocks, expected.as_bytes());
}

#[test]
fn a_record_counts_its_own_length_where_that_takes_a_digit_more() {
    // `LENGTH user.a=VALUE\n` of 98 to 102 bytes, and never of 100.
    for (value_len, length) in [(74, 98), (75, 99), (76, 101), (77, 102)] {
        let mut packed = Vec::new();
        Xattrs::pack(&mut packed, b"user.a", &vec![b'v'; value_len]);
        let xattrs = Xattrs::from_packed(&packed);
        let (records, _) = parts(&encode(&Member { xattrs, ..member(b"f", Kind::Fifo) }));
        assert_eq!(records, format!("{length} SCHILY.xattr.user.a={}\\n", "v".repeat(value_len)));
        assert_eq!(records.len() - 1, length);
    }
}

#[test]
fn sizes_and_times_beyond_eleven_digits_stand_in_records() {
    for (size, record) in [((1 << 33) - 1, ""), (1 << 33, "19 size=8589934592\\n")] {
        let (records, header) = parts(&encode(&member(b"f", Kind::File(size))));
        assert_eq!(records, record);
        assert_eq!(header.entry_size().unwrap(), if record.is_empty() { size } else { 0 });
    }
    let mtime = Timestamp { seconds: 1 << 33, nanos: 10 };
    let meta = Meta { mtime, ..Meta::default() };
    let (records, _) = parts(&encode(&Member { meta, ..member(b"f", Kind::Fifo) }));
    assert_eq!(records, "29 mtime=8589934592.00000001\\n");
}

#[test]
fn device_numbers_beyond_seven_digits_stand_in_records() {
    let device = DeviceNumber { major: 0o7_777_777, minor: 0o10_000_000 };
    let (records, header) = parts(&encode(&member(b"d", Kind::Char(device))));
    assert_eq!(records, "27 SCHILY.devminor=2097152\\n");
    assert_eq!(
        (header.device_major().unwrap(), header.device_minor().unwrap()),
        (Some(0o7_777_777), Some(0))
    );
}

#[test]
fn a_path_is_split_at_the_last_slash_that_leaves_both_parts_short_enough() {
    let path = format!("{}/{}/{}", "a".repeat(100), "b".repeat(54), "c".repeat(100));
    let (records, header) = parts(&encode(&member(path.as_bytes(), Kind::File(0))));
    let fields = header.as_ustar().unwrap();
    assert_eq!((records.as_str(), &fields.prefix[..]), ("", &path.as_bytes()[..155]));
    assert_eq!(fields.name[..], *"c".repeat(100).as_bytes());
    // A directory's slash takes the last byte.
    let (records, _) = parts(&encode(&member(path.as_bytes(), Kind::Directory)));
    assert_eq!(records, format!("267 path={path}/\\n"));
}

#[test]
fn runs_that_share_a_block_become_one_and_the_last_ends_with_the_file() {
    let segment = |file_offset, len_bytes| Segment { file_offset, extent: Extent { offset: 0, len_bytes } };
    let segments = [segment(10_000, 1), segment(10_100, 100), segment(20_000, 5), segment(99_990, 10)];
    let map = SparseMap::new(100_000, segments).unwrap();
    assert_eq!(map.runs(), [(9728, 512), (19_968, 512), (99_840, 160)]);
    assert!(SparseMap::new(2_000, [segment(0, 10)]).is_none(), "nothing is saved");
    assert_eq!(SparseMap::new(100_000, []).unwrap().runs(), [(100_000, 0)]);
}
