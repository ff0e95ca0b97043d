//! Lists what is in an image: every path with its type, mode, size, and where links lead.
//!
//! ```text
//! cargo run --example list_image -- image.tar
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::env;
use std::ffi::OsStr;
use std::process::ExitCode;

use imgmount::Result;
use imgmount::load::{Engine, EngineOptions, TreeOptions};
use imgmount::path::escape;
use imgmount::rootfs::ROOT;
use imgmount::source::Reference;

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
    // The engine holds what is shared: memory for decoded bytes and, if given, a store of indexes.
    let engine = Engine::new(EngineOptions::default());
    // A name is parsed, the place it names is opened, and an image in that place is selected.
    let reference = Reference::parse(name, None)?;
    let image = engine.open(&reference)?.image(&reference.selection, None)?;
    // Loading reads every layer once, checks all digests and merges the layers into one tree.
    let tree = engine.load(image, &TreeOptions::default())?;

    let rootfs = tree.rootfs();
    for (path, id) in rootfs.walk(ROOT) {
        let Some(inode) = rootfs.inode(id) else { continue };
        let kind = inode.kind.letter();
        // Names are bytes, and may hold what a terminal would obey.
        let target = rootfs.target(id).map_or(String::new(), |target| format!(" -> {}", escape(target)));
        println!("{kind}{:04o} {:>10} {}{target}", inode.meta.mode, rootfs.size(id), escape(&path));
    }
    Ok(())
}
