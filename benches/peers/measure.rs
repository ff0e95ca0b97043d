//! Runs commands and measures their time. Contenders take turns, so that other load on the machine
//! affects all of them alike.

#![expect(unsafe_code, reason = "wait4, which alone tells what one child has used, has no safe wrapper")]

use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cleanup;
use crate::report::unit::Unit;
use crate::report::{Figure, Group, Row};

/// The name of a figure, and its unit.
pub(crate) type Quantity = (&'static str, Unit);
pub(crate) const WALL: Quantity = ("wall", Unit::Seconds);
pub(crate) const CPU: Quantity = ("cpu", Unit::Seconds);
pub(crate) const CORES: Quantity = ("cores", Unit::Number);

/// The figures of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(pub(crate) Vec<(Quantity, f64)>);

impl Sample {
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|((quantity, _), _)| *quantity == name).map(|(_, value)| *value)
    }
}

/// The time that a command took, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) wall: f64,
    /// User and system time, with all descendants that were waited for.
    pub(crate) cpu: f64,
}

impl Spent {
    pub(crate) fn wall_only(self) -> Sample {
        Sample(vec![(WALL, self.wall)])
    }

    /// Returns the sample with CPU time, and with the number of busy cores that follows from it.
    pub(crate) fn with_cpu(self) -> Sample {
        Sample(vec![(WALL, self.wall), (CPU, self.cpu), (CORES, self.cpu / self.wall)])
    }
}

/// One of several ways to do the work of a group.
pub(crate) struct Contender<'a> {
    name: String,
    runs: usize,
    /// Sets up, measures and cleans up; or the reason why the contender cannot run.
    run: Result<Box<dyn FnMut() -> Result<Sample> + 'a>, String>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(
        name: impl Into<String>,
        runs: usize,
        run: impl FnMut() -> Result<Sample> + 'a,
    ) -> Self {
        Contender { name: name.into(), runs, run: Ok(Box::new(run)) }
    }

    /// Returns the contender, or a skipped one with the reason if a requirement is missing.
    pub(crate) fn unless(mut self, missing: Option<String>) -> Self {
        if let Some(why) = missing {
            self.run = Err(why);
        }
        self
    }
}

/// Runs the contenders in turn, each as often as it asks for; every round begins with another
/// contender. A contender that fails is dropped.
pub(crate) fn race(title: &str, mut contenders: Vec<Contender<'_>>) -> Group {
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    let rounds = contenders.iter().map(|contender| contender.runs).max().unwrap_or(0);
    for round in 0..rounds {
        for turn in 0..contenders.len() {
            let i = (round + turn) % contenders.len();
            let contender = &mut contenders[i];
            if round >= contender.runs {
                continue;
            }
            let Ok(run) = &mut contender.run else { continue };
            match run() {
                Ok(sample) => {
                    say(&format!("{title}: {} [{}]: {}", contender.name, round + 1, told(&sample)));
                    samples[i].push(sample);
                }
                Err(error) => {
                    say(&format!("{title}: {}: FAILED: {error:#}", contender.name));
                    contender.run = Err(format!("failed: {error:#}"));
                }
            }
        }
    }
    let rows = contenders.into_iter().zip(samples).map(|(contender, samples)| match contender.run {
        Ok(_) => row(contender.name, &samples),
        Err(why) => Row::skipped(contender.name, why),
    });
    Group { title: title.to_owned(), rows: rows.collect() }
}

/// Returns a row with one figure for each quantity of the samples.
pub(crate) fn row(contender: impl Into<String>, samples: &[Sample]) -> Row {
    let quantities =
        samples.first().into_iter().flat_map(|sample| sample.0.iter().map(|(quantity, _)| *quantity));
    let figures = quantities.filter_map(|(name, unit)| {
        let values = samples.iter().filter_map(|sample| sample.get(name));
        Figure::of(name, unit, values.collect())
    });
    Row { contender: contender.into(), figures: figures.collect(), skipped: None }
}

/// Prints a line of progress.
pub(crate) fn say(line: &str) {
    eprintln!("bench: {line}");
}

fn told(sample: &Sample) -> String {
    let shown = sample.0.iter().map(|((name, unit), value)| format!("{name} {}", unit.show(*value)));
    shown.collect::<Vec<_>>().join(", ")
}

/// Runs a command to its end. Fails if the exit code is not 0.
pub(crate) fn run(command: &mut Command) -> Result<Spent> {
    run_to(command, 0)
}

/// Runs a command to its end. Fails if the exit code is not `code`.
pub(crate) fn run_to(command: &mut Command, code: i32) -> Result<Spent> {
    run_within(command, code, None)?.context("a command without a limit was stopped")
}

/// Runs a command to its end, with its descendants in their own process group. Its output is not
/// returned; it is in the error if the command does not end with `code`. After `limit` the command is
/// killed, and `None` is returned.
pub(crate) fn run_within(command: &mut Command, code: i32, limit: Option<Duration>) -> Result<Option<Spent>> {
    let said = tempfile::tempfile().context("no file for messages")?;
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(said.try_clone().context("no file for messages")?).process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let group = child.id();
    let _interruptible = cleanup::Running::group(group);
    let (done, waited) = mpsc::channel::<()>();
    let watch = limit.map(|limit| {
        thread::spawn(move || {
            if waited.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                cleanup::kill_group(group);
            }
        })
    });
    let (status, cpu) = wait4(group)?;
    let wall = start.elapsed().as_secs_f64();
    drop(done);
    if let Some(watch) = watch {
        // The thread has nothing left to wait for, since `done` was dropped.
        let _ = watch.join();
    }
    if limit.is_some_and(|limit| status.signal().is_some() && wall >= limit.as_secs_f64()) {
        return Ok(None);
    }
    if status.code() != Some(code) {
        bail!("{name} ended with {status}: {}", last_words(said));
    }
    Ok(Some(Spent { wall, cpu }))
}

/// Runs a command, unmeasured, and returns its output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    if !out.status.success() {
        bail!("{name} ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Returns a shell that fails if any part of `script` fails, with `arguments` as $1, $2, ...
pub(crate) fn shell<S: AsRef<std::ffi::OsStr>>(script: &str, arguments: &[S]) -> Command {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "bash"]).args(arguments);
    command
}

fn last_words(mut said: fs::File) -> String {
    use std::io::{Seek as _, SeekFrom};
    let mut text = Vec::new();
    if said.seek(SeekFrom::Start(0)).and_then(|_| said.read_to_end(&mut text)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Waits for a child. Returns its status and its CPU time in seconds.
fn wait4(pid: u32) -> Result<(ExitStatus, f64)> {
    let pid = libc::pid_t::try_from(pid).context("no such process")?;
    let mut status = 0;
    // SAFETY: all-zero bytes are a valid rusage, which has only numbers in it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to variables that outlive the call.
        if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } == pid {
            return Ok((ExitStatus::from_raw(status), seconds(usage.ru_utime) + seconds(usage.ru_stime)));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error).context("cannot wait for a child");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of CPU time are far below 2^53")]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}
