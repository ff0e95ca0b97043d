//! `imgmount IMAGE DIR`: handles mount options, moves to the background, and unmounts at the end.
//!
//! This module owns the meaning of each mount option, and the events that end a mount. It must not know
//! how an image is loaded, nor the kernel's protocol, which is hidden in [`Image::mount`].
//!
//! Options come from three sources: the command line, an fstab line, and `mount -t fuse.imgmount`,
//! which always runs `imgmount IMAGE DIR -o rw,dev,suid` through mount.fuse3 and a shell. mount(8)
//! always puts `rw` or `ro` first, and mount.fuse3 adds `dev` and `suid` unless it gets `nodev` and
//! `nosuid`; options that the user gave explicitly look the same. Therefore `suid` and `dev` are
//! ignored in a list that begins with `rw` or `ro` (docs/security.md X13). `rw` itself is accepted and
//! has no effect.

mod list;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args as _, ValueEnum};
use imgmount::{
    Engine, Error, Image, LayerRange, MountFault, MountOptions, MountPoint, MountView, Mounted, escape_path,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use self::list::{fold_long, split_list};
use super::args::{ImageArgs, image_value};
use super::commands::{Command, Example};
use super::daemon::{self, Process, Waiting};
use super::logging;
use super::options::parse_duration;

/// Options of mount(8), fstab(5) and fuse(8) that concern other programs, or that a read-only tree
/// fulfils anyway. Options that begin with `x-` are ignored, too.
const IGNORED: [&str; 27] = [
    "ro",
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "comment",
    "nonempty",
    "silent",
];

/// Mount an image on a directory
///
/// Shows the merged root file system of the image in DIR, read-only. The command returns once DIR can be
/// used; a background process serves the mount until it is unmounted.
#[derive(Debug, clap::Args)]
pub(crate) struct MountArgs {
    /// Image: [TRANSPORT:]PATH[:REF | @INDEX | @CONTAINER], docker://NAME, or - for standard input
    #[arg(value_name = "IMAGE", value_parser = image_value())]
    pub(crate) reference: OsString,
    /// Mount point: an existing directory
    pub(crate) dir: PathBuf,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,
    /// Show the merged tree, or also every layer, every state and the documents of the image
    #[arg(long, value_name = "VIEW", default_value = "rootfs")]
    pub(crate) view: ViewMode,
    /// Unmount after this period without access, such as 30s, 5m or 1h; off by default
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Append messages, with timestamps, to FILE once DIR can be used
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Mount options, separated by commas; long options work too, as in -o view=all
    ///
    /// Supported are allow_other, allow_root, default_permissions, suid, nosuid, dev, nodev, exec and noexec.
    /// Options that concern only mount(8) are ignored. A mount is always read-only; nosuid and nodev are the
    /// default. In a list that begins with ro or rw, suid and dev are ignored, because mount(8) adds them
    /// unasked.
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
    #[command(flatten)]
    pub(crate) image: ImageArgs,
    /// The mount options for the kernel, from `-o`.
    #[arg(skip)]
    pub(crate) kernel: MountOptions,
}

/// `--view`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ViewMode {
    /// The merged tree
    #[default]
    Rootfs,
    /// rootfs/, layers/NN-DIFF_ID/, states/NN/ and image/
    All,
}

impl MountArgs {
    /// Applies the `-o` options to the other fields. They take precedence.
    ///
    /// # Errors
    /// For an unknown option or a bad value; the error names the option.
    pub(crate) fn fold_options(&mut self) -> anyhow::Result<()> {
        for list in std::mem::take(&mut self.options) {
            let items = split_list(&list);
            let from_mount = items.first().is_some_and(|(name, _)| name == "ro" || name == "rw");
            for (name, value) in items {
                self.fold(&name, value.as_deref(), from_mount)
                    .map_err(|why| anyhow!("mount option {why}"))?;
            }
        }
        Ok(())
    }

    fn fold(&mut self, name: &str, value: Option<&str>, from_mount: bool) -> Result<(), String> {
        if IGNORED.contains(&name) || name.starts_with("x-") || name.starts_with("X-") {
            return Ok(());
        }
        if value.is_none() && self.fold_kernel(name, from_mount) {
            return Ok(());
        }
        let command = MountArgs::augment_args_for_update(clap::Command::new("mount").no_binary_name(true));
        fold_long(self, command, name, value)
    }

    /// Applies an option for the kernel. Returns false if `name` is not such an option.
    fn fold_kernel(&mut self, name: &str, from_mount: bool) -> bool {
        match name {
            "suid" => self.kernel.suid |= !from_mount,
            "nosuid" => self.kernel.suid = false,
            "dev" => self.kernel.dev |= !from_mount,
            "nodev" => self.kernel.dev = false,
            "exec" => self.kernel.noexec = false,
            "noexec" => self.kernel.noexec = true,
            "allow_other" => self.kernel.allow_other = true,
            "allow_root" => self.kernel.allow_root = true,
            "default_permissions" => self.kernel.default_permissions = true,
            _ => return false,
        }
        true
    }

    fn mount_options(&self) -> MountOptions {
        let view = match self.view {
            ViewMode::Rootfs => MountView::Rootfs,
            ViewMode::All => MountView::All,
        };
        let name = self.reference.to_string_lossy();
        self.kernel.clone().fsname(name).idle_timeout(self.idle_timeout).view(view)
    }
}

