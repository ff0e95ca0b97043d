//! Images whose layers are in a registry: what is requested, and what wrong bytes and failures do to readers.

use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Archive, tar_of};
use crate::compress::Compression;
use crate::digest::Algorithm;
use crate::layer::samples::{compressed, sample_tar};
use crate::read_at::ReadAt;
use crate::source::fake::{Fake, Fault};
use crate::source::{BlobIdentity, Cancel, NetError};
use crate::store::{Key, Store};
use crate::{EngineOptions, Error, ExportOptions, Image, LoadOptions, Property, Result, SelectedImage};

/// Longer than any test takes.
const PATIENT: Duration = Duration::from_secs(100);
const BLOCK: u64 = 64 << 10;

/// An image of a layer of eleven spans and a small layer, in a registry, and a cache directory.
struct Place {
    archive: Archive,
    tars: [Vec<u8>; 2],
    layers: [Arc<Fake>; 2],
    net_timeout: Duration,
    cancel: Cancel,
}

impl Place {
    fn new(compression: Compression) -> Self {
        Place::paced(compression, Duration::ZERO)
    }

    fn paced(compression: Compression, pace: Duration) -> Self {
        Place::of_tars([sample_tar(), tar_of(&[("small", "small")])], compression, pace)
    }

    fn of_tars(tars: [Vec<u8>; 2], compression: Compression, pace: Duration) -> Self {
        let layers = tars.each_ref().map(|tar| Fake::paced(compressed(compression, tar), vec![], pace));
        let archive = Archive::of_tars(&tars, compression);
        Place { archive, tars, layers, net_timeout: PATIENT, cancel: Cancel::default() }
    }

    fn cache_dir(&self) -> PathBuf {
        self.archive.home.path().join("cache")
    }

    fn store(&self) -> Store {
        Store::open(&self.cache_dir()).unwrap()
    }

    /// Selects the image as a new process does.
    fn select(&self) -> SelectedImage {
        let mut selected = self.archive.select(EngineOptions::default().store(self.store()));
        for (layer, fake) in selected.opened.layers.iter_mut().zip(&self.layers) {
            let digest = Algorithm::Sha256.digest(&fake.bytes);
            layer.descriptor.digest = Some(digest);
            layer.descriptor.size = Some(fake.bytes.len() as u64);
            layer.identity = BlobIdentity::Digest(digest);
            layer.bytes = fake.blob(self.cache_dir(), self.net_timeout, &self.cancel);
        }
        selected
    }

    fn load(&self) -> Result<Image> {
        self.select().load(&LoadOptions::default())
    }

    /// Loads the image with stored indexes and without a byte of the layers.
    fn load_evicted(&self) -> Image {
        drop(self.load().unwrap());
        std::fs::remove_dir_all(self.cache_dir().join("blobs")).unwrap();
        let before = self.requests();
        let image = self.load().unwrap();
        assert_eq!(self.requests(), before, "the indexes are stored");
        image
    }

    /// Returns the ranges that were requested of the large layer.
    fn requests(&self) -> Vec<Range<u64>> {
        self.layers[0].requests().into_iter().map(|(range, _)| range).collect()
    }

    fn large(&self) -> &[u8] {
        // In the tar, headers and the first file precede the content.
        &self.tars[0][3 * 512..][..11 << 20]
    }

    /// Returns the stored bytes of each span of the large layer, in whole blocks.
    fn spans(&self) -> Vec<Range<u64>> {
        let [fake, _] = &self.layers;
        let diff_id = Algorithm::Sha256.digest(&self.tars[0]);
        let blob = Algorithm::Sha256.digest(&fake.bytes).to_string();
        let index = self.store().load(&Key::layer(&diff_id, Some(&blob))).unwrap().index;
        let len = fake.bytes.len() as u64;
        let starts = (0..index.span_count()).map(|at| {
            let offset = index.span(at).unwrap().extent.offset;
            index.checkpoint_at(offset).map_or(offset, |at| index.checkpoint(at).unwrap().compressed_offset)
        });
        let mut starts: Vec<u64> = starts.collect();
        starts.push(len);
        // A deflate checkpoint can lie inside the byte at its offset.
        let shared = u64::from(index.facts().compression != Compression::Plain);
        let blocks =
            |pair: &[u64]| pair[0] / BLOCK * BLOCK..((pair[1] + shared).div_ceil(BLOCK) * BLOCK).min(len);
        starts.windows(2).map(blocks).collect()
    }
}

fn read(image: &Image, path: &str) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    image.open_file(path).unwrap().read_to_end(&mut content).map(|_| content)
}

