//! Mounts and unmounts, and decides how long a mount lives.
//!
//! `fuser` can mount by itself, but then commas in the name of the file system become mount options, it
//! unmounts whatever is at the path after its own mount is gone, and it drops the helper's error message. So
//! this module mounts, and passes the descriptor to `fuser`. A process with `CAP_SYS_ADMIN` (root, also of a
//! user namespace) calls `mount(2)`, where the name is a separate argument. Other users run the setuid helper
//! `fusermount3`, with the name escaped as it requires. This module does not know requests or trees.
//!
//! A mount ends when it is unmounted, by this process or by another: the kernel closes the connection, the
//! threads end, and [`Mounted::wait`] returns.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, capabilities};

use super::{Activity, Server, View, fusermount, holders, mounts};
use crate::error::{Error, MountFault, Result};
use crate::forest::Forest;
use crate::workers::cores;

const DEVICE: &str = "/dev/fuse";
/// The type of the file system in the mount table: FUSE with a subtype.
const FILE_SYSTEM: &str = "fuse.imgmount";
const SUBTYPE: &str = "imgmount";
/// Longest name in the mount table, in bytes. `mount(2)` accepts a page; tools cut lines earlier.
const FSNAME_MAX_BYTES: usize = 1024;
/// Minimum number of threads: two, so that a slow read does not delay a lookup.
const THREADS_MIN: usize = 2;
/// Maximum number of threads by default: more would only wait for each other.
const THREADS_MAX: usize = 16;
/// Maximum time that [`Mounted::unmount`] waits for the threads to end. They end within milliseconds, unless
/// another mount namespace has a copy of the mount; then they continue to serve it.
const GOODBYE: Duration = Duration::from_secs(2);

/// Options of a mount. By default it is read-only, without set-user-id and device files, and accessible only
/// to the mounting user.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct MountOptions {
    /// The source in the mount table, normally the name of the image. `imgmount` if empty.
    pub fsname: String,
    /// Allow access for all users. The kernel then checks modes and owners.
    pub allow_other: bool,
    /// Allow access for root in addition to the mounting user. The kernel then checks modes and owners, and
    /// caches little.
    pub allow_root: bool,
    /// Let the kernel check modes and owners for the mounting user, too.
    pub default_permissions: bool,
    /// Honour set-user-id and set-group-id bits.
    pub suid: bool,
    /// Allow access to device files.
    pub dev: bool,
    /// Forbid executing programs.
    pub noexec: bool,
    /// The number of threads that take requests from the kernel. By default one for each core, at least 2 and
    /// at most 16.
    pub threads: Option<usize>,
    /// The idle time after which the caller intends to unmount. Any use of the mount becomes visible in
    /// [`Mounted::idle`] within this time. None by default.
    pub idle_timeout: Option<Duration>,
    /// The trees to show. [`MountView::Rootfs`] by default.
    pub view: MountView,
}

/// The trees that a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MountView {
    /// The merged tree.
    #[default]
    Rootfs,
    /// Below one root: the merged tree in `rootfs/`, each layer in `layers/NN-DIFF_ID/`, the state after each
    /// layer in `states/NN/`, and manifest and config in `image/`.
    All,
}

impl MountOptions {
    /// Returns whether the kernel checks permissions: always if users other than the mounting one have access
    /// (docs/security.md X14).
    fn checks_permissions(&self) -> bool {
        self.default_permissions || self.allow_other || self.allow_root
    }

    /// Returns whether FUSE must allow other users. FUSE has no option for root alone: the process refuses
    /// the others.
    fn lets_others_in(&self) -> bool {
        self.allow_other || self.allow_root
    }

    fn flags(&self) -> MountFlags {
        let mut flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        flags.set(MountFlags::NOSUID, !self.suid);
        flags.set(MountFlags::NODEV, !self.dev);
        flags.set(MountFlags::NOEXEC, self.noexec);
        flags
    }

