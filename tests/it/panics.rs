//! A fault of the program itself: a panic in one request, mounted from code over bytes that panic on demand.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imgmount::fuse::{MountOptions, check_mount_point, mount};
use imgmount::load::{Engine, EngineOptions, TreeOptions};
use imgmount::read_at::ReadAt;
use imgmount::source::Reference;

use crate::fixture::{Compression, Image, file, oci, patterned, tar};
use crate::mounted::{Imgmount, Need, have};
use crate::tree::Snapshot;

/// Length of the file that is read, and of the step that it is read in.
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

#[test]
fn a_panic_in_a_request_is_eio_for_it_and_nothing_else() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let content = patterned(LARGE, 8);
    let imgmount = Imgmount::new();
    let image = Image::named("a:1").layer_as("COPY", &[file("large", &content)], "", Compression::Plain);
    let path = imgmount.write("image.tar", &tar(&oci(&[image])));

    let engine = Engine::new(EngineOptions { cache_bytes: 1 << 20, ..EngineOptions::default() });
    let reference = Reference::parse(path.as_os_str(), None).unwrap();
    let mut opened = engine.open(&reference).unwrap().image(&reference.selection, None).unwrap();
    let armed = Arc::new(AtomicBool::new(false));
    let layer = opened.layers.first_mut().unwrap();
    let from = layer.bytes.len() / 2;
    layer.bytes = Arc::new(Trapped { bytes: layer.bytes.clone(), from, armed: armed.clone() });
    let tree = Arc::new(engine.load(opened, &TreeOptions::default()).unwrap());

    let point = check_mount_point(&imgmount.mount_point()).unwrap();
    // More panics than threads: none of them may be lost.
    let options = MountOptions { threads: Some(2), ..MountOptions::default() };
    let mounted = mount(tree, &point, &options).unwrap();
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
    assert_eq!(Snapshot::of(&point).len(), 2, "the mount goes on");
    drop(served);
    mounted.unmount().unwrap();
}