#[test]
fn a_first_load_is_one_request_a_layer_and_the_next_one_needs_none_and_no_network() {
    for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
        let place = Place::new(compression);
        let image = place.load().unwrap();
        let whole = place.layers.each_ref().map(|fake| vec![(0..fake.bytes.len() as u64, false)]);
        assert_eq!(place.layers.each_ref().map(|fake| fake.requests()), whole, "{compression}");
        assert!(read(&image, "/large").unwrap() == place.large());
        let names = std::fs::read_dir(place.cache_dir().join("blobs")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(names.iter().filter(|name| name.ends_with(".blob")).count(), 2, "{names:?}");

        let next = place.load().unwrap();
        assert!(read(&next, "/large").unwrap() == place.large());
        assert_eq!(read(&next, "/small").unwrap(), b"small");
        assert_eq!(place.layers.each_ref().map(|fake| fake.requests()), whole, "{compression}");
    }
}

#[test]
fn without_its_content_a_file_costs_one_request_of_its_span() {
    for compression in [Compression::Plain, Compression::Gzip] {
        let place = Place::new(compression);
        let image = place.load_evicted();
        assert_eq!(read(&image, "/first").unwrap(), b"1");
        assert_eq!(place.requests()[1..], [place.spans()[0].clone()], "{compression}");
        let served = place.layers[0].served() - place.layers[0].bytes.len() as u64;
        assert_eq!(served, place.spans()[0].end, "{compression}: no byte beyond");
        assert_eq!(read(&image, "/first").unwrap(), b"1");
        assert_eq!(place.requests().len(), 2, "{compression}");
    }
}

#[test]
fn scattered_reads_are_one_request_each_and_nothing_is_requested_ahead() {
    let place = Place::new(Compression::Gzip);
    let image = place.load_evicted();
    let file = image.open_file("/large").unwrap();
    for span in [8, 2, 5] {
        let mut buf = [0; 100];
        let offset = (span << 20) + (600 << 10);
        file.read_at(&mut buf, offset).unwrap();
        assert!(buf == place.large()[usize::try_from(offset).unwrap()..][..100]);
    }
    assert_eq!(place.requests()[1..].len(), 3, "{:?}", place.requests());
}

#[test]
fn reading_forward_requests_ahead_joined_and_no_byte_twice() {
    for compression in [Compression::Plain, Compression::Gzip] {
        let place = Place::paced(compression, Duration::from_micros(50));
        let image = place.load_evicted();
        assert!(read(&image, "/large").unwrap() == place.large(), "{compression}");
        let (requests, spans) = (place.requests().len() - 1, place.spans().len());
        assert!(requests < spans, "{compression}: {requests} requests for {spans} spans");
        let len = place.layers[0].bytes.len() as u64;
        assert!(place.layers[0].served() <= 2 * len, "{compression}");
    }
}

#[test]
fn what_a_higher_layer_removes_is_not_requested_ahead() {
    const MIB: usize = 1 << 20;
    let files = [("front", vec![1; 4 * MIB]), ("hidden", vec![2; 8 * MIB]), ("rear", vec![3; 2 * MIB])];
    let tars = [tar_of(&files), tar_of(&[(".wh.hidden", "")])];
    let place = Place::of_tars(tars, Compression::Plain, Duration::from_micros(50));
    let image = place.load_evicted();
    for (name, content) in [&files[0], &files[2]] {
        assert!(read(&image, &format!("/{name}")).unwrap() == *content, "{name}");
    }
    drop(image);
    // The spans at its ends hold parts of the other files, too.
    let inside = 5 * MIB as u64..11 * MIB as u64;
    let requests = &place.requests()[1..];
    let wrong: Vec<_> =
        requests.iter().filter(|range| range.start < inside.end && range.end > inside.start).collect();
    assert!(wrong.is_empty(), "{wrong:?} of {requests:?}");
    assert!(requests.len() < 9, "some ahead, and joined: {requests:?}");
}

#[test]
fn an_export_requests_ahead_in_its_order() {
    let place = Place::paced(Compression::Gzip, Duration::from_micros(50));
    let image = place.load_evicted();
    let mut tar = Vec::new();
    image.export(&mut tar, &ExportOptions::default()).unwrap();
    assert!(tar.len() > place.large().len());
    let (requests, spans) = (place.requests().len() - 1, place.spans().len());
    assert!(requests < spans, "{requests} requests for {spans} spans");
    assert!(place.layers[0].served() <= 2 * place.layers[0].bytes.len() as u64);
}

