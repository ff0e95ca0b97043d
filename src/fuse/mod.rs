//! The FUSE view: answers requests of the kernel from a loaded image.
//!
//! This module is an adapter: it decodes a request, asks the tree and replies. It owns capabilities, cache
//! lifetimes, threads and errno. It does not know where bytes come from or how layers are merged. Only this
//! module uses `fuser`.
//!
//! A tree never changes while it is mounted, so the kernel may cache everything: names, including missing
//! ones, attributes, directories, link targets, pages. `open` and `opendir` return `ENOSYS`, so that the
//! kernel does not send these requests again (`FUSE_NO_OPEN_SUPPORT`, `FUSE_NO_OPENDIR_SUPPORT`;
//! include/uapi/linux/fuse.h).
//!
//! There are two exceptions. With `allow_root`, access is checked in the process, so the kernel must not
//! answer from a cache that another user could reach. A mount with an idle timeout must see that it is used,
//! so names are cached for half of the timeout only.

mod attr;
mod fusermount;
mod holders;
mod limit;
mod mount;
mod mounts;
mod options;
mod point;
mod pool;
mod seek;
mod xattr;

use std::any::Any;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

pub(crate) use self::mount::mount;
pub use self::mount::{MountOptions, MountView, Mounted};
pub use self::point::{MountPoint, unmount};
use self::pool::Pool;
use self::seek::Seek;
use self::xattr::{Answer, Provenance};
use crate::forest::{Forest, ForestNode, TreeRef};
use crate::load::LoadedTree;
use crate::rootfs::InodeId;
use crate::waiting;

/// Cache lifetime of names and attributes that cannot change: a year.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Capabilities to request, if the kernel supports them.
const CAPABILITIES: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
/// Maximum number of pending read-ahead requests. The kernel's default, 12, slows down many concurrent
/// readers.
const MAX_BACKGROUND: u16 = 64;
/// Maximum length of one read, in bytes; the kernel requests at most 1 MiB.
const READ_MAX_BYTES: usize = 16 << 20;
/// Longest file name in bytes: NAME_MAX in include/uapi/linux/limits.h; merging allows no longer names.
const NAME_MAX_BYTES: u32 = 255;
/// Block size of `statfs` in bytes.
const STATFS_BLOCK_BYTES: u32 = 4096;
/// Inode numbers are never reused, so the generation is always 0.
const GENERATION: Generation = Generation(0);

