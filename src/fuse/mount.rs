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
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Config, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{getgid, getuid};

use super::mounts::MountEntry;
use super::point::{DEVICE, FILE_SYSTEM, MountPoint, mount_error, unmount_from};
use super::{Activity, Server, View, fusermount, mounts};
use crate::error::{MountFault, Result};
use crate::forest::Forest;
use crate::workers::cores;

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
    point: MountPoint,
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

/// Mounts a tree or a forest on `point`. On return, the connection to the kernel is initialised and requests
/// are served.
///
/// # Errors
/// [`crate::Error::Mount`] when the kernel or the helper refuses. Nothing is left mounted then.
pub(crate) fn mount(forest: impl Into<Forest>, point: MountPoint, options: &MountOptions) -> Result<Mounted> {
    // Checked again, because another process may have mounted here while the image was indexed.
    point.refuse_own_mount()?;
    let (device, id) = attach(&point, options).map_err(|reason| mount_error(point.path(), reason))?;
    let activity = Arc::new(Activity::new());
    let mounted = Mounted { point, id, activity: Arc::clone(&activity), end: Arc::default() };
    // From here on, dropping `mounted` cleans up.
    let view = View::new(forest.into(), options, activity);
    serve(Server::new(view), device, options, &mounted.end).map_err(|cause| {
        mounted.end.reach();
        mount_error(mounted.point.path(), MountFault::Os { call: "FUSE", cause })
    })?;
    // The mount must not be accessed from this process, for example to test it: a process that unmounts it
    // meanwhile would find it in use, and a process that is killed while it waits for its own answer hangs
    // forever.
    Ok(mounted)
}

/// Mounts, and returns the descriptor from which requests are read, and the number of the mount.
fn attach(point: &MountPoint, options: &MountOptions) -> Result<(OwnedFd, Option<u64>), MountFault> {
    let device = match open_device() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(MountFault::NoDevice),
        // Without permission to open the device, the helper can still mount.
        Err(_) => return attach_with_helper(point, options),
        Ok(device) => device,
    };
    let data = CString::new(options.kernel_options(device.as_raw_fd())).unwrap_or_default();
    let target = point.magic_path();
    match rustix::mount::mount(options.source(), target, FILE_SYSTEM, options.flags(), data.as_c_str()) {
        Ok(()) => Ok((device.into(), own_mount(point))),
        Err(Errno::PERM) => {
            drop(device);
            attach_with_helper(point, options)
        }
        Err(errno) => Err(MountFault::Os { call: "mount", cause: errno.into() }),
    }
}

/// Mounts with the helper, which resolves the path of the mount point once more: if the mount is elsewhere
/// then, it is removed.
fn attach_with_helper(
    point: &MountPoint,
    options: &MountOptions,
) -> Result<(OwnedFd, Option<u64>), MountFault> {
    let before = mounts::all().unwrap_or_default();
    let device = fusermount::mount(point, &options.helper_options())?;
    if let Some(id) = own_mount(point) {
        return Ok((device, Some(id)));
    }
    // Without its device, the mount serves nothing, wherever it is.
    drop(device);
    let is_new = |mount: &&MountEntry| before.iter().all(|other| other.id != mount.id);
    let after = mounts::all().unwrap_or_default();
    for mount in after.iter().filter(is_new).filter(|mount| mount.file_system == FILE_SYSTEM) {
        // Only dead mounts of this user are removed: the helper refuses others, and those in use are busy.
        if matches!(rustix::fs::statvfs(&mount.point), Err(Errno::NOTCONN)) {
            let _ = fusermount::unmount(&mount.point, true);
        }
    }
    Err(MountFault::Moved)
}

/// Returns the number of the image's mount that is visible at `point`.
fn own_mount(point: &MountPoint) -> Option<u64> {
    let mount = point.visible().ok().flatten();
    mount.filter(|mount| mount.file_system == FILE_SYSTEM).map(|mount| mount.id)
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
        self.point.path()
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
    /// [`Error::Mount`](crate::Error::Mount) with [`MountFault::Busy`], which lists the processes that use
    /// the mount, or with the error of the system.
    pub fn unmount(&self) -> Result<()> {
        self.take_away(false)?;
        self.end.wait_until(Instant::now() + GOODBYE);
        Ok(())
    }

    /// Detaches the mount from the directory tree even if it is in use. Open files stay readable as long as
    /// this process lives.
    ///
    /// # Errors
    /// [`Error::Mount`](crate::Error::Mount) with the error of the system.
    pub fn unmount_lazily(&self) -> Result<()> {
        self.take_away(true)
    }

    /// Unmounts, unless the connection has ended: the kernel reuses the numbers of mounts, so the number
    /// identifies this mount only while the connection lasts.
    fn take_away(&self, lazily: bool) -> Result<()> {
        if self.end.wait_until(Instant::now()) {
            return Ok(());
        }
        let done = unmount_from(&self.point, self.id, lazily);
        done.map_err(|reason| mount_error(self.point.path(), reason))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount().or_else(|_| self.unmount_lazily()) {
            log::error!("{error}");
        }
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
}
