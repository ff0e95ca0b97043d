//! Tests every compression with every way of writing names: mounted, compared as a whole, and read at
//! random offsets.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::fixture::{Compression, Image, docker_legacy, oci, sample_large, sample_tree, tar};
use crate::mounted::{Imgmount, Need, have};
use crate::seed;
use crate::tree::Snapshot;

/// The prefixes of names that tools write: GNU tar and bazel, most engines, nix.
const PREFIXES: [&str; 3] = ["./", "", "/"];

/// Writes the sample as an archive. A compression without an OCI media type is put into a
/// docker-archive.
fn archive(prefix: &str, compression: Compression) -> Vec<u8> {
    let image = Image::sample(prefix, compression);
    match compression {
        Compression::Xz | Compression::Bzip2 => tar(&docker_legacy(&[image])),
        _ => tar(&oci(&[image])),
    }
}

/// Mounts the sample in this compression once for each prefix and compares the whole tree: first while
/// it is indexed, then from the stored index.
fn whole_trees(compression: Compression) {
    if !have(&[Need::Fuse]) {
        return;
    }
    let expected = Snapshot::described(&sample_tree());
    for prefix in PREFIXES {
        let imgmount = Imgmount::new();
        let image = imgmount.write("image.tar", &archive(prefix, compression));
        for turn in ["first", "second"] {
            let mounted = imgmount.mount(&image, &[]);
            let about = format!("{compression:?}, names begin with {prefix:?}, {turn} mount");
            expected.assert_shown_by(&Snapshot::of(mounted.path()), &about);
        }
    }
}

/// Asserts that any range of a file, read through the mount, equals the same range of its content.
fn reads_at_random(compression: Compression) {
    if !have(&[Need::Fuse]) {
        return;
    }
    let imgmount = Imgmount::new();
    let image = imgmount.write("image.tar", &archive("", compression));
    let mounted = imgmount.mount(&image, &[]);
    let content = sample_large();
    let file = File::open(mounted.path().join("usr/lib/large")).unwrap();
    let past_end = content.len() + 5000;
    let mut runner = TestRunner::new(seed::config(200));
    let outcome = runner.run(&(0..past_end, 0..300_000_usize), |(offset, len)| {
        let mut read = vec![0xEE; len];
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut read[filled..], (offset + filled) as u64).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        let start = offset.min(content.len());
        let end = (offset + len).min(content.len());
        prop_assert!(read[..filled] == content[start..end], "{len} bytes at {offset} differ");
        Ok(())
    });
    outcome.unwrap();
}

macro_rules! for_each_compression {
    ($($name:ident: $compression:expr;)*) => {
        mod trees {
            use super::{Compression, whole_trees};
            $(#[test] fn $name() { whole_trees($compression); })*
        }
        mod reads {
            use super::{Compression, reads_at_random};
            $(#[test] fn $name() { reads_at_random($compression); })*
        }
    };
}

for_each_compression! {
    plain: Compression::Plain;
    gzip_stored: Compression::Gzip(0);
    gzip_fast: Compression::Gzip(1);
    gzip_default: Compression::Gzip(6);
    gzip_best: Compression::Gzip(9);
    z3_gzip_members: Compression::GzipMembers(6);
    z3_gzip_members_stored: Compression::GzipMembers(0);
    zstd_one_frame: Compression::Zstd;
    z5_zstd_frames: Compression::ZstdFrames;
    xz: Compression::Xz;
    bzip2: Compression::Bzip2;
}

#[test]
fn layers_of_one_image_may_be_compressed_each_in_its_own_way() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let ways = [Compression::ZstdFrames, Compression::Gzip(6), Compression::Plain];
    let image = crate::fixture::sample_layers()
        .into_iter()
        .zip(ways)
        .fold(Image::named("mixed:1"), |image, ((by, items), way)| image.layer_as(by, &items, "", way));
    let imgmount = Imgmount::new();
    let archive = imgmount.write("image.tar", &tar(&oci(&[image])));
    let mounted = imgmount.mount(archive, &[]);
    Snapshot::described(&sample_tree()).assert_shown_by(&Snapshot::of(mounted.path()), "mixed");
}
