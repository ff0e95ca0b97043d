//! Whole streams: the end, chunks, limits, and hostile bytes.

use super::*;
use proptest::prelude::*;

fn two_files() -> Stream {
    Stream::new().member(b'0', "a", b"one").member(b'0', "b", &[b'x'; 700])
}

#[test]
fn z1_no_end_blocks_or_one_will_do() {
    let mut stream = two_files();
    assert_eq!(stream.parse().unwrap().names(), ["a", "b"]);
    stream.0.extend_from_slice(&[0; 512]);
    let found = stream.parse().unwrap();
    assert_eq!((found.names().len(), found.at_end), (2, false));
    stream.0.extend_from_slice(&[0; 512]);
    let found = stream.parse().unwrap();
    assert_eq!((found.names().len(), found.at_end), (2, true));
}

#[test]
fn z1_data_after_one_zero_block_is_an_error() {
    let mut stream = two_files();
    stream.0.extend_from_slice(&[0; 512]);
    let error = stream.member(b'0', "c", b"").error();
    assert_eq!(error, "layer: entry at offset 3072: data follows a zero block");
}

#[test]
fn z1_m21_a_stream_cut_anywhere_but_between_headers_and_payloads_is_an_error() {
    let whole = Stream::new().pax(&[("path", b"p")]).member(b'0', "a", &[b'x'; 600]).end();
    // x header, its body, header, payload of 600 with padding, end.
    let reason = |len: usize| match len {
        0 | 521..=1024 | 2136..=2560 | 3072 | 3584 => None,
        1..512 => Some("the stream ends within a header"),
        512..521 => Some("the stream ends within the header"),
        1025..1536 => Some("the stream ends within a header"),
        1536..2136 => Some("the stream ends within the payload"),
        _ => Some("the stream ends within a header"),
    };
    for len in 0..=whole.0.len() {
        let cut = Stream(whole.0[..len].to_vec());
        let error = cut.parse().err().map(|error| error.to_string());
        let found = error.as_deref().and_then(|error| error.rsplit_once(": ")).map(|(_, reason)| reason);
        assert_eq!(found, reason(len), "{len}");
    }
}

/// Some writers add an extension header and then no entry. Go's reader accepts that as the end, so every
/// engine loads such a layer, which imgmount once refused.
#[test]
fn m21_an_extension_header_without_an_entry_is_ignored() {
    let pax = |stream: Stream| stream.pax(&[("path", b"announced"), ("size", b"600")]);
    let long_name = |stream: Stream| stream.gnu(b'L', "././@LongLink", b"announced\0", |_| ());
    let long_link = |stream: Stream| stream.gnu(b'K', "././@LongLink", b"target\0", |_| ());
    for (stream, name) in [
        (pax(two_files()), "PaxHeaders/x"),
        (long_name(two_files()), "././@LongLink"),
        (long_link(pax(two_files())), "././@LongLink"),
    ] {
        for stream in [stream.clone(), stream.end()] {
            let found = stream.parse().unwrap();
            assert_eq!(found.names(), ["a", "b"]);
            assert_eq!(found.warnings, [(WarningKind::ExtensionWithoutEntry, name.to_owned())]);
        }
    }
}

#[test]
fn z1_a_cut_payload_names_its_entry() {
    let mut stream = Stream::new().member(b'0', "first", b"").member(b'0', "a\x1b[m", b"payload");
    stream.0.truncate(1027);
    let error = stream.error();
    assert_eq!(error, "layer: entry 'a\\x1b[m' at offset 512: the stream ends within the payload");
}

#[test]
fn z2_bytes_after_the_end_mark_are_counted_and_not_read() {
    let mut stream = two_files().end().member(b'0', "hidden", b"");
    stream.0.extend_from_slice(b"not even a block");
    let found = stream.parse().unwrap();
    assert_eq!(found.names(), ["a", "b"]);
}

#[test]
fn z6_nothing_and_nothing_but_zeros_are_empty() {
    for blocks in [0, 1, 2, 3, 20] {
        let found = Stream(vec![0; blocks * 512]).parse().unwrap();
        assert_eq!((found.names().len(), found.at_end), (0, blocks >= 2));
    }
}

