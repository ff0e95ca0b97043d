//! Archives: compression of the whole file, standard input, and files that are not archives.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

pub(super) fn layout() -> Files {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    files.layout(&[named(manifest, "a:1")]);
    files
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

#[test]
fn f10_an_archive_compressed_as_a_whole_is_read_the_same() {
    let place = Site::of_bytes(&gzip(&layout().tar()));
    assert_eq!(place.layers("a:1"), ["A"]);
}

#[test]
fn f10_without_a_decoder_the_compression_is_named() {
    for (head, name) in [
        (&b"\x1f\x8b\x08\0\0\0"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
        (b"\x5e\x2a\x4d\x18\0\0", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh91AY&SY", "bzip2"),
    ] {
        let place = Site::of_bytes(head);
        let reference = Reference::parse(place.path.as_os_str(), None).unwrap();
        let error = open(&reference, &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("an archive compressed with {name}")), "{error}");
    }
}

#[test]
fn standard_input_is_spooled_and_read_like_a_file() {
    let source = from_stdin(&layout().tar(), &options()).unwrap();
    assert_eq!(source.kind(), "oci-archive");
    assert_eq!(contents(&source.image(&Selection::Sole, None).unwrap()), ["A"]);
    let refused = from_stdin(b"", &OpenOptions::default()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { .. }));
}

#[test]
fn what_is_no_image_is_called_so() {
    let text = Site::of_bytes(b"hello, this is a text and not an image").open();
    assert!(text.unwrap_err().to_string().ends_with("neither a directory nor a tar archive"));
    let mut rootfs = Files::default();
    rootfs.file("etc/passwd", "root");
    for place in [rootfs.as_tar(), rootfs.as_directory()] {
        let error = place.open().unwrap_err().to_string();
        assert!(error.ends_with("and no store of an engine"), "{error}");
    }
    let device = Reference::parse(OsStr::new("/dev/null"), None).unwrap();
    let error = open(&device, &options()).unwrap_err().to_string();
    assert!(error.ends_with("neither a file nor a directory"), "{error}");
}

#[test]
fn every_supported_transport_opens_a_place_and_a_place_is_called_by_one() {
    let names: Vec<_> = Transport::supported().map(Transport::name).collect();
    assert!(names.len() > 4 && !names.contains(&"https"), "{names:?}");
    let layout = layout();
    for place in [layout.as_tar(), layout.as_directory()] {
        let kind = place.open().unwrap().kind();
        assert!(names.contains(&kind), "{kind}");
        assert_eq!(place.open_as(&format!("{kind}:")).unwrap().kind(), kind);
    }
}

#[test]
fn a_transport_that_cannot_be_opened_is_refused_before_its_place_is_looked_at() {
    let reference = Reference {
        transport: Transport::all().find(|transport| transport.name() == "https"),
        location: Location::Path("/there/is/no/such/path".into()),
        selection: Selection::Sole,
    };
    let error = open(&reference, &options()).unwrap_err().to_string();
    assert!(error.starts_with("transport 'https': not supported"), "{error}");
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let mut files = layout();
    files.file("last", vec![0; 4096]);
    let tar = files.tar();
    let error = Site::of_bytes(&tar[..tar.len() - 3072]).open().unwrap_err().to_string();
    assert!(
        error.contains("entry 'last'") && error.ends_with("the stream ends within the payload"),
        "{error}"
    );
}

#[test]
fn names_are_found_without_reading_payloads() {
    #[derive(Debug)]
    struct Counted(Vec<u8>, AtomicU64);
    impl ReadAt for Counted {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
            self.0.read_exact_at(buf, offset)
        }
    }
    let mut files = Files::default();
    files.file("big", vec![7; 1 << 20]).file("small", "A");
    let counted = Counted(files.tar(), AtomicU64::new(0));
    assert_eq!(scan(&counted, Limits::default()).unwrap().unwrap().len(), 2);
    // Only the bytes around the two headers are read, not the megabyte between them.
    assert!(counted.1.load(Ordering::Relaxed) <= 2 * 32 * 1024);
}

#[test]
fn a_named_pipe_in_a_layout_is_refused_and_not_waited_for() {
    let mut files = layout();
    files.remove("index.json");
    let place = files.as_directory();
    let fifo = place.path.join("index.json");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    assert!(place.open().unwrap_err().to_string().ends_with("not a regular file"));
}

#[test]
fn a_blob_with_a_digest_is_identified_by_it() {
    let image = layout().as_tar().image("").unwrap();
    assert_eq!(image.layers[0].identity, BlobIdentity::Digest(sha256(b"A")));
}

fn docker_archive() -> Files {
    let mut files = Files::default();
    files.json("config.json", &config("linux/amd64", &["A"])).file("a.tar", "A");
    files.json("manifest.json", &json!([{"Config": "config.json", "Layers": ["a.tar"]}]));
    files
}

#[test]
fn a_blob_without_a_digest_is_identified_by_its_place_in_the_file() {
    let place = docker_archive().as_tar();
    let image = place.image("").unwrap();
    let BlobIdentity::File(identity) = image.layers[0].identity else { panic!("{image:?}") };
    let file = fs::read(&place.path).unwrap();
    let whole = FileIdentity::of(&fs::File::open(&place.path).unwrap()).unwrap();
    let offset = u64::try_from(file.iter().position(|byte| *byte == b'A').unwrap()).unwrap();
    assert_eq!(identity, FileIdentity { offset, len_bytes: 1, ..whole });
}

#[test]
fn nothing_identifies_what_came_from_standard_input() {
    let source = from_stdin(&docker_archive().tar(), &options()).unwrap();
    let image = source.image(&Selection::Sole, None).unwrap();
    assert_eq!(image.layers[0].identity, BlobIdentity::Unknown);
    assert_eq!(image.layers[0].identity.store_name(), None);
}
