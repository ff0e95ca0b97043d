//! Single headers: names, types, numbers.

use super::*;
use crate::layer::entry::{DeviceNumber, Timestamp};

#[test]
fn n12_only_a_nul_typeflag_makes_a_directory_of_a_trailing_slash() {
    assert_eq!(Stream::new().member(0, "a/", b"").only().kind, Kind::Other(EntryKind::Directory));
    assert_eq!(Stream::new().member(b'0', "a/", b"x").only().data().size, 1);
    assert_eq!(Stream::new().member(0, "a", b"x").only().data().size, 1);
}

#[test]
fn n13_a_ustar_name_ends_at_its_nul() {
    let stream =
        Stream::new().edited(b'0', "", b"", |header| put(&mut header.as_old_mut().name, b"a/b\0hidden"));
    assert_eq!(stream.only().name, b"a/b");
}

#[test]
fn n14_names_that_are_no_utf8_are_kept() {
    let stream =
        Stream::new().edited(b'0', "", b"", |header| put(&mut header.as_old_mut().name, b"\xff\xe9"));
    assert_eq!(stream.only().name, b"\xff\xe9");
}

#[test]
fn a_name_may_fill_its_field() {
    let name = "n".repeat(100);
    assert_eq!(Stream::new().member(b'0', &name, b"").only().name, name.as_bytes());
}

#[test]
fn a_ustar_prefix_goes_before_the_name_whatever_the_version() {
    for version in [b"00", b"\0\0", b" \0"] {
        let stream = Stream::new().edited(b'0', "b", b"", |header| {
            let ustar = header.as_ustar_mut().unwrap();
            put(&mut ustar.prefix, b"usr/a");
            ustar.version = *version;
        });
        assert_eq!(stream.only().name, b"usr/a/b");
    }
}

#[test]
fn a_star_prefix_ends_where_stars_times_begin() {
    let stream = Stream::new().edited(b'0', "b", b"", |header| {
        let ustar = header.as_ustar_mut().unwrap();
        ustar.prefix[..131].fill(b'p');
        ustar.prefix[131..143].copy_from_slice(b"14000000000\0");
        ustar.pad[8..].copy_from_slice(b"tar\0");
    });
    assert_eq!(stream.only().name, ["p".repeat(131).as_bytes(), b"/b"].concat());
}

#[test]
fn gnu_headers_have_times_and_no_prefix() {
    let stream = Stream::new().gnu(b'0', "b", b"", |gnu| {
        put(&mut gnu.atime, b"14000000000");
        put(&mut gnu.ctime, b"14000000000");
    });
    assert_eq!(stream.only().name, b"b");
}

/// Layers that Docker built with Go before 1.8 are still in registries.
#[test]
fn a_prefix_under_gnu_magic_is_read_as_go_reads_it() {
    let stream = Stream::new().gnu(b'0', "b", b"", |gnu| put(&mut gnu.atime, b"usr/share"));
    assert_eq!(stream.only().name, b"usr/share/b");
    let stream = Stream::new().gnu(b'0', "b", b"", |gnu| put(&mut gnu.atime, b"usr/\xff"));
    assert_eq!(stream.only().name, b"b");
}

#[test]
fn m15_a_header_without_magic_is_known_by_its_checksum() {
    let header = sealed(::tar::Header::new_old(), b'0', "old", b"x", |header| {
        // The bytes that ustar would read as prefix and device are arbitrary here.
        header.as_old_mut().pad[88..].fill(b'#');
    });
    let entry = Stream::new().raw(&header, b"x").only();
    assert_eq!((entry.name.as_slice(), entry.data().size), (&b"old"[..], 1));
}

#[test]
fn m15_checksums_of_signed_bytes_are_good_too() {
    let mut header = sealed(::tar::Header::new_ustar(), b'0', "\u{e9}", b"", |_| ());
    let sum: i64 = header.as_bytes().iter().map(|byte| i64::from(byte.cast_signed())).sum();
    let of_field: i64 = header.as_old().cksum.iter().map(|byte| i64::from(*byte)).sum();
    let text = format!("{:06o}\0 ", sum - of_field + 8 * 32);
    header.as_old_mut().cksum.copy_from_slice(text.as_bytes());
    assert_eq!(Stream::new().raw(&header, b"").only().name, "\u{e9}".as_bytes());
}

#[test]
fn m15_a_block_with_a_wrong_checksum_is_no_header() {
    let mut stream = Stream::new().member(b'0', "first", b"").member(b'0', "second", b"");
    stream.0[512] ^= 1;
    assert_eq!(stream.error(), "layer: entry at offset 512: the header checksum does not match");
}

#[test]
fn m6_mode_keeps_twelve_bits_and_symlinks_have_0777() {
    let set = |header: &mut ::tar::Header| put(&mut header.as_old_mut().mode, b"0104755");
    assert_eq!(Stream::new().edited(b'0', "a", b"", set).only().meta.mode, 0o4755);
    assert_eq!(Stream::new().edited(b'2', "a", b"", set).only().meta.mode, 0o777);
}

