//! The mounts, how each is made again, and how it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::places::Place;
use super::sources::Source;
use super::{HUNG, Soak, lock};
use crate::mounted::{is_mounted, unmount, wait_until};
use crate::numbers::Random;

/// Open files and threads of a server, whatever has failed: those of the layers, of the connections that are
/// kept, and of the requests and reads that run at the same time.
const MAX_OPEN_FILES: usize = 120;
const MAX_THREADS: usize = 80;

/// A server ends within this time after its mount is unmounted or it got a signal.
const PROMPT: Duration = Duration::from_secs(5);
/// The longest time for which a server is stopped.
pub(super) const MAX_STOP: Duration = Duration::from_secs(2);

/// A place for a mount, with the options that it has each time.
pub(super) struct Slot {
    number: usize,
    place: usize,
    source: usize,
    options: &'static [&'static str],
    net_timeout: Duration,
    /// The mount, while there is one. Readers hold it.
    pub(super) mount: RwLock<Option<Mount>>,
    /// True while the server is ended with readers at work: they get any error.
    pub(super) leaving: AtomicBool,
    server: Mutex<Option<Child>>,
    /// Whether the mount stays until the end, so that what a server never gives back would add up.
    stays: bool,
    /// Held while the mount is made or ended.
    changing: Mutex<()>,
}

pub(super) struct Mount {
    pub(super) point: PathBuf,
    /// The variants of the source that all bytes read so far agree with, as bits.
    variants: AtomicU8,
    /// The changes of the source, and the damages of indexes, before it was mounted.
    changes: u64,
    index_damages: u64,
}

impl Mount {
    /// Records which variants some bytes are of. Returns false if no variant has all the bytes read so far.
    pub(super) fn agrees(&self, variants: u8) -> bool {
        self.variants.fetch_and(variants, Ordering::SeqCst) & variants != 0
    }
}

/// How a mount ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Unmounted when no file is open.
    Unmount,
    /// By a signal, with readers at work.
    Terminate,
    /// By SIGKILL, with readers at work.
    Kill,
}

impl Slot {
    pub(super) fn all() -> Vec<Slot> {
        // Mounts share images, and cache directories. Images 0 and 1 are in the registry.
        let slots: [(usize, usize, &[&str], u64); 14] = [
            (0, 0, &[], 3),
            (0, 0, &[], 10),
            (0, 1, &[], 3),
            (1, 1, &["--blob-cache-size", "2M"], 3),
            (1, 0, &["--no-cache"], 2),
            (0, 2, &[], 3),
            (1, 2, &["--no-cache"], 3),
            (0, 3, &[], 3),
            (1, 4, &[], 3),
            (0, 5, &[], 3),
            (1, 5, &[], 3),
            (1, 6, &[], 3),
            (0, 7, &[], 3),
            (1, 8, &[], 3),
        ];
        let slot = |(number, (place, source, options, net_timeout))| Slot {
            number,
            place,
            source,
            options,
            net_timeout: Duration::from_secs(net_timeout),
            mount: RwLock::new(None),
            leaving: AtomicBool::new(false),
            server: Mutex::new(None),
            stays: number == 1,
            changing: Mutex::new(()),
        };
        slots.into_iter().enumerate().map(slot).collect()
    }

