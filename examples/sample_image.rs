//! Writes the image that `make demo` mounts, and its large file as a separate file for comparison.
//!
//! ```text
//! cargo run --release --example sample_image -- DIR      writes DIR/sample.tar, DIR/large.expected
//! ```
//!
//! The image is built with the builder of the integration tests: layers in gzip, zstd and plain, a deleted
//! file, an opaque directory, hard links, a setuid file, attributes, and one large file.

#![expect(clippy::print_stderr, reason = "a program tells what went wrong")]

#[expect(dead_code, unused_imports, reason = "the tests use the rest of the builder")]
#[path = "../tests/it/fixture/mod.rs"]
mod fixture;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use fixture::{Compression, Image, dir, file, oci, patterned, sample_layers, tar};

/// Length of the large file in bytes.
const LARGE_LEN: usize = 64 << 20;

fn main() -> ExitCode {
    let Some(into) = env::args_os().nth(1) else {
        eprintln!("usage: sample_image DIR");
        return ExitCode::from(2);
    };
    match write_image(Path::new(&into)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample_image: cannot write below '{}': {error}", into.display());
            ExitCode::FAILURE
        }
    }
}

fn write_image(into: &Path) -> std::io::Result<()> {
    let large = patterned(LARGE_LEN, 2);
    let large_layer = [dir("srv"), file("srv/large", &large)];
    let ways = [Compression::Gzip(6), Compression::ZstdFrames, Compression::Plain];
    let image = sample_layers()
        .into_iter()
        .zip(ways)
        .fold(Image::named("example.com/sample:1"), |image, ((created_by, items), way)| {
            image.layer_as(created_by, &items, "./", way)
        })
        .layer_as("COPY large /srv/", &large_layer, "./", Compression::Gzip(6));
    fs::create_dir_all(into)?;
    fs::write(into.join("sample.tar"), tar(&oci(&[image])))?;
    fs::write(into.join("large.expected"), large)
}