#[test]
fn m7_times_before_the_epoch_or_past_2262_become_0() {
    let seconds = |bytes: [u8; 12]| {
        let stream = Stream::new().edited(b'0', "a", b"", |header| header.as_old_mut().mtime = bytes);
        stream.only().meta.mtime
    };
    assert_eq!(seconds(*b"14524770400\0"), Timestamp { seconds: 1_700_000_000, nanos: 0 });
    assert_eq!(seconds([0xff; 12]), Timestamp::default());
    assert_eq!(seconds([0x80, 0, 0, 0, 0, 0, 0, 2, 0x25, 0xc1, 0x7d, 0x04]).seconds, 9_223_372_036);
    assert_eq!(seconds([0x80, 0, 0, 0, 0, 0, 0, 2, 0x25, 0xc1, 0x7d, 0x05]), Timestamp::default());
}

#[test]
fn m8_owners_keep_their_low_32_bits_and_minus_one_is_root() {
    let owner = |uid: [u8; 8]| {
        let stream = Stream::new().edited(b'0', "a", b"", |header| header.as_old_mut().uid = uid);
        let found = stream.parse().unwrap();
        (found.entries[0].meta.uid, found.warned(WarningKind::OwnerOverflow).len())
    };
    assert_eq!(owner(*b"0001750\0"), (1000, 0));
    assert_eq!(owner([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]), (u32::MAX - 1, 0));
    assert_eq!(owner([0x80, 0, 0, 1, 0, 0, 0, 5]), (5, 1));
    assert_eq!(owner([0xff; 8]), (0, 1));
    assert_eq!(owner([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]), (0, 1));
}

#[test]
fn m16_devices_have_numbers_and_fifos_are_fifos() {
    let device = |typeflag| {
        let stream = Stream::new().edited(typeflag, "a", b"", |header| {
            header.set_device_major(8).unwrap();
            header.set_device_minor(17).unwrap();
        });
        stream.only().kind
    };
    let number = DeviceNumber { major: 8, minor: 17 };
    assert_eq!(device(b'3'), Kind::Other(EntryKind::Char(number)));
    assert_eq!(device(b'4'), Kind::Other(EntryKind::Block(number)));
    assert_eq!(device(b'6'), Kind::Other(EntryKind::Fifo));
}

#[test]
fn links_keep_their_targets_as_they_stand() {
    let found = Stream::new().link(b'2', "s", "../../etc").link(b'1', "h", "/a//b").parse().unwrap();
    assert_eq!(found.entries[0].kind, Kind::Symlink(b"../../etc".to_vec()));
    assert_eq!(found.entries[1].kind, Kind::Hardlink(b"/a//b".to_vec()));
}

#[test]
fn m17_a_contiguous_file_is_a_file_and_other_types_are_left_out() {
    let mut stream = Stream::new().member(b'7', "seven", b"x");
    for typeflag in *b"VMDNAX~" {
        stream = stream.member(typeflag, "odd", b"a payload");
    }
    let found = stream.member(b'0', "last", b"").parse().unwrap();
    assert_eq!(found.names(), ["seven", "last"]);
    assert_eq!(found.warned(WarningKind::UnknownType), ["odd"; 7]);
}

#[test]
fn m18_headers_that_stand_alone_have_no_payload() {
    for typeflag in *b"123456" {
        let found = Stream::new()
            .edited(typeflag, "alone", b"", |header| header.set_size(512))
            .member(b'0', "next", b"")
            .parse()
            .unwrap();
        assert_eq!(found.names(), ["alone", "next"], "{}", char::from(typeflag));
    }
}

#[test]
fn m18_a_v7_directory_has_no_payload_either() {
    let found = Stream::new()
        .edited(0, "dir/", b"", |header| header.set_size(512))
        .member(b'0', "next", b"")
        .parse()
        .unwrap();
    assert_eq!(found.names(), ["dir/", "next"]);
}

#[test]
fn m20_an_empty_file_has_an_empty_extent() {
    let entry = Stream::new().member(b'0', "a", b"").only();
    assert_eq!(entry.extent(), Extent { offset: 512, len_bytes: 0 });
}

#[test]
fn x10_sizes_that_are_negative_or_past_63_bits_are_refused() {
    let error = |size: [u8; 12]| {
        Stream::new().edited(b'0', "a", b"", |header| header.as_old_mut().size = size).error()
    };
    assert_eq!(error([0xff; 12]), "layer: entry 'a' at offset 0: the size is negative");
    let past = [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(error(past), "layer: entry 'a' at offset 0: the size is not a number");
    assert_eq!(error(*b"00000000o00\0"), "layer: entry 'a' at offset 0: the size is not a number");
}

#[test]
fn x10_a_payload_that_ends_past_the_largest_offset_is_refused() {
    let largest = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let stream = Stream::new().edited(b'0', "a", b"", |header| header.as_old_mut().size = largest);
    assert_eq!(stream.error(), "layer: entry 'a' at offset 0: the payload ends past the largest offset");
}

#[test]
fn numbers_in_base_256_are_read_where_octal_has_no_room() {
    let stream = Stream::new().edited(b'0', "a", b"", |header| header.set_size(8 << 30));
    let mut found = Found::default();
    let mut parser = TarParser::new(Limits::default());
    parser.feed(&stream.0, &mut found).unwrap();
    assert_eq!(found.entries[0].data().size, 8 << 30);
    assert_eq!(parser.skippable(), 8 << 30);
}
