//! PAX and GNU extension headers.

use super::*;
use crate::layer::entry::Timestamp;

#[test]
fn m12_pax_beats_ustar() {
    let records: [(&str, &[u8]); 5] =
        [("path", b"p"), ("uid", b"7"), ("gid", b"8"), ("mtime", b"9.5"), ("comment", b"none")];
    let entry = Stream::new().pax(&records).member(b'0', "u", b"").only();
    assert_eq!(entry.name, b"p");
    assert_eq!(
        entry.meta,
        Meta { mode: 0o644, uid: 7, gid: 8, mtime: Timestamp { seconds: 9, nanos: 500_000_000 } }
    );
}

#[test]
fn m12_gnu_long_names_beat_pax_in_either_order() {
    let pax: [(&str, &[u8]); 2] = [("path", b"p"), ("linkpath", b"pl")];
    let gnu = |stream: Stream| {
        stream.gnu(b'L', "././@LongLink", b"g\0", |_| ()).gnu(b'K', "././@LongLink", b"gl\0junk", |_| ())
    };
    for stream in [gnu(Stream::new()).pax(&pax), gnu(Stream::new().pax(&pax))] {
        let entry = stream.link(b'2', "u", "ul").only();
        assert_eq!((entry.name, entry.kind), (b"g".to_vec(), Kind::Symlink(b"gl".to_vec())));
    }
}

#[test]
fn m12_an_empty_value_keeps_what_ustar_says() {
    let empty: [(&str, &[u8]); 4] = [("path", b""), ("linkpath", b""), ("size", b""), ("mtime", b"")];
    let entry = Stream::new().pax(&empty).link(b'1', "u", "ul").only();
    assert_eq!((entry.name, entry.kind), (b"u".to_vec(), Kind::Hardlink(b"ul".to_vec())));
    let entry = Stream::new().gnu(b'L', "l", b"\0", |_| ()).member(b'0', "u", b"").only();
    assert_eq!(entry.name, b"u");
}

#[test]
fn m12_a_newer_header_replaces_an_older_as_a_whole() {
    let entry = Stream::new()
        .pax(&[("path", b"old"), ("SCHILY.xattr.user.old", b"1"), ("uid", b"5")])
        .pax(&[("path", b"new")])
        .member(b'0', "u", b"")
        .only();
    assert_eq!((entry.name.as_slice(), entry.meta.uid, entry.xattrs.len()), (&b"new"[..], 0, 0));
}

#[test]
fn extensions_are_for_one_member_and_its_offset_is_theirs() {
    let found = Stream::new()
        .pax(&[("path", b"a"), ("mtime", b"5"), ("SCHILY.xattr.user.a", b"1")])
        .gnu(b'L', "l", b"b", |_| ())
        .member(b'0', "u", b"")
        .member(b'0', "plain", b"")
        .parse()
        .unwrap();
    assert_eq!(found.names(), ["b", "plain"]);
    assert_eq!(found.entries[0].header_offset, 0);
    assert_eq!(found.entries[1].header_offset, 5 * 512);
    assert_eq!(found.entries[1].meta.mtime, Timestamp::default());
    assert!(found.entries[1].xattrs.is_empty());
}

#[test]
fn m13_pax_size_governs_the_payload() {
    let stream = Stream::new()
        .pax(&[("size", b"600")])
        .edited(b'0', "a", &[b'x'; 600], |header| header.set_size(0))
        .member(b'0', "next", b"");
    let found = stream.parse().unwrap();
    assert_eq!(found.names(), ["a", "next"]);
    assert_eq!(found.entries[0].bytes(&stream.0), [b'x'; 600]);
}

/// CVE-2025-62518: a size that is applied to the header in between hides members or invents some.
#[test]
fn m13_pax_size_is_not_for_the_extension_headers_in_between() {
    for between in *b"LKx" {
        let body = if between == b'x' { record("size", b"600") } else { b"long".to_vec() };
        let found = Stream::new()
            .pax(&[("size", b"600")])
            .member(between, "between", &body)
            .edited(b'0', "a", &[b'x'; 600], |header| header.set_size(0))
            .member(b'0', "next", b"")
            .parse()
            .unwrap();
        assert_eq!(found.entries.len(), 2, "{}", char::from(between));
        assert_eq!(found.entries[0].data().size, 600);
    }
}

#[test]
fn m18_pax_size_gives_no_payload_to_what_has_none() {
    let found = Stream::new()
        .pax(&[("size", b"600")])
        .link(b'2', "link", "t")
        .member(b'0', "next", b"")
        .parse()
        .unwrap();
    assert_eq!(found.names(), ["link", "next"]);
}

