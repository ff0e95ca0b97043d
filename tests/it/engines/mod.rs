//! Starts real engines in directories of a test, with their own data and sockets.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::mounted::run;
use crate::tree::Snapshot;

mod containerd;
mod docker;
mod podman;
mod registry;

pub(crate) use containerd::{CHANGES, Containerd, DEMO, comparable, demo, have_containerd, unique};
pub(crate) use docker::Docker;
pub(crate) use podman::{FURTHER_IDS, Podman, USER};
pub(crate) use registry::Registry;

/// Runs a tool. Panics with its output if it fails.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let done = run(command);
    assert_eq!(done.code, 0, "{command:?}: {}{}", String::from_utf8_lossy(&done.stdout), done.stderr);
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Unpacks a tar that an engine exported.
pub(crate) fn unpack(archive: &Path, into: &Path) -> Snapshot {
    fs::create_dir(into).unwrap();
    let mut command = Command::new("tar");
    command
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(into);
    succeed(&mut command);
    Snapshot::of(into)
}
