//! Archives as such: whole compression, standard input, what is none.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

fn layout() -> Files {
    let mut files = Files::default();
    let manifest = files.image("linux/amd64", &["A"]);
    files.layout(&[named(manifest, "a:1")]);
    files
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

#[test]
fn f10_an_archive_compressed_as_a_whole_is_read_the_same() {
    let place = Place::of_bytes(&gzip(&layout().tar()));
    assert_eq!(place.layers("a:1"), ["A"]);
}

#[test]
fn f10_without_a_decoder_the_compression_is_named() {
    for (head, name) in [
        (&b"\x1f\x8b\x08\0\0\0"[..], "gzip"),
        (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
        (b"\x5e\x2a\x4d\x18\0\0", "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh91A", "bzip2"),
    ] {
        let place = Place::of_bytes(head);
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
    let text = Place::of_bytes(b"hello, this is a text and not an image").open();
    assert!(text.unwrap_err().to_string().ends_with("neither a directory nor a tar archive"));
    let mut rootfs = Files::default();
    rootfs.file("etc/passwd", "root");
    for place in [rootfs.as_tar(), rootfs.as_directory()] {
        let error = place.open().unwrap_err().to_string();
        assert!(error.ends_with("nor 'manifest.json'"), "{error}");
    }
    let device = Reference::parse(OsStr::new("/dev/null"), None).unwrap();
    let error = open(&device, &options()).unwrap_err().to_string();
    assert!(error.ends_with("neither a file nor a directory"), "{error}");
}

#[test]
fn a_transport_that_is_not_served_is_named() {
    for transport in ["registry", "docker-graph", "containers-storage", "containerd"] {
        let reference = Reference::parse(OsStr::new(&format!("{transport}:/x")), None).unwrap();
        let error = open(&reference, &options()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("transport '{transport}': not supported")), "{error}");
    }
}

#[test]
fn an_archive_that_is_cut_off_is_refused() {
    let mut files = layout();
    files.file("last", vec![0; 4096]);
    let tar = files.tar();
    let error = Place::of_bytes(&tar[..tar.len() - 3072]).open().unwrap_err().to_string();
    assert!(
        error.contains("entry 'last'") && error.ends_with("the stream ends within its payload"),
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
    assert_eq!(scan(&counted).unwrap().unwrap().len(), 2);
    // What stands around the two headers, and not the megabyte between them.
    assert!(counted.1.load(Ordering::Relaxed) <= 2 * crate::layer::scan::SCAN_BYTES as u64);
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
fn identities_tell_parts_of_a_file_apart() {
    let place = layout().as_tar();
    let image = place.image("").unwrap();
    let identity = image.layers[0].identity;
    let file = fs::read(&place.path).unwrap();
    let offset = usize::try_from(identity.offset).unwrap();
    assert_eq!((file[offset], identity.len_bytes), (b'A', 1));
    assert_eq!(identity.size, file.len() as u64);
}
