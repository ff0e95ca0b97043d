//! Tests of images from slow sources: how many requests are made.

use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Archive, tar_of};
use crate::compress::Compression;
use crate::digest::Algorithm;
use crate::layer::samples::{ALL, compressed, sample_tar};
use crate::read_at::{ReadAt, read_to_vec};
use crate::source::BlobIdentity;
use crate::store::{Key, Store};
use crate::{Engine, EngineOptions, Image, LoadOptions, Reference, SelectedImage};

/// The requests made to a layer, in order.
type Requests = Arc<Mutex<Vec<Range<u64>>>>;

/// Bytes that record every request: a stream is one request, however many pieces are read from it.
#[derive(Debug)]
struct Remote {
    bytes: Arc<dyn ReadAt>,
    requests: Requests,
}

impl ReadAt for Remote {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.requests.lock().unwrap().push(offset..offset + buf.len() as u64);
        self.bytes.read_exact_at(buf, offset)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        self.requests.lock().unwrap().push(range.clone());
        Arc::clone(&self.bytes).stream(range)
    }
}

/// A cache directory and images.
struct Place {
    home: tempfile::TempDir,
    tars: [Vec<u8>; 2],
}

impl Place {
    /// Creates an image of one large layer of several spans and one small layer.
    fn new() -> Self {
        let small = tar_of(&[("small", "small")]);
        Place { home: tempfile::tempdir().unwrap(), tars: [sample_tar(), small] }
    }

    fn store(&self) -> Store {
        Store::open(&self.home.path().join("cache")).unwrap()
    }

    /// Selects the image with a new engine, and records the requests to its layers.
    fn select(&self, path: &Path) -> (SelectedImage, Vec<Requests>) {
        let reference = Reference::parse(path.as_os_str(), None).unwrap();
        let engine = Engine::new(EngineOptions::default().store(self.store()));
        let mut selected = engine.select(&reference, None).unwrap();
        let requests = far_away(&mut selected);
        (selected, requests)
    }

    fn load(&self, path: &Path) -> (Image, Vec<Vec<Range<u64>>>) {
        let (selected, requests) = self.select(path);
        load(&selected, &requests)
    }
}

/// Records the requests to each layer from now on.
fn far_away(selected: &mut SelectedImage) -> Vec<Requests> {
    let mut all = Vec::new();
    for layer in &mut selected.opened.layers {
        let requests = Requests::default();
        layer.bytes = Arc::new(Remote { bytes: layer.bytes.clone(), requests: requests.clone() });
        all.push(requests);
    }
    all
}

fn load(selected: &SelectedImage, requests: &[Requests]) -> (Image, Vec<Vec<Range<u64>>>) {
    let image = selected.load(&LoadOptions::default()).unwrap();
    (image, requests.iter().map(|requests| std::mem::take(&mut *requests.lock().unwrap())).collect())
}

/// Names the digests of the blobs in the layers, as an OCI manifest does.
fn name_digests(selected: &mut SelectedImage, blobs: &[Vec<u8>]) {
    for (layer, blob) in selected.opened.layers.iter_mut().zip(blobs) {
        let digest = Algorithm::Sha256.digest(blob);
        layer.descriptor.digest = Some(digest);
        layer.identity = BlobIdentity::Digest(digest);
    }
}

#[test]
fn a_first_load_reads_each_layer_in_one_stream_and_a_second_one_reads_nothing() {
    for compression in ALL {
        let place = Place::new();
        let archive = Archive::of_tars(&place.tars, compression);
        let blobs = place.tars.each_ref().map(|tar| compressed(compression, tar));
        let loaded = || {
            let (mut selected, requests) = place.select(&archive.path());
            name_digests(&mut selected, &blobs);
            let (image, requests) = load(&selected, &requests);
            (image.layers().iter().map(|layer| layer.compression).collect::<Vec<_>>(), requests)
        };
        let whole = blobs.iter().map(|blob| std::iter::once(0..blob.len() as u64).collect()).collect();
        assert_eq!(loaded(), (vec![compression; 2], whole));
        assert_eq!(loaded(), (vec![compression; 2], vec![vec![], vec![]]));
    }
}

