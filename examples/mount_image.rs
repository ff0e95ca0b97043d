//! Mounts an image, lists its root directory through the mount, and unmounts.
//!
//! ```text
//! cargo run --example mount_image -- image.tar DIR
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use imgmount::{Engine, EngineOptions, LoadOptions, MountOptions, MountPoint, Reference, Store};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [image, dir] = arguments.as_slice() else {
        eprintln!("usage: mount_image IMAGE DIR");
        return ExitCode::from(2);
    };
    match mount_and_look(image, Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mount_image: {error}");
            ExitCode::FAILURE
        }
    }
}

fn mount_and_look(name: &OsStr, dir: &Path) -> Result<(), Box<dyn Error>> {
    // Reading an image can take seconds, so a missing directory or missing FUSE is reported first.
    let point = MountPoint::open(dir)?;

    // With a store, the next mount of the same image takes milliseconds.
    let store = Store::open(&env::temp_dir().join("mount_image-cache"))?;
    let engine = Engine::new(EngineOptions::default().store(store));
    // A reference names a source and an image in it: `image.tar`, `layout:1.0`, `oci:dir@2`.
    let reference = Reference::parse(name, None)?;
    let image = engine.select(&reference, None)?.load(&LoadOptions::default())?;

    // Threads of this process serve the mount. Dropping `mounted` unmounts, too.
    let mounted = image.mount(point, &MountOptions::default().fsname(name.to_string_lossy()))?;
    for entry in fs::read_dir(mounted.point())? {
        println!("{}", entry?.file_name().to_string_lossy());
    }
    // Fails while a process uses the mount; the error names the process.
    mounted.unmount()?;
    Ok(())
}