    /// Returns the data argument of `mount(2)`; Documentation/filesystems/fuse.rst. It contains no text from
    /// the image or the user.
    fn kernel_options(&self, device: i32) -> String {
        let (user, group) = (getuid().as_raw(), getgid().as_raw());
        let fixed = format!("fd={device},rootmode=40000,user_id={user},group_id={group}");
        [fixed].into_iter().chain(self.audience().map(str::to_owned)).collect::<Vec<_>>().join(",")
    }

    /// Returns the argument of `fusermount3 -o`.
    fn helper_options(&self) -> String {
        let suid = if self.suid { "suid" } else { "nosuid" };
        let dev = if self.dev { "dev" } else { "nodev" };
        let name = escape(&self.source());
        let fixed = format!("ro,{suid},{dev},fsname={name},subtype={SUBTYPE}");
        let noexec = self.noexec.then_some("noexec");
        let more = noexec.into_iter().chain(self.audience()).map(str::to_owned);
        [fixed].into_iter().chain(more).collect::<Vec<_>>().join(",")
    }

    fn audience(&self) -> impl Iterator<Item = &'static str> {
        let permissions = self.checks_permissions().then_some("default_permissions");
        permissions.into_iter().chain(self.lets_others_in().then_some("allow_other"))
    }

    /// Returns the name for the mount table, cut to the maximum length and without control characters.
    fn source(&self) -> String {
        if self.fsname.is_empty() {
            return SUBTYPE.to_owned();
        }
        let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= FSNAME_MAX_BYTES;
        let characters = self.fsname.char_indices().take_while(fits).map(|(_, c)| c);
        characters.map(|c| if c.is_control() { '?' } else { c }).collect()
    }

    fn thread_count(&self) -> usize {
        self.threads.map_or_else(|| cores().clamp(THREADS_MIN, THREADS_MAX), |threads| threads.max(1))
    }

    fn session_config(&self) -> Config {
        let mut config = Config::default();
        config.n_threads = Some(self.thread_count());
        // Each thread then opens the device for itself, which users of the helper may not be allowed to do.
        config.clone_fd = open_device().is_ok();
        // The kernel refuses other users where necessary. Only for `allow_root` must the process check.
        config.acl =
            if self.allow_root && !self.allow_other { SessionACL::RootAndOwner } else { SessionACL::All };
        config
    }
}

/// Escapes commas, which would begin another option, and backslashes: libfuse, util/fusermount.c.
fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace(',', "\\,")
}

/// A mounted tree. Dropping it unmounts the tree; a mount in use is detached.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    /// The mount's number, to recognise it in the mount table.
    id: Option<u64>,
    activity: Arc<Activity>,
    end: Arc<End>,
}

/// Whether the connection to the kernel has ended.
#[derive(Debug, Default)]
struct End {
    reached: Mutex<bool>,
    changed: Condvar,
}

