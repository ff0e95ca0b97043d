//! Mounts an image from code, looks at what is in its root directory, and unmounts.
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
use std::sync::Arc;

use imgmount::fuse::{MountOptions, check_mount_point, mount};
use imgmount::load::{Engine, EngineOptions, TreeOptions};
use imgmount::source::Reference;
use imgmount::store::Store;

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

fn mount_and_look(image: &OsStr, dir: &Path) -> Result<(), Box<dyn Error>> {
    // Before anything expensive: is it a directory, is it free, is there FUSE?
    let point = check_mount_point(dir)?;

    // Indexes that are kept make the next mount of the same image immediate.
    let store = Store::open(&env::temp_dir().join("mount_image-cache"))?;
    let engine = Engine::new(EngineOptions { store: Some(store), ..EngineOptions::default() });
    let reference = Reference::parse(image, None)?;
    let opened = engine.open(&reference)?.image(&reference.selection, None)?;
    let tree = Arc::new(engine.load(opened, &TreeOptions::default())?);

    // From here on threads of this process answer the kernel. Dropping `mounted` would unmount, too.
    let options = MountOptions { fsname: image.to_string_lossy().into_owned(), ..MountOptions::default() };
    let mounted = mount(tree, &point, &options)?;
    for entry in fs::read_dir(mounted.point())? {
        println!("{}", entry?.file_name().to_string_lossy());
    }
    // Fails while somebody uses it, and says who.
    mounted.unmount()?;
    Ok(())
}