impl Command for MountArgs {
    const NAME: &'static str = "mount";
    const EXAMPLES: &'static [Example] = &[
        (
            "imgmount mount --idle-timeout 10m image.tar:app /mnt",
            "Mount one of several images, and unmount it after 10 minutes without access:",
        ),
        ("imgmount mount --view all image.tar /mnt", "Show every layer, and the state after each layer:"),
        (
            "/srv/image.tar  /mnt  fuse.imgmount  noauto,user,platform=linux/arm64  0 0",
            "A line of fstab(5) that lets every user mount the image:",
        ),
        ("mount -t fuse.imgmount -o view=all /srv/image.tar /mnt", "Mount with mount(8), as root:"),
    ];

    fn run(self) -> anyhow::Result<ExitCode> {
        run(self)
    }
}

/// Mounts, and returns when the mount is usable (in the background) or has ended (in the foreground,
/// and in the process that serves it).
///
/// The image is loaded in the process that serves it, after all cheap checks. It must not keep relative
/// paths: the process leaves its working directory.
///
/// # Errors
/// Any error that keeps the image from being mounted. If this process is in the background, it has
/// printed the error before the parent returns.
fn run(mut args: MountArgs) -> anyhow::Result<ExitCode> {
    args.fold_options()?;
    let point = MountPoint::open(&args.dir)?;
    let log = args.log_file.as_ref().map(open_log).transpose()?;
    let parent = match args.foreground {
        true => None,
        false => match daemon::fork()? {
            Process::Parent(code) => return Ok(code),
            Process::Child(parent) => Some(parent),
        },
    };
    let engine = args.image.engine();
    let image: Image = args.image.load_with(&engine, &args.reference, LayerRange::All)?;
    // Signals are caught before the mount exists, so that none can leave a mount without a process.
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    let mounted = Arc::new(image.mount(point, &args.mount_options())?);
    if parent.is_some() || log.is_some() || !std::io::stderr().is_terminal() {
        logging::show_time();
    }
    announce(parent, log)?;
    serve(&mounted, signals, args.idle_timeout, &engine)?;
    Ok(ExitCode::SUCCESS)
}

fn open_log(path: &PathBuf) -> anyhow::Result<File> {
    // The log contains file names of the image, which other users may not be allowed to know.
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot open log file '{}'", escape_path(path)))
}

fn announce(parent: Option<Waiting>, log: Option<File>) -> anyhow::Result<()> {
    match (parent, log) {
        (Some(parent), log) => parent.ready(log).context("cannot report to the parent process"),
        (None, Some(log)) => daemon::log_to(&log).context("cannot write to the log file"),
        (None, None) => Ok(()),
    }
}

/// An event that can end a mount.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// The file system was unmounted.
    Ended,
    /// This process received a signal to end.
    Signal(i32),
    /// The mount was not used for the idle timeout.
    Idle,
}

/// Serves until the mount ends.
fn serve(
    mounted: &Arc<Mounted>,
    mut signals: Signals,
    idle_timeout: Option<Duration>,
    engine: &Engine,
) -> anyhow::Result<()> {
    let (sender, events) = mpsc::channel();
    let signalled = sender.clone();
    start("signals", move || {
        for signal in signals.forever() {
            let _ = signalled.send(Event::Signal(signal));
        }
    })?;
    let waiting = Arc::clone(mounted);
    start("wait", move || {
        waiting.wait();
        let _ = sender.send(Event::Ended);
    })?;
    loop {
        match next_event(&events, idle_timeout, || mounted.idle()) {
            // If the connection broke without an unmount, a mount without a process would remain.
            Event::Ended => return Ok(take_away(mounted)?),
            Event::Signal(signal) => {
                log::info!("signal {signal}: unmounting '{}'", escape_path(mounted.point()));
                // Readers that wait for a registry keep the mount in use.
                engine.cancel();
                return Ok(take_away(mounted)?);
            }
            Event::Idle if mounted.unmount().is_ok() => return Ok(()),
            // The mount is still in use, by a process that makes no requests, so serving continues.
            Event::Idle => {}
        }
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).context("cannot start a thread")?;
    Ok(())
}

/// Waits for the next event. If the mount is idle already, as with a process that uses it without
/// requests, it waits for another whole `idle_timeout`.
fn next_event(
    events: &Receiver<Event>,
    idle_timeout: Option<Duration>,
    idle: impl Fn() -> Duration,
) -> Event {
    let Some(timeout) = idle_timeout else { return events.recv().unwrap_or(Event::Ended) };
    let mut left = timeout.saturating_sub(idle());
    if left.is_zero() {
        left = timeout;
    }
    while !left.is_zero() {
        match events.recv_timeout(left) {
            Ok(event) => return event,
            Err(RecvTimeoutError::Disconnected) => return Event::Ended,
            Err(RecvTimeoutError::Timeout) => left = timeout.saturating_sub(idle()),
        }
    }
    Event::Idle
}

/// Unmounts before this process ends, even if the mount is in use: the processes that use it are
/// listed, and lose access.
fn take_away(mounted: &Mounted) -> imgmount::Result<()> {
    match mounted.unmount() {
        Err(error @ Error::Mount { reason: MountFault::Busy(_), .. }) => {
            log::warn!("{error}; detached anyway");
            mounted.unmount_lazily()
        }
        done => done,
    }
}

/// Returns a hint for a mount that cannot be made or removed.
pub(crate) fn hint(dir: &str, reason: &MountFault) -> Option<String> {
    match reason {
        MountFault::Dead | MountFault::AlreadyMounted => {
            Some(format!("unmount it with `imgmount umount {dir}`"))
        }
        MountFault::NoDevice => Some("ls, cat, cp, extract and export work without FUSE".to_owned()),
        MountFault::NoHelper => {
            Some("install the package fuse3; ls, cat, cp, extract and export work without it".to_owned())
        }
        MountFault::Busy(_) => Some(format!(
            "end these processes, or detach the mount with `umount -l {dir}` or `fusermount3 -uz {dir}`"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