impl End {
    fn reach(&self) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        while !*reached {
            reached = self.changed.wait(reached).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until(&self, deadline: Instant) -> bool {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        while !*reached {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (reached, _) = self.changed.wait_timeout(reached, left).unwrap_or_else(PoisonError::into_inner);
        }
        *reached
    }
}

/// Checks that `dir` can be a mount point, and returns its path without symbolic links. Call it before
/// loading an image, which can take long.
///
/// # Errors
/// [`Error::Mount`] with the reason: the directory is missing or not a directory, an image is mounted there
/// already, or FUSE is missing.
pub fn check_mount_point(dir: &Path) -> Result<PathBuf> {
    let fault = |reason| Error::Mount { dir: dir.display().to_string(), reason };
    let point = dir.canonicalize().map_err(|cause| fault(directory_fault(cause)))?;
    let metadata = fs::metadata(&point).map_err(|cause| fault(directory_fault(cause)))?;
    if !metadata.is_dir() {
        return Err(fault(MountFault::NotADirectory));
    }
    if has_own_mount(&point)? {
        // For a dead mount the kernel may answer other calls from its cache, but never this one.
        let dead = matches!(rustix::fs::statvfs(&point), Err(Errno::NOTCONN));
        return Err(fault(if dead { MountFault::Dead } else { MountFault::AlreadyMounted }));
    }
    if !Path::new(DEVICE).exists() {
        return Err(fault(MountFault::NoDevice));
    }
    if !may_mount() && fusermount::find().is_none() {
        return Err(fault(MountFault::NoHelper));
    }
    Ok(point)
}

/// Returns whether an image is mounted at `point`.
fn has_own_mount(point: &Path) -> Result<bool> {
    Ok(mounts::topmost(&mounts::all()?, point).is_some_and(|mount| mount.file_system == FILE_SYSTEM))
}

fn directory_fault(cause: io::Error) -> MountFault {
    match cause.raw_os_error() {
        Some(libc::ENOTCONN) => MountFault::Dead,
        Some(libc::ENOENT) => MountFault::NotFound,
        Some(libc::ENOTDIR) => MountFault::NotADirectory,
        _ => MountFault::Os { call: "cannot examine the directory", cause },
    }
}

fn may_mount() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Mounts a tree or a forest on a directory whose path [`check_mount_point`] has returned. On return, the
/// connection to the kernel is initialised and requests are served.
///
/// # Errors
/// [`Error::Mount`] when the kernel or the helper refuses. Nothing is left mounted then.
pub(crate) fn mount(forest: impl Into<Forest>, dir: &Path, options: &MountOptions) -> Result<Mounted> {
    let fault = |reason| Error::Mount { dir: dir.display().to_string(), reason };
    // Checked again, because another process may have mounted here while the image was indexed.
    if has_own_mount(dir)? {
        return Err(fault(MountFault::AlreadyMounted));
    }
    let device = attach(dir, options).map_err(fault)?;
    let id = mounts::topmost(&mounts::all().unwrap_or_default(), dir).map(|mount| mount.id);
    let activity = Arc::new(Activity::new());
    let mounted = Mounted { point: dir.to_owned(), id, activity: Arc::clone(&activity), end: Arc::default() };
    // From here on, dropping `mounted` cleans up.
    let view = View::new(forest.into(), options, activity);
    serve(Server::new(view), device, options, &mounted.end).map_err(|cause| {
        mounted.end.reach();
        fault(MountFault::Os { call: "FUSE", cause })
    })?;
    // The mount must not be accessed from this process, for example to test it: a process that unmounts it
    // meanwhile would find it in use, and a process that is killed while it waits for its own answer hangs
    // forever.
    Ok(mounted)
}

fn attach(point: &Path, options: &MountOptions) -> Result<OwnedFd, MountFault> {
    let device = match open_device() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountFault::NoDevice),
        // Without permission to open the device, the helper can still mount.
        Err(_) => return fusermount::mount(point, &options.helper_options()),
        Ok(device) => device,
    };
    let data = CString::new(options.kernel_options(device.as_raw_fd())).unwrap_or_default();
    match rustix::mount::mount(options.source(), point, FILE_SYSTEM, options.flags(), data.as_c_str()) {
        Ok(()) => Ok(device.into()),
        Err(Errno::PERM) => {
            drop(device);
            fusermount::mount(point, &options.helper_options())
        }
        Err(errno) => Err(MountFault::Os { call: "mount", cause: errno.into() }),
    }
}

fn open_device() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(DEVICE)
}

/// Initialises the connection to the kernel and starts the threads that serve requests.
fn serve(server: Server, device: OwnedFd, options: &MountOptions, end: &Arc<End>) -> io::Result<()> {
    let config = options.session_config();
    let session = Session::from_fd(server, device, config.acl, config)?;
    let end = Arc::clone(end);
    thread::Builder::new().name("fuse".into()).spawn(move || {
        if let Err(error) = session.run() {
            log::error!("lost the connection to the kernel: {error}");
        }
        end.reach();
    })?;
    Ok(())
}

