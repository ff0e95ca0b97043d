//! Tests reading one large file with its stored index: on all cores, and with the same results as
//! without an index.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fixture::{Compression, Image, file, oci, patterned, sha256_hex, write_dir};
use crate::mounted::{Imgmount, Run, inside, run};

/// About 24 spans: more than are decoded ahead at a time.
const LARGE: usize = 24 << 20;
/// Printed by `-v` if the stored index cannot be used.
const IN_DOUBT: &str = "decoding from the start";

/// A layout of one file, with its index in the cache.
struct Large {
    imgmount: Imgmount,
    layout: PathBuf,
    blob: PathBuf,
    content: Vec<u8>,
}

impl Large {
    fn new(compression: Compression) -> Self {
        let content = patterned(LARGE, 8);
        let image = Image::named("a:1").layer_as("COPY", &[file("large", &content)], "", compression);
        let imgmount = Imgmount::new();
        let layout = imgmount.dir().join("layout");
        write_dir(&oci(std::slice::from_ref(&image)), &layout);
        let blob = layout.join("blobs/sha256").join(sha256_hex(&image.layers[0].blob));
        run(imgmount.command(&["ls"]).arg(&layout)).expect(0);
        Large { imgmount, layout, blob, content }
    }

    fn verify(&self, options: &[&str]) -> Run {
        run(self.imgmount.command(&["verify", "--json"]).args(options).arg(&self.layout))
    }

    /// Verifies without a stored index.
    fn verify_in_one_pass(&self) -> Run {
        let nowhere = self.imgmount.dir().join("nowhere");
        let mut command = self.imgmount.command(&["verify", "--json"]);
        let said = run(command.env("IMGMOUNT_CACHE_DIR", &nowhere).arg(&self.layout));
        assert!(!nowhere.exists(), "verify keeps nothing");
        said
    }

    #[track_caller]
    fn verifies_alike(&self, code: i32, about: &str) {
        let (by_index, in_one_pass) = (self.verify(&[]), self.verify_in_one_pass());
        assert_eq!(by_index.text(), in_one_pass.text(), "{about}");
        assert_eq!((by_index.code, in_one_pass.code), (code, code), "{about}");
    }

    fn damage_blob(&self, damage: impl FnOnce(&mut Vec<u8>)) {
        damage_file(&self.blob, damage);
    }

    /// Returns the path of the stored index: windows first, followed by the table.
    fn index(&self) -> PathBuf {
        let mut files = fs::read_dir(self.imgmount.cache()).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|ending| ending == "idx")).unwrap()
    }

    fn extract(&self) -> (Run, PathBuf) {
        let into = self.imgmount.dir().join("into");
        (run(self.imgmount.command(&["extract"]).arg(&self.layout).arg(&into)), into.join("large"))
    }
}

fn damage_file(path: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    damage(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_way_to_read_all_of_it_gives_its_bytes() {
    for compression in [Compression::Gzip(6), Compression::ZstdFrames, Compression::Zstd, Compression::Plain]
    {
        let large = Large::new(compression);
        // Also with a cache that is smaller than the read-ahead.
        for cache_size in ["1", "3M", "256M"] {
            let mut export = large.imgmount.command(&["export", "--cache-size", cache_size]);
            let tar = run(export.arg(&large.layout)).expect(0).stdout;
            let members = tar::Archive::new(&tar[..])
                .entries()
                .unwrap()
                .map(|entry| {
                    let mut bytes = Vec::new();
                    std::io::copy(&mut entry.unwrap(), &mut bytes).unwrap();
                    bytes
                })
                .collect::<Vec<_>>();
            assert!(members.concat() == large.content, "export, {compression:?}, {cache_size}");
            let cat = run(large
                .imgmount
                .command(&["cat", "--cache-size", cache_size])
                .arg(inside(&large.layout, "/large")));
            assert!(cat.expect(0).stdout == large.content, "cat, {compression:?}, {cache_size}");
        }
        let (extracted, path) = large.extract();
        extracted.expect(0);
        assert!(fs::read(path).unwrap() == large.content, "extract, {compression:?}");
        large.verifies_alike(0, &format!("{compression:?}"));
    }
}

#[test]
fn verify_takes_the_index_and_its_verdict_needs_none() {
    let large = Large::new(Compression::Gzip(6));
    assert!(!large.verify(&["-v"]).expect(0).stderr.contains(IN_DOUBT));
    // One byte in the middle, the same length: the blob no longer matches the index.
    large.damage_blob(|blob| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0x10;
    });
    large.verify(&["-v"]).expect(1).says(IN_DOUBT);
    large.verifies_alike(1, "a byte flipped");
    // The length of the uncompressed data, at the end of the blob: every span can still be decoded.
    large.damage_blob(|blob| {
        let (middle, last) = (blob.len() / 2, blob.len() - 1);
        blob[middle] ^= 0x10;
        blob[last] ^= 1;
    });
    large.verifies_alike(1, "the trailer flipped");
    large.damage_blob(|blob| blob.truncate(blob.len() / 2));
    large.verifies_alike(1, "cut in half");
    large.damage_blob(Vec::clear);
    large.verifies_alike(1, "empty");
    fs::remove_file(&large.blob).unwrap();
    large.verifies_alike(1, "gone");
}

#[test]
fn a_damaged_or_stale_index_changes_no_verdict_and_no_bytes() {
    let large = Large::new(Compression::Gzip(6));
    let sound = large.verify(&[]).expect(0).stdout;
    // The windows of a few checkpoints are damaged: decoding starts before them.
    damage_file(&large.index(), |bytes| bytes[..4096].fill(0xAA));
    assert_eq!(large.verify(&[]).expect(0).stdout, sound);
    let (extracted, path) = large.extract();
    extracted.expect(0);
    assert!(fs::read(path).unwrap() == large.content);
    // The index of another layer under the name of this layer's index.
    let other = Large::new(Compression::Gzip(1));
    fs::copy(other.index(), large.index()).unwrap();
    assert_eq!(large.verify(&[]).expect(0).stdout, sound);
    damage_file(&large.index(), |bytes| bytes.truncate(bytes.len() / 2));
    assert_eq!(large.verify(&[]).expect(0).stdout, sound);
}

#[test]
fn x17_a_damaged_span_ends_export_and_extract_and_is_named() {
    let large = Large::new(Compression::Gzip(6));
    large.damage_blob(|blob| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0x10;
    });
    let export = run(large.imgmount.command(&["export"]).arg(&large.layout));
    assert_ne!(export.code, 0);
    assert!(export.says("layer 0").stdout.len() < LARGE, "it is broken off");
    let (extracted, path) = large.extract();
    assert_ne!(extracted.code, 0);
    extracted.says("large");
    assert!(!path.exists(), "a file is whole or not there");
}
