//! Moves the process to the background: the parent waits until the mount is usable, the child
//! continues.
//!
//! The fork precedes all threads, and all loading. Until the child is ready, it stays in the parent's
//! process group with the parent's terminal: its progress, warnings and errors are visible, and Ctrl-C
//! ends both. A parent that is killed takes the child with it. The child reports that it is ready by one byte in a pipe. A child that fails has printed
//! the cause, so the parent only returns the child's exit code. This module must not know images and
//! mounts.

#![expect(unsafe_code, reason = "fork has no safe wrapper")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, set_parent_process_death_signal, setsid, waitpid,
};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

/// Exit code for every failure.
const FAILURE: u8 = 2;
/// The byte that the child sends when it is ready.
const READY: [u8; 1] = [1];

/// The side of the fork that this process is on.
pub(crate) enum Process {
    /// The parent, in the foreground, with its exit code.
    Parent(ExitCode),
    /// The child, in the background, which has the work to do.
    Child(Waiting),
}

/// The connection to a parent that waits for the child. If it is dropped before [`Waiting::ready`], the
/// parent learns that the child failed.
pub(crate) struct Waiting {
    pipe: PipeWriter,
}

/// Forks. The parent returns only when the child is ready or has ended.
///
/// # Errors
/// When this process already has threads, or the system refuses to fork.
pub(crate) fn fork() -> anyhow::Result<Process> {
    if thread_count()? != 1 {
        bail!("cannot go to the background: threads are running already");
    }
    let (reader, writer) = io::pipe().context("cannot go to the background")?;
    let parent = getpid();
    // SAFETY: no other thread exists, so the child's copy of memory has no lock held by a thread that it
    // does not have, and it may do all that the parent may.
    match unsafe { libc::fork() } {
        0 => {
            drop(reader);
            end_with(parent)?;
            Ok(Process::Child(Waiting { pipe: writer }))
        }
        pid => {
            // The parent closes its copy of the writing end, or it would not notice the end of the child.
            drop(writer);
            let Some(child) = Pid::from_raw(pid).filter(|_| pid > 0) else {
                return Err(io::Error::last_os_error()).context("cannot go to the background");
            };
            wait_for(child, reader).map(Process::Parent)
        }
    }
}

/// Makes the system send SIGTERM to this process when its parent ends.
fn end_with(parent: Pid) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("cannot go to the background")?;
    if getppid() != Some(parent) {
        bail!("cannot go to the background: the parent process was killed");
    }
    Ok(())
}

fn thread_count() -> anyhow::Result<usize> {
    Ok(fs::read_dir("/proc/self/task").context("cannot count threads")?.count())
}

fn wait_for(child: Pid, mut reader: PipeReader) -> anyhow::Result<ExitCode> {
    let mut heard = Vec::new();
    reader.read_to_end(&mut heard).context("cannot read from the background process")?;
    if heard == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let (_, status) = waitpid(Some(child), WaitOptions::empty())?.context("no background process")?;
    exit_code(status.exit_status(), status.terminating_signal())
}

/// Returns the parent's exit code for a child that ended before it was ready.
fn exit_code(status: Option<i32>, signal: Option<i32>) -> anyhow::Result<ExitCode> {
    if let Some(signal) = signal {
        bail!("the background process was killed by signal {signal} before the mount was ready");
    }
    let code = status.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(ExitCode::from(code.unwrap_or(FAILURE)))
}

impl Waiting {
    /// Leaves the terminal and notifies the parent, which then exits with success.
    ///
    /// # Errors
    /// When the parent is gone, or the terminal cannot be left.
    pub(crate) fn ready(mut self, log: Option<File>) -> io::Result<()> {
        // setsid fails only in a leader of a process group, and a forked child is none.
        let _ = setsid();
        std::env::set_current_dir("/")?;
        leave_terminal(log)?;
        set_parent_process_death_signal(None)?;
        // If the parent was killed before this, nobody reads: then the mount is not wanted.
        self.pipe.write_all(&READY)
    }
}

fn leave_terminal(log: Option<File>) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(log.as_ref().unwrap_or(&null))?;
    Ok(())
}

/// Sends standard error to a log file, for a process in the foreground.
pub(crate) fn log_to(log: &File) -> io::Result<()> {
    Ok(dup2_stderr(log)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_child_gives_the_parent_its_exit_code() {
        assert_eq!(exit_code(Some(3), None).unwrap(), ExitCode::from(3));
    }

    #[test]
    fn a_child_that_ends_well_but_was_never_ready_is_a_failure() {
        assert_eq!(exit_code(Some(0), None).unwrap(), ExitCode::from(FAILURE));
    }

    #[test]
    fn a_killed_child_is_named_with_its_signal() {
        let error = exit_code(None, Some(9)).unwrap_err().to_string();
        assert_eq!(error, "the background process was killed by signal 9 before the mount was ready");
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert!(fork().is_err());
        drop(stop);
        assert!(other.join().unwrap().is_err());
    }
}