impl Mounted {
    /// Returns the path of the mount point.
    #[must_use]
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Waits until the tree is no longer mounted anywhere, whichever process unmounts it.
    pub fn wait(&self) {
        self.end.wait();
    }

    /// Returns the time since the last request of the kernel.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.activity.idle()
    }

    /// Unmounts the tree. Does nothing if it is unmounted already.
    ///
    /// # Errors
    /// [`Error::Mount`] with [`MountFault::Busy`], which lists the processes that use the mount, or with the
    /// error of the system.
    pub fn unmount(&self) -> Result<()> {
        if !self.is_there() {
            return Ok(());
        }
        detach(&self.point, UnmountFlags::empty())?;
        self.end.wait_until(Instant::now() + GOODBYE);
        Ok(())
    }

    /// Detaches the mount from the directory tree even if it is in use. Open files stay readable as long as
    /// this process lives.
    ///
    /// # Errors
    /// [`Error::Mount`] with the error of the system.
    pub fn unmount_lazily(&self) -> Result<()> {
        if self.is_there() { detach(&self.point, UnmountFlags::DETACH) } else { Ok(()) }
    }

    /// Returns whether the mount point still shows this mount: after it was unmounted, another file system
    /// may be mounted there. The kernel reuses the numbers of mounts, so the number is compared only while
    /// the connection lasts.
    fn is_there(&self) -> bool {
        if self.end.wait_until(Instant::now()) {
            return false;
        }
        let table = mounts::all().unwrap_or_default();
        mounts::topmost(&table, &self.point).map(|mount| mount.id) == self.id
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount().or_else(|_| self.unmount_lazily()) {
            log::error!("{error}");
        }
    }
}

/// Unmounts the directory `dir`, mounted by any imgmount process, running or not.
///
/// # Errors
/// [`Error::Mount`] when `dir` is not mounted, when it is a mount of another type, and when it is in use; the
/// processes that use it are listed.
pub fn unmount(dir: &Path) -> Result<()> {
    let point = canonicalize_mounted(dir)?;
    let fault = |reason| Error::Mount { dir: dir.display().to_string(), reason };
    match mounts::topmost(&mounts::all()?, &point) {
        None => Err(fault(MountFault::NotMounted)),
        Some(mount) if mount.file_system != FILE_SYSTEM => {
            Err(fault(MountFault::OtherMount(mount.file_system.clone())))
        }
        Some(_) => detach(&point, UnmountFlags::empty()),
    }
}

/// Returns the path of a mount point without symbolic links. The mount itself may be dead or inaccessible to
/// this user; then only the path of its parent is resolved.
fn canonicalize_mounted(dir: &Path) -> Result<PathBuf> {
    let failed = |cause| Error::Mount { dir: dir.display().to_string(), reason: directory_fault(cause) };
    let cause = match dir.canonicalize() {
        Ok(point) => return Ok(point),
        Err(cause) => cause,
    };
    let absolute = std::path::absolute(dir).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if cause.kind() != io::ErrorKind::NotFound => {
            Ok(parent.canonicalize().map_err(failed)?.join(name))
        }
        _ => Err(failed(cause)),
    }
}

