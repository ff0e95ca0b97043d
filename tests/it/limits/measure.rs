//! Runs commands, and measures their time and memory.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Time between two looks at the memory of a process. What it takes in the last moment is not seen.
const POLL: Duration = Duration::from_millis(5);

/// What a command may use before it is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) peak_bytes: u64,
}

/// What a command has used.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) peak_bytes: u64,
}

/// The outcome of a command.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) spent: Spent,
    /// `None` if a signal ended the command.
    pub(super) code: Option<i32>,
    /// The first line of standard error.
    pub(super) said: String,
}

/// A process whose memory is watched.
pub(super) struct Watched {
    child: Child,
    start: Instant,
    peak_bytes: u64,
}

impl Watched {
    pub(super) fn start(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        Watched { child, start: Instant::now(), peak_bytes: 0 }
    }

    /// Looks at the memory of the process. Returns false if the process has ended.
    pub(super) fn look(&mut self) -> bool {
        let id = self.child.id();
        if let Some(peak) = status_kib(id, "VmHWM:") {
            self.peak_bytes = self.peak_bytes.max(peak << 10);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let pid = Pid::from_child(&self.child);
        matches!(waitid(WaitId::Pid(pid), options), Ok(None))
    }

    pub(super) fn spent(&self) -> Spent {
        let cpu = cpu_time(self.child.id()).unwrap_or_default();
        Spent { wall: self.start.elapsed(), cpu, peak_bytes: self.peak_bytes }
    }

    /// Waits until the process ends or exceeds `bounds`, which kills it.
    pub(super) fn finish(mut self, bounds: Bounds) -> (Spent, Option<i32>) {
        while self.look() {
            let spent = self.spent();
            if spent.wall > bounds.wall || spent.cpu > bounds.cpu || spent.peak_bytes > bounds.peak_bytes {
                self.child.kill().expect("killing a command past its bounds");
            }
            thread::sleep(POLL);
        }
        let spent = self.spent();
        let status = self.child.wait().expect("a child of this process");
        (spent, status.code())
    }

    /// Asks the process to end.
    pub(super) fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalling a child");
    }
}

/// Runs a command to its end. Its output is thrown away, except for the first line of standard error.
pub(super) fn measure(command: &mut Command, bounds: Bounds, log: &Path) -> Measured {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log).expect("a log"));
    let (spent, code) = Watched::start(command).finish(bounds);
    Measured { spent, code, said: first_line(log) }
}

/// Returns the first line of a file.
pub(super) fn first_line(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Returns a number of KiB from /proc/PID/status; `None` if the process has ended.
fn status_kib(id: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Returns the user and system time of a process that is not reaped yet.
fn cpu_time(id: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name of the program, in parentheses, can contain spaces.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    // Linux reports ticks of 10 ms on every architecture.
    Some(Duration::from_millis(ticks * 10))
}