#[test]
fn x9_members_and_metadata_are_bounded() {
    let limits = limited("entries", 1);
    let error = parse_with(&two_files().0, limits, [512]).unwrap_err().to_string();
    assert_eq!(error, "entry 'b' at offset 1024: 2 exceeds the limit entries (1)");
    let limits = limited("metadata-bytes", 19);
    let stream =
        Stream::new().link(b'2', "a", "target").pax(&[("SCHILY.xattr.user.a", b"1")]).member(b'0', "b", b"");
    let error = parse_with(&stream.0, limits, [512]).unwrap_err().to_string();
    assert_eq!(error, "entry 'b' at offset 1536: 21 exceeds the limit metadata-bytes (19)");
}

#[test]
fn x9_members_that_are_left_out_count_too() {
    let limits = limited("entries", 1);
    let stream = Stream::new().member(b'V', "a", b"").member(b'V', "b", b"");
    assert!(matches!(parse_with(&stream.0, limits, [512]), Err(StreamFault::Limit { value: 2, .. })));
}

#[test]
fn an_error_is_final() {
    let mut found = Found::default();
    let mut parser = TarParser::new(Limits::default());
    assert!(parser.feed(&[1; 512], &mut found).is_err());
    assert!(parser.feed(&two_files().0, &mut found).is_err());
    assert!(parser.finish(&mut found).is_err());
    assert!(found.entries.is_empty());
}

#[test]
fn an_error_of_the_sink_comes_back_as_it_is() {
    struct Full;
    impl Sink for Full {
        fn entry(&mut self, _: Entry<'_>) -> Result<()> {
            Err(StreamFault::Limit { entry: None, limit: "sink", value: 2, max: 1 })
        }
        fn warning(&mut self, _: WarningKind, _: &[u8]) {}
    }
    let error = TarParser::new(Limits::default()).feed(&two_files().0, &mut Full).unwrap_err();
    assert_eq!(error.to_string(), "2 exceeds the limit sink (1)");
}

#[test]
fn skipping_payloads_gives_what_reading_them_gives() {
    let stream = two_files().member(b'0', "c", b"").end();
    let mut found = Found::default();
    let mut parser = TarParser::new(Limits::default());
    let mut at = 0;
    let mut skipped = 0;
    while at < stream.0.len() {
        parser.feed(&stream.0[at..at + 512], &mut found).unwrap();
        skipped += parser.skippable();
        parser.skip(parser.skippable()).unwrap();
        at = usize::try_from(parser.offset()).unwrap();
    }
    parser.finish(&mut found).unwrap();
    found.at_end = parser.at_end();
    assert_eq!(found, stream.parse().unwrap());
    assert_eq!(skipped, 512 + 1024);
}

#[test]
fn headers_cannot_be_skipped() {
    let mut parser = TarParser::new(Limits::default());
    assert_eq!(parser.skippable(), 0);
    assert!(parser.skip(0).is_ok());
    assert!(parser.skip(1).is_err());
}

#[test]
fn a_payload_that_was_skipped_in_part_still_has_to_come() {
    let mut parser = TarParser::new(Limits::default());
    let stream = Stream::new().member(b'0', "a", &[b'x'; 600]);
    parser.feed(&stream.0[..512], &mut Found::default()).unwrap();
    parser.skip(599).unwrap();
    assert!(parser.finish(&mut Found::default()).is_err());
    parser.skip(1).unwrap();
    assert!(parser.finish(&mut Found::default()).is_ok());
}

