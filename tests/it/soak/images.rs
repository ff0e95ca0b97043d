//! The images that are mounted, and what their files contain.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::fixture::{Compression, Image, Item, Kind, file, patterned, whiteout};
use crate::numbers::Random;

const MB: usize = 1 << 20;

/// Names and contents of the files of an image.
pub(super) type Files = Vec<(String, Arc<[u8]>)>;

/// A layer's items, and how it is compressed.
type Made = (Vec<Item>, Compression);

/// Makes files with contents that no two files share. A second variant has files of the same names and sizes with
/// other contents.
fn made(directory: &str, seed: u64, variant: u64, small: usize, large: &[usize]) -> Vec<Item> {
    let mut random = Random::new(seed, 0);
    let mut sizes: Vec<usize> = (0..small).map(|_| random.below(40_000)).collect();
    sizes.extend(large);
    let named = |(number, size): (usize, &usize)| {
        let seed = (seed + 500 * variant) * 1000 + number as u64;
        file(format!("{directory}/f{number}"), patterned(*size, seed))
    };
    sizes.iter().enumerate().map(named).collect()
}

/// Makes two images with a layer in common.
pub(super) fn of_registry() -> [(Image, Files); 2] {
    let base = made("base", 1, 0, 100, &[3 * MB, 5 * MB]);
    let mut changes = made("base", 2, 0, 20, &[]);
    changes.extend([whiteout("base/f30"), whiteout("base/f31")]);
    let a = [
        (base.clone(), Compression::Gzip(6)),
        (made("frames", 3, 0, 40, &[2 * MB]), Compression::ZstdFrames),
        (changes, Compression::Plain),
        (made("plain", 4, 0, 20, &[4 * MB]), Compression::Plain),
        (made("members", 5, 0, 40, &[MB]), Compression::GzipMembers(6)),
    ];
    let b = [
        (base, Compression::Gzip(6)),
        (made("zstd", 6, 0, 40, &[2 * MB]), Compression::Zstd),
        (made("stored", 7, 0, 40, &[2 * MB]), Compression::Gzip(0)),
    ];
    [image("a:1", &a), image("b:1", &b)]
}

/// Makes an image for files on disk: three layers with these compressions. The last one is longer than the
/// distance from which on a layer of one zstd frame needs a seekable copy.
pub(super) fn local(variant: u64, compressions: [Compression; 3]) -> (Image, Files) {
    let mut changes = made("base", 12, variant, 20, &[]);
    changes.extend([whiteout("base/f30"), whiteout("base/f31")]);
    let layers = [made("base", 11, variant, 50, &[2 * MB]), changes, made("top", 13, variant, 10, &[6 * MB])];
    let layers: Vec<Made> = layers.into_iter().zip(compressions).collect();
    image("a:1", &layers)
}

fn image(name: &'static str, layers: &[Made]) -> (Image, Files) {
    let (mut image, mut files) = (Image::named(name), BTreeMap::new());
    for (items, compression) in layers {
        image = image.layer_as("COPY", items, "", *compression);
        for item in items {
            let name = String::from_utf8(item.name.clone()).expect("a name in ASCII");
            let Kind::File(content) = &item.kind else { continue };
            match name.split_once("/.wh.") {
                Some((directory, removed)) => drop(files.remove(&format!("{directory}/{removed}"))),
                None => drop(files.insert(name, content.as_slice().into())),
            }
        }
    }
    (image, files.into_iter().collect())
}
