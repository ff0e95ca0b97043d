//! The mounts, how each is made again, and how it ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{HUNG, Known, Soak, lock};
use crate::mounted::{Imgmount, is_mounted, unmount, wait_until};
use crate::numbers::Random;

/// Open files and threads of a server, whatever has failed: those of the layers, of the connections that are
/// kept, and of the requests and reads that run at the same time.
const MAX_OPEN_FILES: usize = 120;
const MAX_THREADS: usize = 80;

/// A server ends within this time after its mount is unmounted or it got a signal.
const PROMPT: Duration = Duration::from_secs(5);

/// A place for a mount, with the options that it has each time.
pub(super) struct Slot {
    number: usize,
    place: usize,
    image: usize,
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
        // Two mounts share an image, and three mounts a cache directory.
        let slots: [(usize, usize, &[&str], u64); 5] = [
            (0, 0, &[], 3),
            (0, 0, &[], 10),
            (0, 1, &[], 3),
            (1, 1, &["--blob-cache-size", "2M"], 3),
            (1, 0, &["--no-cache"], 2),
        ];
        let slot = |(number, (place, image, options, net_timeout))| Slot {
            number,
            place,
            image,
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

    pub(super) fn image<'a>(&self, soak: &'a Soak) -> &'a Known {
        &soak.images[self.image]
    }

    pub(super) fn place<'a>(&self, soak: &'a Soak) -> &'a Imgmount {
        &soak.places[self.place]
    }

    /// Returns the longest time of one request to the mount.
    pub(super) fn net_timeout(&self) -> Duration {
        self.net_timeout
    }

    pub(super) fn log(&self, soak: &Soak) -> PathBuf {
        self.place(soak).dir().join(format!("slot-{}.log", self.number))
    }

    /// Kills the server, which frees every thread that waits for it.
    pub(super) fn kill(&self) {
        if let Some(server) = &mut *lock(&self.server) {
            let _ = server.kill();
        }
    }

    /// Mounts the image, unless it is mounted. Returns false if the registry failed.
    pub(super) fn begin(&self, soak: &Soak, random: &mut Random) -> bool {
        let mut mount = self.mount.write().unwrap_or_else(PoisonError::into_inner);
        if mount.is_some() {
            return true;
        }
        let (place, image) = (self.place(soak), self.image(soak));
        let by_digest = format!("{}@{}", image.name.trim_end_matches(":1"), image.digest);
        let name = if random.once_in(2) { image.name } else { &*by_digest };
        let point = place.mount_point();
        let net_timeout = format!("{}s", self.net_timeout.as_secs());
        let log = File::create(self.log(soak)).expect("a log");
        let mut command = place.command(&["mount", "-f", "-vv", "--cache-size", "2M"]);
        command.args(["--net-timeout", &net_timeout]).args(self.options);
        command.arg(soak.registry.reference(name)).arg(&point).stdout(Stdio::null()).stderr(log);
        let mut server = command.env("HOME", place.dir()).spawn().expect("starting the program");
        let ended = soak.timed("mount", &format!("mount of slot {}", self.number), HUNG, || {
            let mut ended = None;
            wait_until(|| {
                ended = server.try_wait().expect("a child");
                ended.is_some() || is_mounted(&point)
            });
            ended
        });
        match ended {
            None => {
                *lock(&self.server) = Some(server);
                *mount = Some(Mount { point });
                soak.count("mounted");
                true
            }
            Some(status) => {
                soak.count("mounts failed");
                fs::remove_dir(&point).expect("an empty mount point");
                let log = fs::read_to_string(self.log(soak)).expect("a log");
                if status.code() != Some(2) || log.contains("panicked") {
                    soak.fail(format!("mount of slot {} ended with {status}: {log}", self.number));
                }
                false
            }
        }
    }

    /// Ends the mount, if there is one.
    pub(super) fn end(&self, soak: &Soak, how: End) {
        let what = format!("{how:?} of slot {}", self.number);
        if how != End::Unmount {
            let is_mounted = self.mount.read().unwrap_or_else(PoisonError::into_inner).is_some();
            if !is_mounted {
                return;
            }
            self.leaving.store(true, Ordering::SeqCst);
            soak.timed("signal", &what, PROMPT, || self.signal(how));
        }
        let mut mount = self.mount.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Mount { point }) = mount.take() {
            soak.timed("unmount", &what, PROMPT, || self.unmount(soak, &point, how));
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
            soak.fail(format!("slot {} cannot be unmounted", self.number));
        }
        let status = self.server_ends();
        self.kill();
        *lock(&self.server) = None;
        if how != End::Kill && !status.is_some_and(|status| status.success()) {
            soak.fail(format!("the server of slot {} ended with {status:?} after {how:?}", self.number));
        }
    }

    /// Checks how many files and threads the server has.
    pub(super) fn check_server(&self, soak: &Soak) {
        let Some(id) = lock(&self.server).as_ref().map(Child::id) else { return };
        for (what, most) in [("fd", MAX_OPEN_FILES), ("task", MAX_THREADS)] {
            let count = fs::read_dir(format!("/proc/{id}/{what}")).map_or(0, Iterator::count);
            soak.most(what, count);
            if count > most {
                soak.fail(format!("the server of slot {} has {count} in /proc/{id}/{what}", self.number));
            }
        }
    }

    fn check_log(&self, soak: &Soak) {
        let log = fs::read_to_string(self.log(soak)).expect("a log");
        if let Some(line) = log.lines().find(|line| line.contains("panicked")) {
            soak.fail(format!("slot {}: {line}", self.number));
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
        std::thread::sleep(Duration::from_millis(random.next() % 5000));
        slot.end(soak, *random.pick(&[End::Unmount, End::Unmount, End::Terminate, End::Kill]));
        if random.once_in(4) {
            let _ = fs::remove_dir_all(slot.place(soak).cache());
            soak.count("caches removed");
        }
    }
    slot.begin(soak, random);
}