#[test]
fn m11_global_headers_are_never_applied() {
    let body = [record("path", b"g"), record("size", b"9999"), record("uid", b"9")].concat();
    let found = Stream::new()
        .member(b'g', "pax_global_header", &body)
        .member(b'0', "a", b"x")
        .member(b'0', "b", b"")
        .parse()
        .unwrap();
    assert_eq!(found.names(), ["a", "b"]);
    assert_eq!((found.entries[0].meta.uid, found.entries[0].header_offset), (0, 1024));
}

/// Go's reader treats a global header as an entry, so the extension headers before it apply to it.
#[test]
fn m11_a_global_header_spends_the_extensions_before_it() {
    let found = Stream::new()
        .pax(&[("path", b"decoy"), ("size", b"9999")])
        .member(b'g', "pax_global_header", b"")
        .member(b'0', "real", b"")
        .parse()
        .unwrap();
    assert_eq!(found.names(), ["real"]);
}

#[test]
fn m8_pax_owners_may_have_64_bits() {
    let stream = Stream::new().pax(&[("uid", b"4294967301"), ("gid", b"-1")]).member(b'0', "a", b"");
    let found = stream.parse().unwrap();
    assert_eq!((found.entries[0].meta.uid, found.entries[0].meta.gid), (5, 0));
    assert_eq!(found.warned(WarningKind::OwnerOverflow), ["a"]);
}

#[test]
fn m9_xattrs_are_raw_bytes_and_the_last_of_a_name_wins() {
    let found = Stream::new()
        .pax(&[
            ("SCHILY.xattr.user.a", b"first"),
            ("SCHILY.xattr.user.b", b"1\n2\0=3"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.user.a", b"last"),
            ("SCHILY.xattr.user.empty", b""),
        ])
        .member(b'0', "a", b"")
        .parse()
        .unwrap();
    let pairs: [(&[u8], &[u8]); 3] = [(b"user.b", b"1\n2\0=3"), (b"user.a", b"last"), (b"user.empty", b"")];
    assert_eq!(found.warned(WarningKind::XattrLeftOut), ["a"]);
    assert_eq!(found.entries[0].xattrs, pairs.map(|(name, value)| (name.to_vec(), value.to_vec())));
}

#[test]
fn m10_w18_xattrs_of_libarchive_and_of_overlay_are_not_served() {
    let found = Stream::new()
        .pax(&[
            ("LIBARCHIVE.xattr.user.a", b"YQ=="),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlayer", b"kept"),
        ])
        .member(b'5', "d", b"")
        .parse()
        .unwrap();
    assert_eq!(found.entries[0].xattrs, [(b"user.overlayer".to_vec(), b"kept".to_vec())]);
    assert_eq!(found.warned(WarningKind::XattrLeftOut), ["d"]);
}

/// Files packed on macOS carry `com.apple.*`, and some tools write `user.*` for links. A mount that listed
/// them made `rsync -aX` exit with 23. Engines load such layers without these attributes.
#[test]
fn m9_attributes_that_linux_cannot_hold_are_left_out_with_a_warning() {
    let records: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.com.apple.quarantine", b"0081"),
        ("SCHILY.xattr.user.note", b"1"),
        ("SCHILY.xattr.trusted.md5sum", b"2"),
        ("SCHILY.xattr.security.ima", b"3"),
    ];
    let found = Stream::new()
        .pax(&records)
        .member(b'0', "file", b"")
        .pax(&records)
        .link(b'2', "link", "file")
        .pax(&[("path", b"pipe"), ("SCHILY.xattr.user.note", b"1")])
        .member(b'6', "p", b"")
        .parse()
        .unwrap();
    let names =
        |at: usize| found.entries[at].xattrs.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>();
    assert_eq!(names(0), [&b"user.note"[..], b"security.ima"]);
    assert_eq!((names(1), names(2)), (vec![&b"security.ima"[..]], vec![]));
    assert_eq!(found.warned(WarningKind::XattrLeftOut), ["file", "link", "pipe"]);
}

#[test]
fn m9_a_name_too_long_to_be_packed_is_left_out_with_a_warning() {
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(70_000));
    let found = Stream::new().pax(&[(&name, b"1")]).member(b'0', "a", b"").parse().unwrap();
    assert!(found.entries[0].xattrs.is_empty());
    assert_eq!(found.warned(WarningKind::XattrLeftOut), ["a"]);
}

#[test]
fn n13_a_nul_in_a_pax_name_is_an_error() {
    for key in ["path", "linkpath", "GNU.sparse.name"] {
        let stream = Stream::new().member(b'0', "first", b"").pax(&[(key, b"a\0b")]).member(b'0', "a", b"");
        assert_eq!(
            stream.error(),
            "layer: entry 'PaxHeaders/x' at offset 512: malformed PAX record: NUL in a name"
        );
    }
}

