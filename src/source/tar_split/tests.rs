use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::*;
use crate::read_at::{ReadAt, read_to_vec};
use crate::source::assembled::AssembledTar;

/// A header for `name` with `size`, after the PAX records `pax`.
fn header(name: &str, size: u64, pax: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |kind: tar::EntryType, name: &str, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
    };
    if pax.is_empty() {
        push(tar::EntryType::Regular, name, size);
        return bytes;
    }
    let records: Vec<u8> = pax.iter().flat_map(|(key, value)| record(key, value)).collect();
    push(tar::EntryType::XHeader, "pax", records.len() as u64);
    let body = pad(&records);
    push(tar::EntryType::Regular, name, size);
    [&bytes[..512], &body, &bytes[512..]].concat()
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let len = (rest + 1..).find(|len| len.to_string().len() + rest == *len).unwrap();
    format!("{len} {key}={value}\n").into_bytes()
}

fn pad(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(512), 0);
    padded
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn segment(position: usize, bytes: &[u8]) -> String {
    format!("{{\"type\":2,\"payload\":\"{}\",\"position\":{position}}}\n", STANDARD.encode(bytes))
}

fn crc(content: &[u8]) -> String {
    STANDARD.encode(crc::Crc::<u64>::new(&crc::CRC_64_GO_ISO).checksum(content).to_be_bytes())
}

fn entry(position: usize, name: &str, content: &[u8]) -> String {
    let (size, crc) = (content.len(), crc(content));
    format!(
        "{{\"type\":1,\"name\":\"{name}\",\"size\":{size},\"payload\":\"{crc}\",\"position\":{position}}}\n"
    )
}

/// The lines of a tar with one file `./etc/a`.
fn sample() -> String {
    [
        segment(0, &header("./etc/a", 5, &[])),
        entry(1, "./etc/a", b"hello"),
        segment(2, &[0; 507]),
        segment(3, &[0; 1024]),
    ]
    .concat()
}

/// Returns texts that refer to the files of the fuzz target.
pub(in crate::source) fn seeds() -> Vec<Vec<u8>> {
    let second = [
        segment(0, &header("b", 700, &[("mtime", "1.5")])),
        entry(1, "b", &[7; 700]),
        segment(2, &[0; 324]),
        segment(3, &header("etc/a", 5, &[])),
        entry(4, "./etc/a", b"hello"),
        segment(5, &[0; 507 + 1024]),
    ];
    vec![sample().into_bytes(), second.concat().into_bytes()]
}

fn open(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn plan_of(bytes: &[u8]) -> io::Result<TarPlan> {
    plan(open(bytes), &Subject::Image)
}

fn fault(text: &str) -> String {
    let fault = plan_of(&gzip(text.as_bytes())).unwrap_err();
    assert_eq!(fault.kind(), io::ErrorKind::InvalidData);
    fault.to_string().strip_prefix("the image: ").unwrap().to_owned()
}

fn assembled(dir: &Path, bytes: Vec<u8>) -> Arc<AssembledTar> {
    Arc::new(AssembledTar::new(Beneath::open(dir).unwrap(), move || plan_of(&bytes)))
}

#[test]
fn f26_the_tar_is_put_together_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/a"), b"hello").unwrap();
    let tar = assembled(dir.path(), gzip(sample().as_bytes()));
    let expected = [header("./etc/a", 5, &[]), pad(b"hello"), vec![0; 1024]].concat();
    assert_eq!(read_to_vec(&*tar).unwrap(), expected);
    let mut streamed = Vec::new();
    tar.clone().stream(0..tar.len()).read_to_end(&mut streamed).unwrap();
    assert_eq!(streamed, expected);
    // A line may end without a line break, and a member of the gzip data anywhere.
    let text = sample();
    let (first, rest) = text.trim_end().split_at(100);
    let members = [gzip(first.as_bytes()), gzip(rest.as_bytes())].concat();
    assert_eq!(read_to_vec(&*assembled(dir.path(), members)).unwrap(), expected);
}

#[test]
fn f26_names_are_bytes_and_cleaned_as_engines_clean_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), b"hello").unwrap();
    let raw = std::os::unix::ffi::OsStrExt::as_bytes(std::ffi::OsStr::new("caf\u{e9}"));
    fs::write(dir.path().join("caf\u{e9}"), b"hello").unwrap();
    let raw = format!("\"name_raw\":\"{}\"", STANDARD.encode(raw));
    for name in ["\"name\":\"/x/..//./a\"", "\"name\":\"a/\"", &raw] {
        let file = entry(1, "NAME", b"hello").replace("\"name\":\"NAME\"", name);
        let text = [segment(0, &header("a", 5, &[])), file, segment(2, &[0; 507])].concat();
        let tar = assembled(dir.path(), gzip(text.as_bytes()));
        assert!(read_to_vec(&*tar).unwrap().ends_with(&pad(b"hello")), "{name}");
    }
}

