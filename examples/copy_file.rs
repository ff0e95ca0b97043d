//! Copies one file of any size out of an image, through a buffer of fixed size.
//!
//! ```text
//! cargo run --example copy_file -- image.tar /etc/os-release os-release
//! ```

#![expect(clippy::print_stderr, reason = "a program talks to its user")]

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

use imgmount::Image;

/// Size of the copy buffer in bytes. Layers are decompressed in spans of about this length.
const BLOCK_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [image, path, to] = arguments.as_slice() else {
        eprintln!("usage: copy_file IMAGE /PATH/INSIDE FILE");
        return ExitCode::from(2);
    };
    match copy(image, path, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("copy_file: {error}");
            ExitCode::FAILURE
        }
    }
}

fn copy(image: &OsStr, path: &OsStr, to: &OsStr) -> Result<(), Box<dyn Error>> {
    let image = Image::open(image)?;
    // Links are followed inside the image: `/etc/x -> /etc/y` never leads to the host's /etc. The file is
    // opened before the target is created, so that a wrong path leaves no empty file.
    let mut from = BufReader::with_capacity(BLOCK_BYTES, image.open_file(path.as_bytes())?);
    let mut out = File::create(to)?;
    // Every byte is verified against the image's digests before the reader returns it.
    io::copy(&mut from, &mut out)?;
    Ok(())
}