fn detach(point: &Path, flags: UnmountFlags) -> Result<()> {
    let fault = |reason| Error::Mount { dir: point.display().to_string(), reason };
    let busy = || fault(MountFault::Busy(holders::find(point)));
    match rustix::mount::unmount(point, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(busy()),
        Err(Errno::PERM) => fusermount::unmount(point, flags.contains(UnmountFlags::DETACH))
            .map_err(|reason| reason.map_or_else(busy, fault)),
        // The directory was a mount point when the caller checked.
        Err(Errno::INVAL) => Err(fault(MountFault::NotMounted)),
        Err(errno) => Err(fault(MountFault::Os { call: "umount", cause: errno.into() })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(fsname: &str) -> MountOptions {
        MountOptions { fsname: fsname.into(), ..MountOptions::default() }
    }

    #[test]
    fn x13_a_mount_is_read_only_without_setuid_and_devices() {
        let expected = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        assert_eq!(named("a").flags(), expected);
        assert!(named("a").helper_options().starts_with("ro,nosuid,nodev,"));
    }

    #[test]
    fn x13_setuid_and_devices_are_to_be_had_one_by_one() {
        let suid = MountOptions { suid: true, ..named("a") };
        assert_eq!(suid.flags(), MountFlags::RDONLY | MountFlags::NODEV);
        assert!(suid.helper_options().starts_with("ro,suid,nodev,"));
        let dev = MountOptions { dev: true, noexec: true, ..named("a") };
        assert_eq!(dev.flags(), MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC);
    }

    #[test]
    fn x14_a_wider_audience_brings_permission_checks() {
        let others = MountOptions { allow_other: true, ..named("a") };
        let root = MountOptions { allow_root: true, ..named("a") };
        for options in [others, root] {
            assert!(options.kernel_options(3).ends_with(",default_permissions,allow_other"), "{options:?}");
            assert!(options.helper_options().ends_with(",default_permissions,allow_other"), "{options:?}");
        }
        assert!(!named("a").kernel_options(3).contains("allow_other"));
        assert!(!named("a").kernel_options(3).contains("default_permissions"));
    }

    #[test]
    fn an_image_name_cannot_become_an_option() {
        let options = named("a,suid,dev\\,b.tar").helper_options();
        assert_eq!(options, r"ro,nosuid,nodev,fsname=a\,suid\,dev\\\,b.tar,subtype=imgmount");
        assert!(!named("a,allow_other").kernel_options(3).contains("allow_other"));
    }

    #[test]
    fn x19_an_image_name_cannot_steer_a_terminal() {
        assert_eq!(named("a\x1b[2J\n.tar").source(), "a?[2J?.tar");
    }

    #[test]
    fn an_image_name_in_the_mount_table_is_bounded_and_never_empty() {
        assert_eq!(named("").source(), "imgmount");
        assert_eq!(named(&"é".repeat(600)).source(), "é".repeat(512));
    }

    #[test]
    fn a_single_thread_is_enough_when_asked_for() {
        assert_eq!(MountOptions { threads: Some(0), ..named("a") }.thread_count(), 1);
        assert!((THREADS_MIN..=THREADS_MAX).contains(&named("a").thread_count()));
    }

    #[test]
    fn allow_root_is_enforced_here_and_allow_other_by_the_kernel() {
        let root = MountOptions { allow_root: true, ..named("a") };
        assert_eq!(root.session_config().acl, SessionACL::RootAndOwner);
        let both = MountOptions { allow_other: true, ..root };
        assert_eq!(both.session_config().acl, SessionACL::All);
    }

    #[test]
    fn a_mount_point_that_is_missing_or_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        let reason = |path: &Path| match check_mount_point(path).unwrap_err() {
            Error::Mount { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert!(matches!(reason(&directory.path().join("none")), MountFault::NotFound));
        assert!(matches!(reason(&file), MountFault::NotADirectory));
        assert!(matches!(reason(&file.join("below")), MountFault::NotADirectory));
    }

    #[test]
    fn a_dead_mount_is_told_from_a_missing_directory() {
        let dead = io::Error::from_raw_os_error(libc::ENOTCONN);
        assert!(matches!(directory_fault(dead), MountFault::Dead));
    }

    #[test]
    fn only_our_own_mounts_are_unmounted() {
        let directory = tempfile::tempdir().unwrap();
        let error = unmount(directory.path()).unwrap_err();
        assert!(matches!(error, Error::Mount { reason: MountFault::NotMounted, .. }), "{error}");
        let error = unmount(Path::new("/proc")).unwrap_err();
        assert!(
            matches!(&error, Error::Mount { reason: MountFault::OtherMount(kind), .. } if kind == "proc")
        );
    }
}