#[test]
fn n15_long_names_come_out_as_they_are() {
    let long = "a/".repeat(3000);
    let entry = Stream::new().pax(&[("path", long.as_bytes())]).member(b'0', "a", b"").only();
    assert_eq!(entry.name, long.as_bytes());
}

/// A reader that splits records on newlines takes the value's second line for a record.
#[test]
fn x4_records_are_taken_by_length_not_by_line() {
    let value = [b"1\n".as_slice(), &record("size", b"0")].concat();
    let stream = Stream::new().pax(&[("SCHILY.xattr.user.a", &value), ("size", b"600")]).edited(
        b'0',
        "a",
        &[0; 600],
        |header| header.set_size(0),
    );
    let entry = stream.only();
    assert_eq!((entry.data().size, entry.xattrs[0].1.as_slice()), (600, value.as_slice()));
}

#[test]
fn x4_the_last_of_duplicate_records_wins() {
    let entry = Stream::new()
        .pax(&[("path", b"first"), ("size", b"9999"), ("path", b"last"), ("size", b"1")])
        .member(b'0', "u", b"x")
        .only();
    assert_eq!((entry.name.as_slice(), entry.data().size), (&b"last"[..], 1));
}

#[test]
fn x4_malformed_pax_is_an_error() {
    let bodies: [(&[u8], &str); 14] = [
        (b"path=a\n", "the length is missing"),
        (b"9path=a\n\n", "the length is missing"),
        (b"+9 path=a\n", "the length is missing"),
        (b"-9 path=a\n", "the length is missing"),
        (b"99999999999999999999 path=a\n", "the length is missing"),
        (b"9 path=a\n\0\0\0", "the length is missing"),
        (b"11 path=a\n", "longer than the header"),
        (b"8 path=a\n", "the length is wrong"),
        (b"9 path=a ", "the length is wrong"),
        (b"0 path=a\n", "the length is wrong"),
        (b"2 path=a\n", "the length is wrong"),
        (b"9  path=a\n", "the length is wrong"),
        (b"9 path a\n", "'=' is missing"),
        (b"11 pa\0th=a\n", "NUL in the keyword"),
    ];
    for (body, reason) in bodies {
        let error = Stream::new().member(b'x', "x", body).member(b'0', "a", b"").error();
        assert_eq!(
            error,
            format!("layer: entry 'x' at offset 0: malformed PAX record: {reason}"),
            "{body:?}"
        );
    }
}

#[test]
fn x10_pax_numbers_that_are_none_are_errors() {
    for (key, value) in [
        ("size", "-1"),
        ("size", "9223372036854775808"),
        ("size", "1 "),
        ("size", "+1"),
        ("uid", "9223372036854775808"),
        ("gid", "0x10"),
        ("mtime", "yesterday"),
    ] {
        let error = Stream::new().pax(&[(key, value.as_bytes())]).member(b'0', "a", b"").error();
        assert!(error.ends_with(&format!("malformed PAX record: invalid {key}")), "{error}");
    }
}

#[test]
fn x8_bodies_of_extension_headers_are_bounded() {
    for typeflag in *b"xgLK" {
        let stream = Stream::new().edited(typeflag, "big", b"", |header| header.set_size((1 << 20) + 1));
        assert_eq!(
            stream.error(),
            "layer: entry \'big\' at offset 0: 1048577 exceeds the limit extension-bytes (1048576)"
        );
    }
    let largest = vec![b'n'; 1 << 20];
    let entry = Stream::new().gnu(b'L', "l", &largest, |_| ()).member(b'0', "a", b"").only();
    assert_eq!(entry.name, largest);
}

#[test]
fn f24_windows_layers_are_told_once() {
    let windows: [(&str, &[u8]); 1] = [("MSWINDOWS.fileattr", b"32")];
    let stream = Stream::new().pax(&windows).member(b'0', "a", b"").pax(&windows).member(b'0', "b", b"");
    assert_eq!(stream.parse().unwrap().warned(WarningKind::WindowsLayer), ["a"]);
}

/// Comparing each of thirty thousand names with all others would take seconds.
#[test]
fn x11_many_xattrs_take_no_quadratic_time() {
    let body: Vec<u8> =
        (0..30_000).flat_map(|n| record(&format!("SCHILY.xattr.user.{n:04x}"), b"")).collect();
    let found = Stream::new().member(b'x', "x", &body).member(b'0', "a", b"").parse().unwrap();
    // Ten bytes each with its NUL: 64 KiB of names can be listed.
    assert_eq!(found.entries[0].xattrs.len(), 6553);
    assert_eq!(found.warned(WarningKind::XattrLeftOut), ["a"]);
}
