//! Mounts that end with their guard.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

use crate::cleanup::is_alive;
use crate::measure;

/// Time limit for unmounting a mount in use, before it is detached.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
/// Size of a file system for output, in bytes. It is in a sparse file, which uses only as much space as
/// is written.
const DISK_BYTES: u64 = 16 << 30;

/// A new empty directory, the mount on it, and the process that serves the mount.
#[derive(Debug)]
pub(crate) struct Point {
    path: PathBuf,
    server: Option<u32>,
}

impl Point {
    /// Makes the directory below `work`.
    pub(crate) fn below(work: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("mnt-").tempdir_in(work).context("no mount point")?;
        Ok(Point { path: dir.keep(), server: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the process whose command line contains this mount point; the guard waits for its end.
    pub(crate) fn find_server(&mut self) -> Result<u32> {
        let server = server_of(&self.path).context("the mount has no server")?;
        self.server = Some(server);
        Ok(server)
    }

    /// Mounts with mount(8).
    pub(crate) fn mount<S: AsRef<OsStr>>(self, options: &[S]) -> Result<Self> {
        measure::run(Command::new("mount").args(options).arg(&self.path))?;
        Ok(self)
    }

    /// Waits until the mount is usable, for a server that returns earlier.
    pub(crate) fn wait_until_mounted(&self) -> Result<()> {
        ensure!(wait_for(|| is_mounted(&self.path)), "nothing is mounted");
        Ok(())
    }
}

/// A directory for output, emptied with its guard.
#[derive(Debug)]
pub(crate) enum Scratch {
    /// On the disk of the inputs: a new ext4 in a file there, or for users other than root a directory.
    Disk {
        /// The mount of the ext4; unmounted before the file is removed.
        point: Option<Point>,
        dir: TempDir,
    },
    /// In memory; needs root.
    Tmpfs(Point),
}

impl Scratch {
    /// Makes a new file system: after many deletions, an ext4 searches for a long time for inodes that were
    /// not in use recently, and then creating files takes several times as long.
    pub(crate) fn on_disk(work: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("scratch-").tempdir_in(work).context("no directory")?;
        let mut point = None;
        if is_root() {
            let image = dir.path().join("ext4");
            fs::File::create(&image)?.set_len(DISK_BYTES)?;
            measure::output(crate::tools::command("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
            let options: [&OsStr; 3] = ["-o".as_ref(), "loop".as_ref(), image.as_os_str()];
            point = Some(Point::below(work)?.mount(&options)?);
        }
        // Earlier writes must not go to the disk during the measurement.
        rustix::fs::sync();
        Ok(Scratch::Disk { point, dir })
    }

    pub(crate) fn in_memory(work: &Path) -> Result<Self> {
        let options = ["-t", "tmpfs", "-o", "mode=0700,size=90%", "tmpfs"];
        Ok(Scratch::Tmpfs(Point::below(work)?.mount(&options)?))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Scratch::Disk { point: Some(point), .. } => point.path(),
            Scratch::Disk { point: None, dir } => dir.path(),
            Scratch::Tmpfs(point) => point.path(),
        }
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        let gone = !is_mounted(&self.path)
            || wait_for(|| unmount(&self.path, UnmountFlags::empty(), "-u"))
            || unmount_lazily(&self.path);
        if let Some(server) = self.server {
            wait_for(|| !is_alive(server));
        }
        // Fails if a file system is still mounted there; the end of the bench removes it then.
        if gone {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Detaches a mount, in use or not.
pub(crate) fn unmount_lazily(point: &Path) -> bool {
    unmount(point, UnmountFlags::DETACH, "-uz")
}

fn unmount(point: &Path, flags: UnmountFlags, option: &str) -> bool {
    if is_root() {
        return rustix::mount::unmount(point, flags).is_ok();
    }
    let status = Command::new("fusermount3").arg(option).arg(point).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes out all dirty pages and drops the kernel's caches: the next read is from the disk.
pub(crate) fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("the kernel keeps its caches")
}

/// Whether the mount is in the mount table, where it appears when it is usable.
fn is_mounted(point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(point))
}

fn wait_for(mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

fn server_of(point: &Path) -> Option<u32> {
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let serves = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).any(|word| word == point.as_os_str().as_encoded_bytes())
    };
    processes.filter(serves).last()
}