thread_local! {
    /// Buffer for the answer of a read. It is kept for the thread, because a new buffer would be mapped and
    /// cleared each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The time of the kernel's last request.
#[derive(Debug)]
struct Activity {
    start: Instant,
    /// Milliseconds after `start`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Activity { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn touch(&self) {
        self.last.store(self.now(), Ordering::Relaxed);
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A read request of the kernel.
#[derive(Debug)]
struct Read {
    ino: INodeNo,
    offset: u64,
    /// Maximum number of bytes to return.
    wanted: usize,
    /// When the request arrived. From then on, its time to wait for a slow source runs.
    arrived: Instant,
}

/// How long a request may occupy its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Long enough for decoding, but not for waiting for a slow source.
    Short,
    /// As long as the source lets a read wait.
    Long,
}

/// The mounted trees and the state of the mount.
#[derive(Debug)]
struct View {
    forest: Forest,
    /// Cache lifetime of names and attributes.
    ttl: Duration,
    /// Whether the kernel must send a request for every open.
    ask_to_open: bool,
    activity: Arc<Activity>,
    /// Size of all files in blocks, computed on first request.
    total_blocks: OnceLock<u64>,
}

/// The file system that `fuser` calls: the trees, and threads for slow requests.
#[derive(Debug)]
struct Server {
    view: Arc<View>,
    pool: Pool,
}

impl Server {
    fn new(view: View) -> Self {
        Server { view: Arc::new(view), pool: Pool::default() }
    }
}

impl View {
    fn new(forest: Forest, options: &MountOptions, activity: Arc<Activity>) -> Self {
        let ttl = match options.idle_timeout {
            _ if options.allow_root => Duration::ZERO,
            Some(timeout) => timeout / 2,
            None => FOREVER,
        };
        View { forest, ttl, ask_to_open: options.allow_root, activity, total_blocks: OnceLock::new() }
    }

    /// Returns the node with this number, and its tree.
    fn find(&self, ino: INodeNo) -> Result<(ForestNode, TreeRef<'_>), Errno> {
        let node = attr::node(ino)?;
        Ok((node, self.tree(node)?))
    }

    fn tree(&self, node: ForestNode) -> Result<TreeRef<'_>, Errno> {
        self.forest.tree(node).map_err(|error| attr::errno(&error, "merging", attr::number(node)))
    }

    /// Runs the work of one request. A panic fails only this request, with `EIO`.
    fn work<T>(&self, doing: &str, work: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.activity.touch();
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            log::error!("{doing} failed: bug in imgmount: {}", panic_text(panic.as_ref()));
            Err(Errno::EIO)
        });
        self.activity.touch();
        if crate::bytes::mapping_is_lost() {
            LOST.call_once(|| log::error!("{LOST_MAPPING}"));
            return Err(Errno::EIO);
        }
        result
    }

    fn attributes(&self, ino: INodeNo) -> Result<fuser::FileAttr, Errno> {
        let (node, tree) = self.find(ino)?;
        attr::attributes(tree.rootfs(), node).ok_or(Errno::ESTALE)
    }

    /// Calls `add` for each entry of a directory from `offset` on, with the tree, the node, the name and the
    /// offset of the next entry, until `add` returns true because the reply is full. `.` is at offset 0, `..`
    /// at 1. At the place of a part, the node is the empty directory at that place and the tree is the one
    /// that holds it.
    fn list(
        &self,
        ino: INodeNo,
        offset: u64,
        mut add: impl FnMut(&LoadedTree, ForestNode, &OsStr, u64) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        let (node, tree) = self.find(ino)?;
        let parent = self.forest.parent(node).map_err(|error| attr::errno(&error, "listing", ino))?;
        let dots = [(&b"."[..], node), (&b".."[..], parent)];
        let children_from = |position| {
            tree.rootfs().children_from(node.inode(), position).map(|(name, id)| (name, node.beside(id)))
        };
        for ((name, child), next) in page(dots, children_from, offset) {
            let full = if child.is_beside(node) {
                add(&tree, child, OsStr::from_bytes(name), next)?
            } else {
                add(&*self.tree(child)?, child, OsStr::from_bytes(name), next)?
            };
            if full {
                break;
            }
        }
        Ok(())
    }

    /// Returns the attributes of a directory entry and their cache lifetime. A listing does not build a part:
    /// the attributes of a part that is not built are those of its place, with lifetime 0, so the kernel asks
    /// again when the part is accessed.
    fn listed(&self, tree: &LoadedTree, place: ForestNode) -> Result<(fuser::FileAttr, Duration), Errno> {
        let node = self.forest.enter(place);
        if node == place {
            return Ok((attr::attributes(tree.rootfs(), node).ok_or(Errno::EIO)?, self.ttl));
        }
        if self.forest.is_built(node) {
            return Ok((self.attributes(attr::number(node))?, self.ttl));
        }
        let known = attr::attributes(tree.rootfs(), place).ok_or(Errno::EIO)?;
        Ok((fuser::FileAttr { ino: attr::number(node), ..known }, Duration::ZERO))
    }

    fn xattr(&self, ino: INodeNo, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let (node, tree) = self.find(ino)?;
        let layer = tree.rootfs().inode(node.inode()).ok_or(Errno::ESTALE)?.layer;
        // Directories and documents of the forest belong to no layer and have no attributes.
        let info = tree.layer(layer).ok_or(Errno::NO_XATTR)?;
        let provenance = Provenance { number: tree.layer_number(layer), layer: Some(info) };
        xattr::value(name, tree.rootfs().xattrs(node.inode()), &provenance).ok_or(Errno::NO_XATTR)
    }

    /// Answers a read. Returns the reply unanswered if the read would take longer than `patience` allows.
    fn answer(&self, read: &Read, patience: Patience, reply: ReplyData) -> Option<ReplyData> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < read.wanted {
                buffer.resize(read.wanted, 0);
            }
            let buffer = buffer.get_mut(..read.wanted).unwrap_or_default();
            let result = self.work("read", || self.read(read, patience, buffer));
            match result.map(|filled| filled.map(|filled| buffer.get(..filled))) {
                Ok(None) => return Some(reply),
                Ok(Some(Some(bytes))) => reply.data(bytes),
                Ok(Some(None)) => reply.error(Errno::EIO),
                Err(errno) => reply.error(errno),
            }
            None
        })
    }

    /// Fills `buffer` and returns the number of bytes; `None` if the read would wait for a slow source and
    /// `patience` is short.
    fn read(&self, read: &Read, patience: Patience, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        let (node, tree) = self.find(read.ino)?;
        let filled = match patience {
            Patience::Short => tree.read_if_ready(node.inode(), buffer, read.offset),
            Patience::Long => {
                let filled = waiting::since(read.arrived, || tree.read_at(node.inode(), buffer, read.offset));
                filled.map(Some)
            }
        };
        filled.map_err(|error| attr::errno(&error, "read", read.ino))
    }

    fn total_blocks(&self) -> u64 {
        *self.total_blocks.get_or_init(|| {
            let rootfs = self.forest.rootfs().rootfs();
            let sizes = (0..rootfs.inode_count()).map(|id| rootfs.size(InodeId(id)));
            sizes.map(|size| size.div_ceil(STATFS_BLOCK_BYTES.into())).fold(0, u64::saturating_add)
        })
    }
}