#[test]
fn a_wrong_span_is_requested_once_more_past_caches_and_then_fails() {
    for compression in [Compression::Plain, Compression::Gzip] {
        let place = Place::new(compression);
        let image = place.load_evicted();
        let middle = place.spans()[0].end / 2;
        place.layers[0].fail_next([Fault::Wrong(middle)]);
        assert_eq!(read(&image, "/first").unwrap(), b"1", "{compression}");
        let span = place.spans()[0].clone();
        assert_eq!(place.layers[0].requests()[1..], [(span.clone(), false), (span.clone(), true)]);

        let place = Place::new(compression);
        let image = place.load_evicted();
        place.layers[0].fail_next([Fault::Wrong(middle), Fault::Wrong(middle)]);
        let error = read(&image, "/first").unwrap_err();
        assert_eq!(place.requests().len(), 3, "{compression}: {error}");
        // The source is right again, and so is the next read.
        assert_eq!(read(&image, "/first").unwrap(), b"1", "{compression}");
    }
}

#[test]
fn a_byte_that_changed_in_the_cache_is_replaced() {
    for compression in [Compression::Plain, Compression::Gzip] {
        let place = Place::new(compression);
        drop(place.load().unwrap());
        let digest = Algorithm::Sha256.digest(&place.layers[0].bytes);
        let path = place.cache_dir().join(format!("blobs/sha256-{}.blob", digest.hex()));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(3 * BLOCK).unwrap()] ^= 1;
        std::fs::File::options().write(true).open(&path).unwrap().write_all(&bytes).unwrap();
        let image = place.load().unwrap();
        assert!(read(&image, "/large").unwrap() == place.large(), "{compression}");
        let requests = place.layers[0].requests();
        // A reader of the next span may request the block that both share.
        assert!((2..=3).contains(&requests.len()) && requests[1].1, "{compression}: {requests:?}");
        assert!(read(&place.load().unwrap(), "/large").unwrap() == place.large(), "{compression}");
        assert_eq!(place.requests().len(), requests.len(), "{compression}");
    }
}

#[test]
fn a_pass_over_wrong_bytes_is_made_once_more_and_wrong_bytes_are_not_kept() {
    let place = Place::new(Compression::Gzip);
    place.layers[0].fail_next([Fault::Wrong(10)]);
    let image = place.load().unwrap();
    assert!(read(&image, "/large").unwrap() == place.large());
    let fresh: Vec<bool> = place.layers[0].requests().into_iter().map(|(_, fresh)| fresh).collect();
    assert_eq!(fresh, [false, true]);

    let place = Place::new(Compression::Gzip);
    place.layers[0].fail_next([Fault::Wrong(10), Fault::Wrong(10)]);
    let error = place.load().unwrap_err();
    assert!(matches!(error, Error::Mismatch { property: Property::BlobDigest, .. }), "{error}");
    let image = place.load().unwrap();
    assert!(read(&image, "/large").unwrap() == place.large());
}

#[test]
fn a_pass_that_failed_is_continued_by_the_next_one() {
    let place = Place::new(Compression::Gzip);
    let len = place.layers[0].bytes.len() as u64;
    let denied = NetError::Denied { host: "registry.test".into(), user: None };
    place.layers[0].fail_next([Fault::Cut(len / 2), Fault::Fail(denied)]);
    let error = place.load().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().contains("'registry.test' denies access"), "{error}");
    let image = place.load().unwrap();
    assert!(read(&image, "/large").unwrap() == place.large());
    assert_eq!(*place.requests().last().unwrap(), len / 2 / BLOCK * BLOCK..len);
    assert_eq!(place.layers[0].served(), len + len / 2 % BLOCK);
}

#[cfg(feature = "fuse")]
mod mounted {
    use std::fs;
    use std::os::unix::fs::FileExt as _;
    use std::thread;

    use super::super::panics::can_mount;
    use super::*;
    use crate::MountOptions;

    /// Mounts the image without its content; `None` if this machine cannot mount.
    fn mount(place: &Place) -> Option<(PathBuf, crate::Mounted)> {
        mount_image(place, |place| Ok(place.load_evicted()))
    }

    fn mount_image(
        place: &Place,
        load: impl FnOnce(&Place) -> Result<Image>,
    ) -> Option<(PathBuf, crate::Mounted)> {
        let point = place.archive.home.path().join("mnt");
        fs::create_dir_all(&point).unwrap();
        if !can_mount(&point) {
            return None;
        }
        let mounted = load(place)
            .unwrap()
            .mount(crate::MountPoint::open(&point).unwrap(), &MountOptions::default().threads(2))
            .unwrap();
        Some((point, mounted))
    }