#[test]
fn f26_damaged_lines_are_named() {
    let is = |from: &str, to: &str, expected: &str| {
        let text = sample();
        assert!(text.contains(from), "{from}");
        assert_eq!(fault(&text.replacen(from, to, 1)), expected, "{to}");
    };
    is("\"position\":1", "\"position\":2", "line 1: the position is 2");
    is("\"type\":1", "\"type\":3", "line 1: unknown type 3");
    is("./etc/a", "./etc/../../a", "line 1: './etc/../../a' leads out of the layer");
    is("./etc/a", "..", "line 1: '..' leads out of the layer");
    is("./etc/a", "./", "line 1: './' is not the name of a file");
    is("./etc/a", "a\\u0000b", "line 1: 'a\\x00b' is not the name of a file");
    is("\"name\":\"./etc/a\",", "", "line 1: a file without a name");
    is(&crc(b"hello"), "aGVsbG8=", "line 1: the checksum of './etc/a' does not have 8 bytes");
    is("\"size\":5", "\"size\":5,\"size\":6", "line 1: bad JSON: duplicate field `size` at line 1 column 42");
    is("\"payload\":\"", "\"payload\":\"*", "line 0: bad base64: Invalid symbol 42, offset 0.");
    let not_json = fault(&sample().replacen("{\"type\":2", "{type", 1));
    assert!(not_json.starts_with("line 0: bad JSON: key must be a string"), "{not_json}");
    let negative = fault(&sample().replacen("\"size\":5", "\"size\":-5", 1));
    assert!(negative.starts_with("line 1: bad JSON: invalid value: integer `-5`"), "{negative}");
    let huge = fault(&sample().replacen("\"size\":5", "\"size\":18446744073709551615", 1));
    assert!(huge.contains("'./etc/a' was stored as a sparse file or with another size"), "{huge}");
}

#[test]
fn f26_a_tar_with_a_sparse_file_is_refused() {
    let old = [("GNU.sparse.size", "1024"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "0,5")];
    let new = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "1024"),
    ];
    let dense: [(&str, &str); 1] = [("mtime", "1.5")];
    for (pax, size, works) in [(&old[..], 5, false), (&new, 1024, false), (&dense, 600, true)] {
        let content = if works { vec![1; 600] } else { vec![1; 1024] };
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        let text = [segment(0, &header("s", size, pax)), entry(1, "s", &content), segment(2, &padding)];
        let text = text.concat();
        if works {
            assert_eq!(plan_of(&gzip(text.as_bytes())).unwrap().len(), 3 * 512 + 1024);
        } else {
            let reason = "line 1: 's' was stored as a sparse file or with another size in its header, \
                so the tar cannot be put together again";
            assert_eq!(fault(&text), reason);
        }
    }
}

#[test]
fn f26_every_truncated_file_is_refused() {
    let whole = gzip(sample().as_bytes());
    for len in 0..whole.len() {
        let cut = plan_of(&whole[..len]).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::InvalidData, "{len} bytes: {cut}");
    }
    let more = plan_of(&[&whole[..], b"more"].concat()).unwrap_err().to_string();
    assert_eq!(more, "the image: bytes follow the gzip data");
}

#[test]
fn f26_no_flipped_bit_gives_another_tar() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/a"), b"hello").unwrap();
    let whole = gzip(sample().as_bytes());
    let expected = read_to_vec(&*assembled(dir.path(), whole.clone())).unwrap();
    let mut refused = 0;
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        match read_to_vec(&*assembled(dir.path(), flipped)) {
            // Some bits of a gzip header mean nothing.
            Ok(read) => assert!(read == expected, "bit {bit}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > whole.len() * 7, "{refused} of {} bits", whole.len() * 8);
}

#[test]
fn f26_flipped_bytes_of_the_text_never_panic() {
    let text = sample().into_bytes();
    // Not every byte: most are zeros in base64.
    let rare = |at: &usize| text[*at] != b'A' || at.is_multiple_of(50);
    for at in (0..text.len()).filter(rare) {
        for value in [0, b'"', b'9', b'}', b'\n', 0xff] {
            let mut changed = text.clone();
            changed[at] = value;
            // Any result is right; a change within the base64 of a header gives another tar.
            let _ = plan_of(&gzip(&changed));
        }
    }
}

#[test]
fn f26_a_file_that_no_longer_fits_is_found_without_reading() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    let bytes = gzip(sample().as_bytes());
    let fitting = || {
        let root = Beneath::open(dir.path()).unwrap();
        fitting_plan(open(&bytes), &Subject::Image, &root).map(|plan| plan.len())
    };
    let missing = fitting().unwrap_err().to_string();
    assert_eq!(missing, format!("'etc/a' in '{}' is missing", dir.path().display()));
    fs::write(dir.path().join("etc/a"), b"hello").unwrap();
    assert_eq!(fitting().unwrap(), 2048);
    fs::write(dir.path().join("etc/a"), b"hello, world").unwrap();
    assert!(fitting().unwrap_err().to_string().ends_with("it has 12 bytes, not 5"));
}