/// Returns a stream with everything that takes more than one block.
fn everything() -> Stream {
    let sparse: [(&str, &[u8]); 3] =
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"900")];
    let mut text_map = b"2\n10\n3\n700\n2\n".to_vec();
    text_map.resize(512, 0);
    text_map.extend_from_slice(b"abcde");
    let mut stream = Stream::new()
        .member(b'5', "d/", b"")
        .pax(&[("path", b"p"), ("SCHILY.xattr.user.a", &[b'v'; 600]), ("uid", b"-1")])
        .member(b'0', "a", &[b'x'; 600])
        .pax(&sparse)
        .member(b'0', "text", &text_map)
        .gnu(b'L', "l", &[b'n'; 700], |_| ())
        .link(b'2', "s", "t")
        .member(b'g', "g", &record("path", b"g"))
        .member(b'V', "volume", b"v")
        .gnu(b'S', "old", b"yz", |gnu| {
            gnu.set_real_size(9);
            gnu.set_is_extended(true);
            for (at, field) in gnu.sparse.iter_mut().enumerate() {
                put(&mut field.offset, format!("{at:011o}").as_bytes());
                put(&mut field.numbytes, b"00000000000");
            }
        });
    // The block that continues the map comes before the payload.
    let mut block = ::tar::GnuExtSparseHeader::new();
    put(&mut block.sparse_mut()[0].offset, b"00000000007");
    put(&mut block.sparse_mut()[0].numbytes, b"00000000002");
    let payload = stream.0.len() - 512;
    stream.0.splice(payload..payload, *block.as_bytes());
    stream.member(b'0', "last", b"").end()
}

#[test]
fn the_stream_of_everything_is_read() {
    let stream = everything();
    let found = stream.parse().unwrap();
    let long = "n".repeat(700);
    assert_eq!(found.names(), ["d/", "p", "text", long.as_str(), "old", "last"]);
    assert_eq!(found.entries[4].bytes(&stream.0), b"\0\0\0\0\0\0\0yz");
    assert_eq!(found.warnings.len(), 2);
}

#[test]
fn a_byte_at_a_time_is_as_good_as_all_at_once() {
    let stream = everything();
    let found = parse_with(&stream.0, Limits::default(), [1]).unwrap();
    assert_eq!(found, stream.parse().unwrap());
}

fn outcome(bytes: &[u8], sizes: &[usize]) -> Result<Found, String> {
    parse_with(bytes, Limits::default(), sizes.iter().copied()).map_err(|error| error.to_string())
}

proptest! {
    #![proptest_config(crate::seed::config(256))]

    #[test]
    fn chunks_change_nothing(sizes in prop::collection::vec(1..2000_usize, 1..20)) {
        let stream = everything();
        prop_assert_eq!(outcome(&stream.0, &sizes), outcome(&stream.0, &[usize::MAX]));
    }

    /// Damage must be read in the same way whatever the chunks, and never cause a panic or a hang.
    #[test]
    fn x4_damage_changes_nothing_about_that(
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        sizes in prop::collection::vec(1..700_usize, 1..8),
        seal in any::<bool>(),
    ) {
        let mut stream = everything();
        for (at, value) in hits {
            let at = at.index(stream.0.len());
            stream.0[at] = value;
            if seal {
                let block = at / 512 * 512;
                let mut header = ::tar::Header::from_byte_slice(&stream.0[block..block + 512]).clone();
                header.set_cksum();
                stream.0[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        prop_assert_eq!(outcome(&stream.0, &sizes), outcome(&stream.0, &[usize::MAX]));
    }

    /// Random blocks with a valid checksum reach more of the parser than random bytes.
    #[test]
    fn random_headers_never_panic(
        blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 512), 1..6),
        types in prop::collection::vec(prop::sample::select(b"0123567SxgLKVD\0".to_vec()), 6),
        sizes in prop::collection::vec(0..1500_u64, 6),
        gnu in any::<bool>(),
    ) {
        let mut bytes = Vec::new();
        for ((block, typeflag), size) in blocks.iter().zip(types).zip(sizes) {
            let mut header = ::tar::Header::from_byte_slice(block).clone();
            let fields = header.as_old_mut();
            fields.linkflag = [typeflag];
            for number in [&mut fields.mode, &mut fields.uid, &mut fields.gid] {
                number.fill(b'0');
            }
            fields.mtime.fill(b'0');
            fields.pad[..8].copy_from_slice(if gnu { b"ustar  \0" } else { b"ustar\x0000" });
            header.set_size(size);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(block);
        }
        let whole = outcome(&bytes, &[usize::MAX]);
        prop_assert_eq!(outcome(&bytes, &[3, 511]), whole);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = outcome(&bytes, &[100]);
    }
}
