//! Mounts of images of every kind whose sources and caches fail at random, for as long as wanted.
//!
//! Every tenth answer of the registry fails, and at times all of them. Archives, layouts and directories are
//! truncated, overwritten, removed, and replaced by damaged files or by another image. Cache directories are
//! damaged, removed, pruned, full or read-only. Meanwhile threads read files at random, kill readers, stop and
//! kill servers, end mounts and mount again, and run other commands. A read returns the right bytes or an error
//! code, in time. Then everything is repaired, and every byte of every mount must be readable.
//!
//! `IMGMOUNT_SOAK_SECONDS=N` sets the length; `make soak` runs an hour. With it, the counts are printed after
//! every round. `IMGMOUNT_SOAK_LOGS=DIR` keeps the logs of the mounts after a failure. The order of events
//! depends on the scheduler, so a seed repeats the choices, not the run.

mod faults;
mod images;
mod places;
mod readers;
mod side;
mod slots;
mod sources;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use std::{env, fs, panic};

use self::faults::{Faults, Mode};
use self::places::Place;
use self::slots::Slot;
use self::sources::Source;
use crate::fixture::{Access, Registry};
use crate::mounted::{Need, have};
use crate::numbers::Random;
use crate::seed;

const VARIABLE: &str = "IMGMOUNT_SOAK_SECONDS";
const DEFAULT_SECONDS: u64 = 5;
/// The longest time in which every answer or every tenth one fails, before all is checked.
const ROUND: Duration = Duration::from_secs(20);
/// After this time, an operation counts as hung, and all mounts are killed to free its thread.
const HUNG: Duration = Duration::from_secs(150);
/// Threads that read from mounts.
const READERS: u64 = 6;
/// What a machine without other load may add to a deadline.
const MARGIN: Duration = Duration::from_millis(2500);