    #[test]
    fn a_host_that_does_not_answer_is_a_timeout_and_the_next_read_tries_again() {
        let place = Place { net_timeout: Duration::from_millis(700), ..Place::new(Compression::Gzip) };
        let Some((point, mounted)) = mount(&place) else { return };
        place.layers[0].fail_next(vec![Fault::Stall(0); 20]);
        let begun = std::time::Instant::now();
        let reader = thread::spawn({
            let point = point.clone();
            move || fs::read(point.join("first"))
        });
        while place.requests().len() < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        // Meanwhile the tree and other layers are there.
        assert_eq!(fs::read_dir(&point).unwrap().count(), 4);
        assert_eq!(fs::read(point.join("small")).unwrap(), b"small");
        let error = reader.join().unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
        place.layers[0].heal();
        assert_eq!(fs::read(point.join("first")).unwrap(), b"1");
        mounted.unmount().unwrap();
    }

    #[test]
    fn a_host_that_denies_access_is_eacces_and_wrong_bytes_are_eio() {
        let place = Place::new(Compression::Gzip);
        let Some((point, mounted)) = mount(&place) else { return };
        let denied = NetError::Denied { host: "registry.test".into(), user: Some("eve".into()) };
        let wrong = Fault::Wrong(place.spans()[0].end / 2);
        for (faults, errno) in [
            (vec![Fault::Fail(denied); 4], libc::EACCES),
            (vec![wrong; 4], libc::EIO),
            (vec![Fault::Elsewhere; 4], libc::EIO),
        ] {
            place.layers[0].fail_next(faults);
            let error = fs::read(point.join("first")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            place.layers[0].heal();
        }
        assert_eq!(fs::read(point.join("first")).unwrap(), b"1");
        mounted.unmount().unwrap();
    }

    #[test]
    fn cached_bytes_that_are_wrong_hold_up_no_other_request() {
        let place = Place::new(Compression::Gzip);
        drop(place.load().unwrap());
        let digest = Algorithm::Sha256.digest(&place.layers[0].bytes).to_string();
        let kept = place.cache_dir().join(format!("blobs/{}.blob", digest.replace(':', "-")));
        fs::write(kept, vec![0; place.layers[0].bytes.len()]).unwrap();
        let Some((point, mounted)) = mount_image(&place, Place::load) else { return };
        place.layers[0].fail_next(vec![Fault::Stall(0); 100]);
        // More readers than the mount has threads for the requests of the kernel.
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let file = fs::File::open(point.join("large")).unwrap();
                thread::spawn(move || file.read_at(&mut [0; 4096], reader * (2 << 20)))
            })
            .collect();
        while place.layers[0].requests().len() < 3 {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(fs::read_dir(&point).unwrap().count(), 4);
        assert_eq!(fs::read(point.join("small")).unwrap(), b"small");
        let requests = place.layers[0].requests();
        assert!(requests.len() <= 5, "readers still wait for their first request: {requests:?}");
        place.cancel.cancel();
        readers.into_iter().for_each(|reader| assert!(reader.join().unwrap().is_err()));
        mounted.unmount().unwrap();
    }

    #[test]
    fn cancelling_ends_reads_at_once_so_that_the_mount_can_be_removed() {
        let place = Place::new(Compression::Gzip);
        let Some((point, mounted)) = mount(&place) else { return };
        place.layers[0].fail_next(vec![Fault::Stall(0); 100]);
        let readers: Vec<_> = ["first", "large", "last"]
            .map(|name| {
                let path = point.join(name);
                thread::spawn(move || fs::read(path))
            })
            .into();
        while place.requests().len() < 2 {
            thread::sleep(Duration::from_millis(5));
        }
        let begun = std::time::Instant::now();
        place.cancel.cancel();
        for reader in readers {
            assert_eq!(reader.join().unwrap().unwrap_err().raw_os_error(), Some(libc::EIO));
        }
        mounted.unmount().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

/// A source of local bytes has no remote part, so nothing of this concerns it.
#[test]
fn local_layers_have_no_remote_part() {
    let place = Place::new(Compression::Gzip);
    let selected = place.archive.select(EngineOptions::default());
    assert!(selected.opened.layers.iter().all(|layer| layer.bytes.remote().is_none()));
    assert!(place.select().opened.layers.iter().all(|layer| layer.bytes.remote().is_some()));
}