/// The error if a mapped file of the cache directory is lost. It is reported once.
const LOST_MAPPING: &str = "a file in the cache directory was truncated, or cannot be read any more, while it is \
    mapped: all requests fail with EIO; mount the image again";
static LOST: Once = Once::new();

/// Returns the entries of a directory from `offset` on, each with the offset of the next one.
/// `children_from` returns the children from a position on. It is called once: a directory is read in many
/// requests, so each must begin at its position instead of counting from the first child.
fn page<'a, N, C: Iterator<Item = (&'a [u8], N)>>(
    dots: [(&'a [u8], N); 2],
    children_from: impl FnOnce(usize) -> C,
    offset: u64,
) -> impl Iterator<Item = ((&'a [u8], N), u64)> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let dots = dots.into_iter().skip(start);
    let children = children_from(start.saturating_sub(2));
    dots.chain(children).zip(offset.saturating_add(1)..)
}

/// Checks a request of `access(2)`. The owner of the mount may read regardless of the mode; executing needs
/// an `x` bit for any user, as for root.
fn may_access(attributes: &fuser::FileAttr, mask: AccessFlags) -> Result<(), Errno> {
    if mask.contains(AccessFlags::W_OK) {
        return Err(Errno::EROFS);
    }
    let is_file = attributes.kind == fuser::FileType::RegularFile;
    if mask.contains(AccessFlags::X_OK) && is_file && attributes.perm & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    Ok(())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

/// Defines requests that would change the tree; they fail with `EROFS`. The kernel refuses them itself while
/// the mount is read-only. The answers are needed after `mount -o remount,rw`.
macro_rules! refuse {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(Errno::EROFS);
        })*
    };
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = CAPABILITIES & config.capabilities();
        if self.view.ask_to_open {
            wanted -= InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        // Neither call can fail: only offered capabilities are requested, and the number is not 0.
        let _ = config.add_capabilities(wanted);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.view.work("lookup", || {
            let (parent, tree) = self.view.find(parent)?;
            match tree.rootfs().lookup(parent.inode(), name.as_bytes()) {
                Some(id) => self.view.attributes(attr::number(self.view.forest.enter(parent.beside(id)))),
                None => Ok(attr::nothing()),
            }
        });
        match found {
            Ok(attributes) => reply.entry(&self.view.ttl, &attributes, GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.work("getattr", || self.view.attributes(ino)) {
            Ok(attributes) => reply.attr(&self.view.ttl, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.view.work("readlink", || {
            let (node, tree) = self.view.find(ino)?;
            tree.rootfs().target(node.inode()).map(<[u8]>::to_vec).ok_or(Errno::EINVAL)
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.view.activity.touch();
        match flags.acc_mode() {
            fuser::OpenAccMode::O_RDONLY if self.view.ask_to_open => {
                reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            fuser::OpenAccMode::O_RDONLY => reply.error(Errno::ENOSYS),
            _ => reply.error(Errno::EROFS),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let wanted = usize::try_from(size).map_or(READ_MAX_BYTES, |size| size.min(READ_MAX_BYTES));
        let read = Read { ino, offset, wanted, arrived: Instant::now() };
        if let Some(reply) = self.view.answer(&read, Patience::Short, reply) {
            let view = Arc::clone(&self.view);
            self.pool.run(move || drop(view.answer(&read, Patience::Long, reply)));
        }
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = self.view.work("lseek", || {
            let what = Seek::from_whence(whence).ok_or(Errno::EINVAL)?;
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let (node, tree) = self.view.find(ino)?;
            let (_, file) = tree.rootfs().file(node.inode()).ok_or(Errno::EINVAL)?;
            i64::try_from(seek::seek(&file, offset, what)?).map_err(|_| Errno::EOVERFLOW)
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.view.activity.touch();
        if self.view.ask_to_open {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let done = self.view.work("readdir", || {
            self.view.list(ino, offset, |tree, place, name, next| {
                let kind = tree.rootfs().inode(place.inode()).ok_or(Errno::EIO)?.kind;
                let number = attr::number(self.view.forest.enter(place));
                Ok(reply.add(number, next, attr::file_type(kind), name))
            })
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let done = self.view.work("readdirplus", || {
            self.view.list(ino, offset, |tree, place, name, next| {
                let (attributes, ttl) = self.view.listed(tree, place)?;
                Ok(reply.add(attributes.ino, next, name, &ttl, &attributes, GENERATION))
            })
        });
        match done {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let files = u64::from(self.view.forest.rootfs().rootfs().inode_count());
        match self.view.work("statfs", || Ok(self.view.total_blocks())) {
            Ok(blocks) => {
                reply.statfs(blocks, 0, 0, files, 0, STATFS_BLOCK_BYTES, NAME_MAX_BYTES, STATFS_BLOCK_BYTES);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let value =
            self.view.work("getxattr", || xattr::answer(self.view.xattr(ino, name.as_bytes())?, size));
        reply_xattr(value, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let names = self.view.work("listxattr", || {
            let (node, tree) = self.view.find(ino)?;
            xattr::answer(xattr::list(tree.rootfs().xattrs(node.inode())), size)
        });
        reply_xattr(names, reply);
    }

    fn access(&self, _: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        match self.view.work("access", || may_access(&self.view.attributes(ino)?, mask)) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    // These requests are answered here because the default implementations log them. `ENOSYS` makes the
    // kernel handle the request itself or regard it as done. No ioctl is supported.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    refuse! {
        setattr(INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>, Option<TimeOrNow>,
            Option<SystemTime>, Option<FileHandle>, Option<SystemTime>, Option<SystemTime>, Option<SystemTime>,
            Option<BsdFileFlags>) -> ReplyAttr;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>) -> ReplyWrite;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
    }
}

fn reply_xattr(answer: Result<Answer, Errno>, reply: ReplyXattr) {
    match answer {
        Ok(Answer::Length(length)) => reply.size(length),
        Ok(Answer::Bytes(bytes)) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

#[cfg(test)]
mod tests;
