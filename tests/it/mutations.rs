//! Tests thousands of hostile images: the sample, damaged at random, must give an answer or an error.
//!
//! Digests would detect nearly all damage, so they are not verified here: the parsers of headers,
//! documents and compressed streams have to handle the damage. A failure prints the mutation's number
//! and the seed.

use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use imgmount::{Engine, EngineOptions, FileType, Image as Loaded, InodeId, LoadOptions, Reference, Verify};

use crate::fixture::{Compression, Image, docker_legacy, docker_modern, oci, tar};
use crate::numbers::Random;
use crate::seed;

/// Number of mutations of each form.
const MUTATIONS: u64 = 400;
/// No operation on these small images may take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Flips bits, writes digits over header fields, truncates, repeats and removes blocks.
fn mutate(image: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = image.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let block = at / 512 * 512;
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = b"0178 /.\0\xff"[random.below(9)],
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(block..(block + 512).min(bytes.len()))),
            4 => {
                let copy = bytes[block..(block + 512).min(bytes.len())].to_vec();
                bytes.splice(block..block, copy);
            }
            _ => {
                let to = random.below(bytes.len());
                let len = 64.min(bytes.len() - at).min(bytes.len() - to);
                bytes.copy_within(at..at + len, to);
            }
        }
    }
    bytes
}

/// Opens, merges and walks an image, and reads every file. Returns the number of readable files.
fn look_at_all(path: &OsStr) -> imgmount::Result<usize> {
    let engine = Engine::new(EngineOptions::default().verify(Verify::Off));
    let image = engine.select(&Reference::parse(path, None)?, None)?.load(&LoadOptions::default())?;
    Ok(image.walk().filter(|(_, id)| read(&image, *id)).count())
}

fn read(image: &Loaded, id: InodeId) -> bool {
    let Some(inode) = image.inode(id) else { return false };
    let mut block = vec![0; 64 << 10];
    let end = inode.size();
    // Reads the first and the last block, since a size may be hostile, too.
    inode.file_type() == FileType::File
        && [0, end.saturating_sub(block.len() as u64)]
            .into_iter()
            .all(|offset| image.read_at(id, &mut block, offset).is_ok())
}

/// Returns how many mutations could still be opened: if none, only the outermost check was tested.
fn survives(form: &str, image: &[u8]) -> u64 {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("image");
    let (seed, mut opened) = (seed::seed(), 0);
    for number in 0..MUTATIONS {
        fs::write(&path, mutate(image, &mut Random::new(seed, number))).unwrap();
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| look_at_all(path.as_os_str())));
        let outcome = outcome.unwrap_or_else(|_| panic!("{form}: mutation {number} panics"));
        opened += u64::from(outcome.is_ok());
        assert!(start.elapsed() < PATIENCE, "{form}: mutation {number} takes {:?}", start.elapsed());
    }
    opened
}

fn sample(compression: Compression) -> Image {
    Image::sample("./", compression)
}

#[test]
fn a_docker_archive_of_plain_layers_survives() {
    assert!(
        (1..MUTATIONS)
            .contains(&survives("docker-archive", &tar(&docker_legacy(&[sample(Compression::Plain)]))))
    );
}

#[test]
fn an_archive_of_gzip_layers_survives() {
    assert!((1..MUTATIONS).contains(&survives("gzip layers", &tar(&oci(&[sample(Compression::Gzip(6))])))));
}

#[test]
fn an_archive_of_zstd_layers_survives() {
    assert!(
        (1..MUTATIONS)
            .contains(&survives("zstd layers", &tar(&docker_modern(&[sample(Compression::ZstdFrames)]))))
    );
}

#[test]
fn an_archive_that_is_compressed_as_a_whole_survives() {
    for compression in [Compression::Gzip(6), Compression::Xz, Compression::Bzip2, Compression::Zstd] {
        let whole = compression.compress(&tar(&docker_legacy(&[sample(Compression::Plain)])));
        // Most formats lose all data after the damage, and the manifest with it.
        assert!(survives(&format!("{compression:?} as a whole"), &whole) < MUTATIONS);
    }
}
