//! Registries that lie about layers: about their sizes, with wrong bytes, and by taking for ever. Rules X27 and X29.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::fixture::sha256_hex;

/// Returns the manifest of `image` with this size for each layer.
fn with_sizes(image: &Image, size: u64) -> Vec<u8> {
    let mut manifest: Value = serde_json::from_slice(&image.manifest()).unwrap();
    for layer in manifest["layers"].as_array_mut().unwrap() {
        layer["size"] = size.into();
    }
    manifest.to_string().into_bytes()
}

#[test]
fn x27_sizes_that_cannot_be_are_refused_before_anything_is_prepared() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = sample();
    for size in [(256 << 30) + 1, 1 << 62, 1 << 63, u64::MAX] {
        registry.push_with_manifest("app:1", &image, with_sizes(&image, size));
        for command in [["ls", "--no-cache"], ["ls", "-R"], ["inspect", "--json"], ["verify", "-v"]] {
            let reference = registry.reference("app:1");
            let args = [&command[..], &[&reference]].concat();
            imgmount_run(&imgmount, &args).expect(2).says("registry-image-bytes");
        }
    }
    // A size that could be, and is not: nothing is done for each of its bytes.
    registry.push_with_manifest("app:1", &image, with_sizes(&image, (256 << 30) / image.layers.len() as u64));
    let begun = Instant::now();
    imgmount_run(&imgmount, &["ls", "--net-timeout", "3s", &registry.reference("app:1")]).expect(2);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(imgmount_run(&imgmount, &["cache", "ls"]).expect(0).text().lines().count() < 20);
}

/// Returns a tar of `len` bytes that begins with an extension header beyond the limit on extensions.
fn beyond_a_limit(len: usize) -> Vec<u8> {
    let mut header = [0; 512];
    header[..5].copy_from_slice(b"large");
    header[124..136].copy_from_slice(b"00010000000\0");
    header[156] = b'x';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = vec![0; len];
    tar[..512].copy_from_slice(&header);
    tar
}

/// The error of an uncompressed layer names its diff_id, that of an exceeded limit no digest at all. Both
/// were taken for faults of the image, and the wrong bytes were used again for ever.
#[test]
fn x27_wrong_bytes_are_requested_again_and_not_kept() {
    for layer_bytes in [700_000, 3 << 20] {
        let (imgmount, registry) = (Imgmount::new(), Registry::start());
        let items = [file("etc/os-release", b"ID=test"), file("big", patterned(layer_bytes, 1))];
        let image = Image::named("a:1").layer_as("COPY", &items, "", Compression::Plain);
        registry.push("app:1", &image);
        let right = image.layers[0].blob.clone();
        let digest = format!("sha256:{}", sha256_hex(&right));
        let mut flipped = right.clone();
        flipped[600] ^= 1;
        let reference = registry.reference("app:1");
        for wrong in [flipped, beyond_a_limit(right.len())] {
            registry.replace_blob(&digest, wrong);
            imgmount_run(&imgmount, &["ls", &reference]).expect(2);
            registry.replace_blob(&digest, right.clone());
            registry.requests();
            let shown = imgmount_run(&imgmount, &["cat", &format!("{reference}:/etc/os-release")]).expect(0);
            assert_eq!(shown.text(), "ID=test");
            assert_eq!(count(&registry.requests(), "GET blobs/"), 1, "the layer; the config is known");
            imgmount_run(&imgmount, &["cache", "clear"]).expect(0);
        }
    }
}

#[test]
fn x29_another_size_for_a_digest_takes_nothing_from_the_cache() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    let image = sample();
    registry.push("app:1", &image);
    imgmount_run(&imgmount, &["ls", &registry.reference("app:1")]).expect(0);
    for size in [1000, 1 << 20] {
        registry.push_with_manifest("app:2", &image, with_sizes(&image, size));
        imgmount_run(&imgmount, &["ls", "--net-timeout", "3s", &registry.reference("app:2")]).expect(2);
    }
    let offline = ["export", "--offline", &registry.reference("app:1")];
    assert!(!imgmount_run(&imgmount, &offline).expect(0).stdout.is_empty());
}

#[test]
fn x27_a_download_that_trickles_is_given_up() {
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large());
    for fault in [Fault::Trickle(0), Fault::Trickle(200_000)] {
        registry.fail(move |seen| (seen.is_blob() && seen.what() != "cdn/").then(|| fault.clone()));
        let begun = Instant::now();
        let args = ["ls", "--net-timeout", "2s", &registry.reference("app:1")];
        imgmount_run(&imgmount, &args).expect(2).says("in time");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}

/// The answer to a request for a part was the whole layer, a byte now and then. Nobody else requested it.
#[test]
fn x27_a_whole_layer_that_trickles_holds_up_nobody_for_long() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large());
    let reference = registry.reference("app:1");
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    std::fs::remove_dir_all(imgmount.cache().join("blobs")).unwrap();
    let mounted = imgmount.mount_in_foreground(&reference, &["--net-timeout", "2s"]);
    registry.fail(|seen| seen.headers.contains_key("range").then_some(Fault::Trickle(100)));
    let path = mounted.path().join("etc/os-release");
    assert!(std::fs::read(&path).is_err());
    registry.recover();
    let begun = Instant::now();
    while std::fs::read(&path).ok().as_deref() != Some(b"ID=test") {
        assert!(begun.elapsed() < Duration::from_secs(20), "the layer is lost for this mount");
    }
}

#[test]
fn x29_the_cache_of_a_mount_without_network_is_not_cleared() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let (imgmount, registry) = (Imgmount::new(), Registry::start());
    registry.push("app:1", &large());
    let reference = registry.reference("app:1");
    imgmount_run(&imgmount, &["ls", &reference]).expect(0);
    let mounted = imgmount.mount(&reference, &["--offline"]);
    imgmount_run(&imgmount, &["cache", "clear"]).expect(0);
    assert_eq!(std::fs::read(mounted.path().join("etc/os-release")).unwrap(), b"ID=test");
}