/// What all threads share.
struct Soak {
    registry: Registry,
    faults: Arc<Faults>,
    sources: Vec<Source>,
    /// Holds the sources that are files.
    _directory: tempfile::TempDir,
    /// Cache directories, shared by slots.
    places: Vec<Place>,
    slots: Vec<Slot>,
    seed: u64,
    stop: AtomicBool,
    /// Every operation holds this for reading; the check of all bytes takes it for writing.
    pause: RwLock<()>,
    /// What each thread does, and since when.
    under_way: Mutex<HashMap<ThreadId, (Instant, String)>>,
    counts: Mutex<BTreeMap<String, u64>>,
    longest: Mutex<BTreeMap<&'static str, Duration>>,
    failures: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Soak {
    fn start(seed: u64) -> Self {
        let (registry, faults) = (Registry::start(), Arc::new(Faults::new(seed)));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let sources = sources::all(&registry, directory.path());
        registry.set_access(Access::Token(None, 40));
        let (hook, host) = (faults.clone(), registry.host());
        registry.fail(move |seen| hook.next(seen, &host));
        Soak {
            registry,
            faults,
            sources,
            _directory: directory,
            places: vec![Place::new(false), Place::new(true)],
            slots: Slot::all(),
            seed,
            stop: AtomicBool::new(false),
            pause: RwLock::new(()),
            under_way: Mutex::default(),
            counts: Mutex::default(),
            longest: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn count(&self, what: impl Into<String>) {
        *lock(&self.counts).entry(what.into()).or_default() += 1;
    }

    /// Counts the largest `count` seen.
    fn most(&self, what: &str, count: usize) {
        let mut counts = lock(&self.counts);
        let most = counts.entry(format!("most in {what}")).or_default();
        *most = (count as u64).max(*most);
    }

    fn fail(&self, what: String) {
        lock(&self.failures).push(what);
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Returns a time limit for an operation that takes `time` on a machine without other load.
    fn limit(&self, time: Duration) -> Duration {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load: f64 = load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        time + MARGIN.mul_f64(1.0 + load / cores as f64)
    }

    /// Runs an operation that must end within `limit`, and returns its result.
    fn timed<T>(&self, kind: &'static str, what: &str, limit: Duration, run: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        lock(&self.under_way).insert(thread::current().id(), (begun, what.to_owned()));
        let result = run();
        lock(&self.under_way).remove(&thread::current().id());
        let took = begun.elapsed();
        let mut longest = lock(&self.longest);
        let longest = longest.entry(kind).or_default();
        *longest = took.max(*longest);
        if took > limit {
            self.fail(format!("{kind} took {took:?}, more than {limit:?}: {what}"));
        }
        result
    }

    /// Starts a thread that calls `step` until the end.
    fn repeat<'scope, 'env: 'scope>(
        &'env self,
        scope: &'scope thread::Scope<'scope, 'env>,
        number: u64,
        step: impl Fn(&Soak, &mut Random) + Send + 'scope,
    ) {
        scope.spawn(move || {
            let mut random = Random::new(self.seed, number);
            while !self.is_over() {
                let pause = self.pause.read().unwrap_or_else(PoisonError::into_inner);
                let stepped = panic::catch_unwind(panic::AssertUnwindSafe(|| step(self, &mut random)));
                drop(pause);
                if stepped.is_err() {
                    self.fail(format!("thread {number} panicked"));
                }
                // Lets the check of all bytes begin.
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Waits for `time`, and finds operations that hang.
    fn watch(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.is_over() {
            thread::sleep(Duration::from_millis(50));
            self.registry.seen();
            self.find_hung();
        }
    }

    fn find_hung(&self) {
        let under_way = lock(&self.under_way).clone();
        for (begun, what) in under_way.values().filter(|(begun, _)| begun.elapsed() > HUNG) {
            self.fail(format!("hangs since {:?}: {what}", begun.elapsed()));
        }
        if self.is_over() && under_way.values().any(|(begun, _)| begun.elapsed() > HUNG) {
            self.slots.iter().for_each(Slot::kill);
        }
    }

    /// Lets answers fail for a time, and then checks that all bytes can be read.
    fn round(&self, random: &mut Random, time: Duration) {
        self.faults.set(Mode::Tenth);
        self.watch(time * 3 / 4);
        self.faults.set(*random.pick(&[Mode::Tenth, Mode::AllStall, Mode::AllBreak]));
        self.registry.redirect_blobs(5 + random.below(20), *random.pick(&[400, 401, 403, 404]));
        self.watch(time / 4);
        self.faults.set(Mode::None);
        let _pause = self.pause.write().unwrap_or_else(PoisonError::into_inner);
        self.sources.iter().for_each(Source::restore);
        self.places.iter().for_each(Place::repair);
        if !self.is_over() {
            self.check_all(random);
        }
        self.count("rounds");
    }

    fn report(&self) -> String {
        let mut text = String::new();
        for (what, count) in &*lock(&self.counts) {
            let _ = write!(text, "{what} {count}, ");
        }
        for (kind, time) in &*lock(&self.longest) {
            let _ = write!(text, "longest {kind} {:.2} s, ", time.as_secs_f64());
        }
        let (requests, failed) = self.faults.counts();
        let _ = write!(text, "requests {requests}, of these failed {failed}");
        text
    }
}

#[test]
fn x34_reads_return_right_bytes_or_an_error_whatever_fails() {
    if !have(&[Need::Fuse]) {
        return;
    }
    let set = env::var(VARIABLE).ok();
    let seconds = set.as_deref().map_or(DEFAULT_SECONDS, |text| text.parse().expect("a number of seconds"));
    let soak = Soak::start(seed::seed());
    let end = Instant::now() + Duration::from_secs(seconds);
    let say = |text: &str| {
        if set.is_some() {
            // The test harness would hold the output of `eprintln!` back.
            writeln!(std::io::stderr(), "{text}").expect("writing to standard error");
        }
    };
    thread::scope(|scope| {
        for number in 0..READERS {
            soak.repeat(scope, number, readers::read);
        }
        soak.repeat(scope, 100, slots::change);
        soak.repeat(scope, 101, slots::change);
        soak.repeat(scope, 102, places::damage);
        soak.repeat(scope, 103, side::run);
        soak.repeat(scope, 104, slots::change);
        soak.repeat(scope, 105, slots::stop);
        soak.repeat(scope, 106, sources::change);
        let mut random = Random::new(soak.seed, 200);
        while Instant::now() < end && !soak.is_over() {
            soak.round(&mut random, ROUND.min(end.saturating_duration_since(Instant::now())));
            say(&soak.report());
        }
        soak.stop.store(true, Ordering::SeqCst);
        soak.faults.set(Mode::None);
        // Threads end within the limits of their operations, or else their mounts are killed.
        while !lock(&soak.under_way).is_empty() {
            thread::sleep(Duration::from_millis(50));
            soak.find_hung();
        }
    });
    for slot in &soak.slots {
        slot.end(&soak, slots::End::Unmount);
    }
    let failures = std::mem::take(&mut *lock(&soak.failures));
    if !failures.is_empty() {
        soak.keep_logs();
    }
    assert!(failures.is_empty(), "{failures:#?}\n{}", soak.report());
    assert!(lock(&soak.counts).get("reads right").is_some_and(|count| *count > 0), "{}", soak.report());
}

impl Soak {
    /// Keeps the logs of the mounts for whoever looks for the cause of a failure.
    fn keep_logs(&self) {
        let Some(kept) = env::var_os("IMGMOUNT_SOAK_LOGS") else { return };
        fs::create_dir_all(&kept).expect("a directory for logs");
        for (number, slot) in self.slots.iter().enumerate() {
            let to = std::path::Path::new(&kept).join(format!("slot-{number}.log"));
            let _ = fs::copy(slot.log(self), to);
        }
    }
}
