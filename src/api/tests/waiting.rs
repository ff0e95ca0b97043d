//! Tests of a mounted image while reads wait for a slow source.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use super::panics::can_mount;
use super::{Archive, tar_of};
use crate::fuse::Mounted;
use crate::read_at::ReadAt;
use crate::store::Store;
use crate::{Compression, EngineOptions, LoadOptions, MountOptions};

/// The threads that take requests from the kernel.
const WORKERS: usize = 2;
/// Files that are read at the same time, each in its own span.
const COLD: usize = WORKERS + 3;

/// A request that takes longer counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a slow source: reads wait while the gate is closed.
#[derive(Debug)]
struct Slow {
    bytes: Arc<dyn ReadAt>,
    gate: Arc<Gate>,
}

impl ReadAt for Slow {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.bytes.read_exact_at(buf, offset)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        self.gate.pass();
        Arc::clone(&self.bytes).stream(range)
    }

    fn may_wait(&self) -> bool {
        true
    }
}

/// The gate that all requests for an image must pass.
#[derive(Debug, Default)]
struct Gate {
    /// Whether the gate is closed, and the number of waiting requests.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |(closed, _)| *closed).unwrap();
        state.1 -= 1;
    }

    fn close(&self) {
        self.state.lock().unwrap().0 = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = false;
        self.changed.notify_all();
    }

    fn wait_for(&self, waiting: usize) {
        let state = self.state.lock().unwrap();
        let too_few = |(_, now): &mut (bool, usize)| *now < waiting;
        let (state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, too_few).unwrap();
        assert!(!timeout.timed_out(), "{} of {waiting} requests wait", state.1);
    }
}

/// A mounted image of two layers: one with a span in the cache, and one without, whose source waits until the
/// gate is opened.
struct Awaited {
    gate: Arc<Gate>,
    mounted: Mounted,
    home: tempfile::TempDir,
}

/// Returns 1.5 MiB, one and a half spans, which compress to about half.
fn cold(at: usize) -> Vec<u8> {
    let mut state = u64::try_from(at).unwrap() + 1;
    let mut bytes = Vec::new();
    while bytes.len() < 3 << 19 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend(format!("{:x}", state >> 32).bytes());
    }
    bytes
}

impl Awaited {
    /// Returns `None` if this machine cannot mount.
    fn new() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let point = home.path().join("mnt");
        fs::create_dir(&point).unwrap();
        if !can_mount(&point) {
            return None;
        }
        let warm = tar_of(&[("warm/a", "a"), ("warm/b", "b")]);
        let mut files: Vec<_> = (0..COLD).map(|at| (format!("cold/{at}"), cold(at))).collect();
        // These two files are in one span.
        files.extend([("cold/x".to_owned(), b"x".to_vec()), ("cold/y".to_owned(), b"y".to_vec())]);
        let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content)).collect();
        let archive = Archive::of_tars(&[warm, tar_of(&files)], Compression::Gzip);
        let store = Store::open(&home.path().join("cache")).unwrap();
        let select = || archive.select(EngineOptions::default().store(store.clone()));
        select().load(&LoadOptions::default()).unwrap();

        let gate = Arc::new(Gate::default());
        let mut selected = select();
        for layer in &mut selected.opened.layers {
            layer.bytes = Arc::new(Slow { bytes: layer.bytes.clone(), gate: gate.clone() });
        }
        let image = selected.load(&LoadOptions::default()).unwrap();
        let mounted = image
            .mount(crate::MountPoint::open(&point).unwrap(), &MountOptions::default().threads(WORKERS))
            .unwrap();
        assert_eq!(fs::read(point.join("warm/a")).unwrap(), b"a");
        gate.close();
        Some(Awaited { gate, mounted, home })
    }

    fn point(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// Runs `work` on a separate thread, because it may hang.
    fn begin<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> Receiver<T> {
        let (sender, result) = channel();
        let point = self.point();
        thread::spawn(move || sender.send(work(&point)));
        result
    }

    fn end<T>(&self, what: &str, result: &Receiver<T>) -> T {
        result.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            // Without this, cleaning up would hang.
            self.gate.open();
            panic!("{what} hangs")
        })
    }
}

#[test]
fn while_reads_wait_for_a_source_everything_else_is_answered() {
    let Some(awaited) = Awaited::new() else { return };
    let readers: Vec<_> =
        (0..COLD).map(|at| awaited.begin(move |point| fs::read(point.join(format!("cold/{at}"))))).collect();
    awaited.gate.wait_for(COLD);
    // These two reads wait for the same span: one for the source, the other for the first read.
    let same = ["x", "y"].map(|name| awaited.begin(move |point| fs::read(point.join("cold").join(name))));
    awaited.gate.wait_for(COLD + 1);

    let listed = awaited.begin(|point| fs::read_dir(point.join("cold")).unwrap().count());
    assert_eq!(awaited.end("ls", &listed), COLD + 2);
    let looked_up = awaited.begin(|point| fs::metadata(point.join("warm/absent")).is_err());
    assert!(awaited.end("a lookup", &looked_up));
    let cached = awaited.begin(|point| fs::read(point.join("warm/b")).unwrap());
    assert_eq!(awaited.end("a read of what is in the cache", &cached), b"b");
    assert!(readers.iter().chain(&same).all(|reader| reader.try_recv().is_err()), "the others still wait");

    awaited.gate.open();
    for (at, reader) in readers.iter().enumerate() {
        assert!(awaited.end("a released reader", reader).unwrap() == cold(at), "file {at}");
    }
    let read = same.map(|reader| awaited.end("a released reader", &reader).unwrap());
    assert_eq!(read, [b"x", b"y"]);
    awaited.mounted.unmount().unwrap();
}

#[test]
fn an_unmount_does_not_wait_for_a_source() {
    let Some(awaited) = Awaited::new() else { return };
    let file = File::open(awaited.point().join("cold/0")).unwrap();
    let reader = awaited.begin(move |_| {
        let mut content = Vec::new();
        { file }.read_to_end(&mut content).map(|_| content)
    });
    awaited.gate.wait_for(1);
    let point = awaited.point();
    let Awaited { gate, mounted, home } = awaited;
    let (sender, unmounted) = channel();
    thread::spawn(move || {
        let busy = mounted.unmount().map_err(|error| error.to_string());
        let detached = mounted.unmount_lazily().is_ok();
        drop(mounted);
        sender.send((busy, detached))
    });
    let unmounted = unmounted.recv_timeout(PATIENCE);
    let below = fs::read_dir(&point).map(Iterator::count);
    let waiting = reader.try_recv().is_err();
    gate.open();
    let (busy, detached) = unmounted.expect("an unmount that hangs");
    assert!(busy.unwrap_err().contains("in use"));
    assert!(detached && waiting);
    assert_eq!(below.unwrap(), 0, "nothing is mounted there any more");
    // A process that has a file open keeps it.
    assert!(reader.recv_timeout(PATIENCE).unwrap().unwrap() == cold(0));
    drop(home);
}