/// A docker-archive names no digests of its layers: they are identified by their place in the file.
#[test]
fn a_second_load_reads_nothing_of_layers_without_a_digest() {
    for compression in [Compression::Plain, Compression::Gzip, Compression::Xz] {
        let place = Place::new();
        let archive = Archive::of_tars(&place.tars, compression);
        place.load(&archive.path());
        assert_eq!(place.load(&archive.path()).1, [[], []], "{compression}");
        // The result is the same if the archive is compressed as a whole.
        let path = place.home.path().join("image.tar.gz");
        std::fs::write(&path, compressed(Compression::Gzip, &std::fs::read(archive.path()).unwrap()))
            .unwrap();
        place.load(&path);
        assert_eq!(place.load(&path).1, [[], []], "{compression} in gzip");
    }
}

/// A plain layer is identified by its diff_id, wherever it is stored: in another archive, a few bytes are
/// read to detect that it is plain.
#[test]
fn the_index_of_a_plain_layer_serves_every_archive_that_has_it() {
    let place = Place::new();
    let archive = Archive::of_tars(&place.tars, Compression::Plain);
    place.load(&archive.path());
    let copy = place.home.path().join("copy.tar");
    std::fs::copy(archive.path(), &copy).unwrap();
    let head = 0..Compression::HEAD_BYTES as u64;
    assert_eq!(place.load(&copy).1, [[head.clone()], [head]]);
    assert_eq!(place.load(&copy).1, [[], []]);
    let names: Vec<_> = place.store().list().unwrap().iter().map(|layer| layer.other_names.len()).collect();
    assert_eq!(names, [2, 2], "two indexes, each under the name of either file as well");
}

#[test]
fn z7_a_media_type_that_is_wrong_is_told_by_a_load_that_reads_nothing() {
    let place = Place::new();
    let archive = Archive::of_tars(&place.tars, Compression::Gzip);
    let warnings = || {
        let (mut selected, requests) = place.select(&archive.path());
        let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
        selected.opened.layers[1].descriptor.media_type = Some(media_type.to_owned());
        let (image, requests) = load(&selected, &requests);
        let told = image.warnings().iter().map(|(layer, warning)| format!("{} {}", layer.0, warning.kind));
        (told.collect::<Vec<_>>(), requests.concat().len())
    };
    let (told, read) = warnings();
    assert!(told.len() == 1 && read > 0, "{told:?}");
    assert_eq!(warnings(), (told, 0));
}

/// Reads as `cat` does: spans ahead of the reader are requested once each, too.
#[test]
fn reading_a_file_from_front_to_back_is_at_most_one_request_a_span() {
    for compression in ALL {
        let place = Place::new();
        let archive = Archive::of_tars(&place.tars, compression);
        place.load(&archive.path());
        let (selected, requests) = place.select(&archive.path());
        let image = selected.load(&LoadOptions::default()).unwrap();
        let mut content = Vec::new();
        image.open_file("/large").unwrap().read_to_end(&mut content).unwrap();
        // In the tar, headers precede the content; the other file and the end follow.
        assert!(content == place.tars[0][3 * 512..][..content.len()], "{compression}");

        let name = selected.opened.layers[0].identity.store_name();
        let index =
            place.store().load(&Key::layer(&image.layers()[0].diff_id.unwrap(), name.as_deref())).unwrap();
        let spans = index.index.span_count() as usize;
        let requests = requests[0].lock().unwrap();
        assert!((1..=spans).contains(&requests.len()), "{compression}: {spans} spans, {requests:?}");
    }
}

#[test]
fn what_is_requested_is_what_is_read() {
    let bytes: Arc<dyn ReadAt> = Arc::new(b"0123456789".to_vec());
    let requests = Requests::default();
    let remote = Arc::new(Remote { bytes, requests: requests.clone() });
    assert_eq!(read_to_vec(&*remote).unwrap(), b"0123456789");
    assert_eq!(io::read_to_string(remote.stream(2..4)).unwrap(), "23");
    assert_eq!(*requests.lock().unwrap(), [0..10, 2..4]);
}
