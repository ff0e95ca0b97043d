//! Tests of a panic in one request, with a mount over bytes that panic on demand.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Archive;
use crate::read_at::ReadAt;
use crate::{EngineOptions, Error, LoadOptions, MountFault, MountOptions, MountPoint};

/// Length of the file that is read, in bytes. [`STEP`] is the length of each read.
const LARGE: usize = 8 << 20;
const STEP: usize = 64 << 10;

/// Bytes that panic when they are read beyond `from`, while `armed`.
#[derive(Debug)]
struct Trapped {
    bytes: Arc<dyn ReadAt>,
    from: u64,
    armed: Arc<AtomicBool>,
}

impl ReadAt for Trapped {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        assert!(!self.armed.load(Ordering::SeqCst) || offset < self.from, "a trap, sprung on purpose");
        self.bytes.read_exact_at(buf, offset)
    }
}

/// Returns whether this machine can mount on `dir`. With `CI` set, it must.
pub(super) fn can_mount(dir: &std::path::Path) -> bool {
    match MountPoint::open(dir) {
        Ok(_) => true,
        Err(Error::Mount { reason: MountFault::NoDevice | MountFault::NoHelper, .. }) => {
            assert!(std::env::var_os("CI").is_none(), "SKIPPED: needs FUSE");
            // `eprintln!` is not used, because the test runner would capture its output.
            writeln!(io::stderr(), "SKIPPED a test of api: needs FUSE").unwrap();
            false
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_panic_in_a_request_is_eio_for_it_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let point = home.path();
    if !can_mount(point) {
        return;
    }
    let content: Vec<u8> = (0..=250).cycle().take(LARGE).collect();
    let archive = Archive::of(&[&[("large", &content)]]);
    let mut selected = archive.select(EngineOptions::default().cache_bytes(1 << 20));
    let armed = Arc::new(AtomicBool::new(false));
    let layer = selected.opened.layers.first_mut().unwrap();
    let from = layer.bytes.len() / 2;
    layer.bytes = Arc::new(Trapped { bytes: layer.bytes.clone(), from, armed: armed.clone() });
    let image = selected.load(&LoadOptions::default()).unwrap();

    // There are more panics than threads: no thread may be lost.
    let mounted = image.mount(MountPoint::open(point).unwrap(), &MountOptions::default().threads(2)).unwrap();
    armed.store(true, Ordering::SeqCst);
    let served = File::open(point.join("large")).unwrap();
    let mut lost = 0;
    for offset in (0..LARGE).step_by(STEP) {
        let mut buffer = vec![0; STEP];
        match served.read_exact_at(&mut buffer, offset as u64) {
            Ok(()) => assert!(buffer == content[offset..offset + STEP], "other bytes at {offset}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "at {offset}");
                assert!(offset > LARGE / 3, "the trap is not at {offset}");
                lost += 1;
            }
        }
    }
    assert!(lost > 16, "{lost} requests panicked");

    armed.store(false, Ordering::SeqCst);
    let mut whole = vec![0; LARGE];
    served.read_exact_at(&mut whole, 0).unwrap();
    assert!(whole == content, "what failed once is read when it can be");
    assert_eq!(fs::read_dir(point).unwrap().count(), 1, "the mount goes on");
    drop(served);
    mounted.unmount().unwrap();
}