    pub(super) fn source<'a>(&self, soak: &'a Soak) -> &'a Source {
        &soak.sources[self.source]
    }

    pub(super) fn place<'a>(&self, soak: &'a Soak) -> &'a Place {
        &soak.places[self.place]
    }

    pub(super) fn what(&self, soak: &Soak) -> String {
        format!("slot {} ({})", self.number, self.source(soak).name)
    }

    /// Returns the longest time of one request to the mount.
    pub(super) fn patience(&self) -> Duration {
        self.net_timeout + MAX_STOP
    }

    pub(super) fn log(&self, soak: &Soak) -> PathBuf {
        self.place(soak).imgmount.dir().join(format!("slot-{}.log", self.number))
    }

    /// Kills the server, which frees every thread that waits for it.
    pub(super) fn kill(&self) {
        if let Some(server) = &mut *lock(&self.server) {
            let _ = server.kill();
        }
    }

    /// Mounts the image, unless it is mounted. Returns false if the source failed.
    pub(super) fn begin(&self, soak: &Soak, random: &mut Random) -> bool {
        let mut mount = self.mount.write().unwrap_or_else(PoisonError::into_inner);
        if mount.is_some() {
            return true;
        }
        let (place, source) = (self.place(soak), self.source(soak));
        let Some(_opening) = source.open() else { return false };
        let (changes, index_damages) = (source.changes(), place.index_damages());
        let point = place.imgmount.mount_point();
        let net_timeout = format!("{}s", self.net_timeout.as_secs());
        let log = File::create(self.log(soak)).expect("a log");
        let mut command = place.imgmount.command(&["mount", "-f", "-vv", "--cache-size", "2M"]);
        command.args(["--net-timeout", &net_timeout]).args(self.options);
        command.arg(source.reference(random)).arg(&point).stdout(Stdio::null()).stderr(log);
        let mut server = command.env("HOME", place.imgmount.dir()).spawn().expect("starting the program");
        let ended = soak.timed("mount", &format!("mount of {}", self.what(soak)), HUNG, || {
            let mut ended = None;
            wait_until(|| {
                ended = server.try_wait().expect("a child");
                ended.is_some() || is_mounted(&point)
            });
            if ended.is_none() {
                // An unmount before the first answer is an error of the server.
                let _ = fs::metadata(&point);
            }
            ended
        });
        if let Some(status) = ended {
            fs::remove_dir(&point).expect("an empty mount point");
            let must_succeed = source.is_whole() && source.changes() == changes;
            self.check_failure(soak, status, must_succeed);
            return false;
        }
        *lock(&self.server) = Some(server);
        let variants = AtomicU8::new(u8::MAX);
        *mount = Some(Mount { point, variants, changes, index_damages });
        soak.count("mounted");
        true
    }

    fn check_failure(&self, soak: &Soak, status: ExitStatus, must_succeed: bool) {
        soak.count("mounts failed");
        let log = fs::read_to_string(self.log(soak)).expect("a log");
        if status.code() != Some(2) || log.contains("panicked") || must_succeed {
            soak.fail(format!("mount of {} ended with {status}: {log}", self.what(soak)));
        }
    }

    /// Ends the mount if its source was changed since it was made.
    pub(super) fn end_outdated(&self, soak: &Soak) {
        let changes = self.source(soak).changes();
        let mount = self.mount.read().unwrap_or_else(PoisonError::into_inner);
        let is_outdated = mount.as_ref().is_some_and(|mount| mount.changes != changes);
        drop(mount);
        if is_outdated {
            self.end(soak, End::Unmount);
        }
    }

    /// Whether an index was damaged since the mount was made.
    pub(super) fn had_index_damage(&self, soak: &Soak) -> bool {
        let mount = self.mount.read().unwrap_or_else(PoisonError::into_inner);
        mount.as_ref().is_some_and(|mount| mount.index_damages != self.place(soak).index_damages())
    }

    /// Ends the mount, if there is one.
    pub(super) fn end(&self, soak: &Soak, how: End) {
        let what = format!("{how:?} of {}", self.what(soak));
        if how != End::Unmount {
            let is_mounted = self.mount.read().unwrap_or_else(PoisonError::into_inner).is_some();
            if !is_mounted {
                return;
            }
            self.leaving.store(true, Ordering::SeqCst);
            soak.timed("signal", &what, soak.limit(PROMPT), || self.signal(how));
        }
        let mut mount = self.mount.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Mount { point, .. }) = mount.take() {
            soak.timed("unmount", &what, soak.limit(PROMPT), || self.unmount(soak, &point, how));
            self.check_log(soak);
            fs::remove_dir(&point).unwrap_or_else(|error| soak.fail(format!("{what}: {error}")));
            soak.count(format!("ends by {how:?}"));
        }
        self.leaving.store(false, Ordering::SeqCst);
    }

    fn signal(&self, how: End) {
        let signal = if how == End::Kill { Signal::KILL } else { Signal::TERM };
        let pid = lock(&self.server).as_ref().map(Pid::from_child).expect("a server");
        kill_process(pid, signal).expect("a signal");
        self.server_ends();
    }

    /// Waits for the end of the server, in a way that lets [`Slot::kill`] end it.
    fn server_ends(&self) -> Option<ExitStatus> {
        let mut status = None;
        wait_until(|| {
            status = lock(&self.server).as_mut().expect("a server").try_wait().expect("a child");
            status.is_some()
        });
        status
    }

    fn unmount(&self, soak: &Soak, point: &Path, how: End) {
        // After a signal, the mount can be gone; after SIGKILL it stays, without a server.
        if !wait_until(|| !is_mounted(point) || unmount(point, how == End::Kill)) {
            soak.fail(format!("{} cannot be unmounted", self.what(soak)));
        }
        let status = self.server_ends();
        self.kill();
        *lock(&self.server) = None;
        if how != End::Kill && !status.is_some_and(|status| status.success()) {
            soak.fail(format!("the server of {} ended with {status:?} after {how:?}", self.what(soak)));
        }
    }

    /// Checks how many files and threads the server has.
    pub(super) fn check_server(&self, soak: &Soak) {
        let Some(id) = lock(&self.server).as_ref().map(Child::id) else { return };
        for (what, most) in [("fd", MAX_OPEN_FILES), ("task", MAX_THREADS)] {
            let count = fs::read_dir(format!("/proc/{id}/{what}")).map_or(0, Iterator::count);
            soak.most(what, count);
            if count > most {
                soak.fail(format!("the server of {} has {count} in /proc/{id}/{what}", self.what(soak)));
            }
        }
    }

    fn check_log(&self, soak: &Soak) {
        let log = fs::read_to_string(self.log(soak)).expect("a log");
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            soak.fail(format!("{}: {line}", self.what(soak)));
        }
    }
}

/// Mounts an image. A mount that is there is ended before, and at times all that is cached is removed,
/// indexes too.
pub(super) fn change(soak: &Soak, random: &mut Random) {
    let slot = random.pick(&soak.slots);
    let Ok(_changing) = slot.changing.try_lock() else { return };
    if slot.mount.read().unwrap_or_else(PoisonError::into_inner).is_some() {
        if slot.stays {
            return;
        }
        thread::sleep(Duration::from_millis(random.next() % 5000));
        slot.end(soak, *random.pick(&[End::Unmount, End::Unmount, End::Terminate, End::Kill]));
        if random.once_in(4) {
            slot.place(soak).clear();
            soak.count("caches removed");
        }
    }
    slot.begin(soak, random);
}

/// Stops a server for a while. Its readers wait; nothing else does.
pub(super) fn stop(soak: &Soak, random: &mut Random) {
    thread::sleep(Duration::from_millis(random.next() % 3000));
    let slot = random.pick(&soak.slots);
    let Ok(_changing) = slot.changing.try_lock() else { return };
    let Some(pid) = lock(&slot.server).as_ref().map(Pid::from_child) else { return };
    kill_process(pid, Signal::STOP).expect("a signal");
    thread::sleep(MAX_STOP.mul_f64(0.1 * random.below(10) as f64));
    kill_process(pid, Signal::CONT).expect("a signal");
    soak.count("servers stopped");
}
