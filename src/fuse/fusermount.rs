//! `fusermount3`, the setuid helper that mounts and unmounts for ordinary users.
//!
//! It opens /dev/fuse, mounts, and sends the descriptor back over a socket whose number it finds in
//! `_FUSE_COMMFD` (libfuse, util/fusermount.c). The socket is handed over as its standard input, which needs
//! no work between fork and exec.

use std::env;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::MountFault;

/// The helper of libfuse 3, and that of libfuse 2, which speaks the same.
const NAMES: [&str; 2] = ["fusermount3", "fusermount"];
/// Where it lies when `PATH` does not name it: cron jobs and service managers have a short one.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/sbin"];

/// The helper's path, if it is installed.
pub(super) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from)).collect();
    let candidates =
        NAMES.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    candidates.filter(|candidate| candidate.is_absolute()).find(|candidate| candidate.is_file())
}

/// Mounts and returns the descriptor that requests come from.
///
/// # Errors
/// When there is no helper, or in its own words when it refuses.
pub(super) fn mount(point: &Path, options: &str) -> Result<OwnedFd, MountFault> {
    let helper = find().ok_or(MountFault::NoHelper)?;
    let (ours, theirs) = UnixStream::pair().map_err(|cause| MountFault::Os { call: "socketpair", cause })?;
    let mut command = command(&helper);
    command.args(["-o", options, "--"]).arg(point);
    command.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs));
    let child = command.spawn().map_err(|cause| cannot_run(&helper, &cause))?;
    // The command keeps the other end open, and without it there is no end to wait for.
    drop(command);
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(|cause| cannot_run(&helper, &cause))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(cause) if output.status.success() => Err(MountFault::Os { call: "recvmsg", cause }),
        _ => Err(MountFault::Helper(words(&output))),
    }
}

/// Unmounts; `lazily` detaches what is in use.
///
/// # Errors
/// `None` in the fault's place when the mount is in use: who uses it is for the caller to find out.
pub(super) fn unmount(point: &Path, lazily: bool) -> Result<(), Option<MountFault>> {
    let helper = find().ok_or(MountFault::NoHelper)?;
    let mut command = command(&helper);
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(point).stdin(Stdio::null());
    let output = command.output().map_err(|cause| cannot_run(&helper, &cause))?;
    match words(&output) {
        _ if output.status.success() => Ok(()),
        words if words.contains("busy") => Err(None),
        words => Err(Some(MountFault::Helper(words))),
    }
}

fn command(helper: &Path) -> Command {
    let mut command = Command::new(helper);
    // Its words are searched for one of the C locale's.
    command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The descriptor that the helper sends along with one byte; `None` when it hangs up instead.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.trim();
    if text.is_empty() { format!("fusermount3: {}", output.status) } else { text.to_owned() }
}

fn cannot_run(helper: &Path, cause: &io::Error) -> MountFault {
    MountFault::Helper(format!("cannot run '{}': {cause}", helper.display()))
}
