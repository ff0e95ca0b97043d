//! Mounts and unmounts with `fusermount3`, the setuid helper for ordinary users.
//!
//! The helper opens /dev/fuse, mounts, and sends the descriptor back over a socket, whose number is in
//! `_FUSE_COMMFD` (libfuse, util/fusermount.c). The socket is passed as standard input of the helper, so no
//! code needs to run between fork and exec. This module owns the calls of the helper and how its messages are
//! read. It does not know mount options or sessions.

use std::env;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::point::MountPoint;
use crate::error::MountFault;
use crate::path::{escape, escape_path};

/// The helpers of libfuse 3 and libfuse 2, which use the same protocol.
const NAMES: [&str; 2] = ["fusermount3", "fusermount"];
/// Directories that are searched after `PATH`, which is short in cron jobs and services.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/sbin"];

/// Returns the path of the helper if it is installed.
pub(super) fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = env::split_paths(&path).chain(DIRECTORIES.map(PathBuf::from)).collect();
    let candidates =
        NAMES.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    candidates.filter(|candidate| candidate.is_absolute()).find(|candidate| candidate.is_file())
}

/// Mounts, and returns the descriptor from which requests are read.
///
/// # Errors
/// [`MountFault::NoHelper`], or the message of the helper if it refuses.
pub(super) fn mount(point: &MountPoint, options: &str) -> Result<OwnedFd, MountFault> {
    let helper = find().ok_or(MountFault::NoHelper)?;
    let (ours, theirs) = UnixStream::pair().map_err(|cause| MountFault::Os { call: "socketpair", cause })?;
    let mut command = command(&helper);
    // The helper takes a path, and the working directory is the path that no other user can redirect.
    command.args(["-o", options, "--", "."]).current_dir(point.magic_path());
    command.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(theirs));
    let child = command.spawn().map_err(|cause| cannot_run(&helper, &cause))?;
    // The command holds the other end of the socket, and `receive` would wait until both are closed.
    drop(command);
    let received = receive(&ours);
    let output = child.wait_with_output().map_err(|cause| cannot_run(&helper, &cause))?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        Err(cause) if output.status.success() => Err(MountFault::Os { call: "recvmsg", cause }),
        _ => Err(MountFault::Helper(words(&output))),
    }
}

/// Unmounts. With `lazily`, a mount in use is detached, too.
///
/// # Errors
/// `None` as the error means that the mount is in use; the caller finds out by which processes.
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
    // [`unmount`] searches the message for a word, so the message must be in the C locale.
    command.env("LC_ALL", "C").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Receives the descriptor that the helper sends with one byte; `None` if the helper closes the socket
/// without one.
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
    let lines: Vec<_> = text.lines().map(|line| escape(line.trim().as_bytes())).collect();
    if text.trim().is_empty() { format!("fusermount3: {}", output.status) } else { lines.join("; ") }
}

fn cannot_run(helper: &Path, cause: &io::Error) -> MountFault {
    MountFault::Helper(format!("cannot run '{}': {cause}", escape_path(helper)))
}
