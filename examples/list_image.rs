//! Lists the paths of an image with type, mode, size and the targets of symbolic links.
//!
//! ```text
//! cargo run --example list_image -- image.tar
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::env;
use std::ffi::OsStr;
use std::process::ExitCode;

use imgmount::{Image, Result, escape};

fn main() -> ExitCode {
    let Some(name) = env::args_os().nth(1) else {
        eprintln!("usage: list_image IMAGE");
        return ExitCode::from(2);
    };
    match list(&name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("list_image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(name: &OsStr) -> Result<()> {
    // Reads every layer once, verifies all digests and merges the layers into one tree.
    let image = Image::open(name)?;
    for (path, id) in image.walk() {
        let Some(inode) = image.inode(id) else { continue };
        let letter = inode.file_type().letter();
        // Names can contain control sequences for the terminal, so they are escaped.
        let target = inode.target().map_or(String::new(), |target| format!(" -> {}", escape(target)));
        println!("{letter}{:04o} {:>10} {}{target}", inode.mode(), inode.size(), escape(&path));
    }
    Ok(())
}
