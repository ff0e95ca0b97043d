//! Mapped regions whose file can become shorter, or unreadable, while the process reads them.
//!
//! The kernel then sends SIGBUS to the thread that reads. A handler of that signal passes the address to
//! [`Regions::recover`], which puts empty pages in the place of the lost ones, so that the read continues, with
//! zeros. From then on [`Regions::are_lost`] returns true, and results that come from mapped files must not be
//! used. This module owns the list of regions, which a signal handler can read: it takes no lock and allocates
//! nothing. It does not install the handler, because signals belong to the program.
#![expect(unsafe_code, reason = "pages are replaced in a mapping that other code reads")]

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// The regions of this process.
pub(super) static REGIONS: Regions = Regions::new();

/// A list of regions. Its nodes are reused, and never freed, so that it can be read at any time.
pub(super) struct Regions {
    first: AtomicPtr<Node>,
    page_bytes: AtomicUsize,
    lost: AtomicBool,
}

/// A region, or a free place for one.
pub(super) struct Node {
    /// Address of the first byte; 0 if the node is free.
    start: AtomicUsize,
    /// Address after the last byte.
    end: AtomicUsize,
    next: *const Node,
}

/// Address of the first byte of a node that is about to get a region. No region begins there.
const RESERVED: usize = 1;

impl Regions {
    pub(super) const fn new() -> Self {
        Regions {
            first: AtomicPtr::new(ptr::null_mut()),
            page_bytes: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Adds a mapped region. [`Node::remove`] must be called before it is unmapped.
    pub(super) fn add(&self, region: &[u8]) -> &'static Node {
        self.page_bytes.store(rustix::param::page_size(), Ordering::Relaxed);
        let start = region.as_ptr().addr();
        let node = self.free_node().unwrap_or_else(|| self.new_node());
        node.end.store(start.saturating_add(region.len()), Ordering::Relaxed);
        node.start.store(start, Ordering::Release);
        node
    }

    /// Replaces the pages from `address` to the end of its region by empty ones. Returns false if the address
    /// is in no region, or if the pages cannot be replaced. Can be called in a signal handler.
    pub(super) fn recover(&self, address: usize) -> bool {
        let Some(end) = self.nodes().find_map(|node| node.end_if_around(address)) else { return false };
        // Before the pages are replaced, so that nobody uses the zeros.
        self.lost.store(true, Ordering::SeqCst);
        let page = address & !self.page_bytes.load(Ordering::Relaxed).saturating_sub(1);
        let start = ptr::without_provenance_mut(page);
        let len = end.saturating_sub(page);
        // SAFETY: the pages from `page` to `end` belong to a mapping of this process, which stays mapped: its
        // owner removes the region first. They are replaced at once by readable pages. The bytes of such a
        // mapping may change at any time; see `Mapping`.
        unsafe { mmap_anonymous(start, len, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED) }.is_ok()
    }

    /// Returns whether pages of a region were replaced since the process started.
    pub(super) fn are_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }

    fn nodes(&self) -> impl Iterator<Item = &'static Node> {
        let mut next = self.first.load(Ordering::Acquire).cast_const();
        std::iter::from_fn(move || {
            // SAFETY: pointers in the list are null or to nodes, which are never freed.
            let node: &'static Node = unsafe { next.as_ref() }?;
            next = node.next;
            Some(node)
        })
    }

    fn free_node(&self) -> Option<&'static Node> {
        self.nodes().find(|node| {
            node.start.compare_exchange(0, RESERVED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    fn new_node(&self) -> &'static Node {
        let node = Node { start: AtomicUsize::new(RESERVED), end: AtomicUsize::new(0), next: ptr::null() };
        let node = Box::leak(Box::new(node));
        loop {
            let first = self.first.load(Ordering::Acquire);
            node.next = first;
            let pointer: *mut Node = node;
            if self.first.compare_exchange(first, pointer, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return node;
            }
        }
    }
}

impl Node {
    /// Removes the region from its list.
    pub(super) fn remove(&self) {
        self.end.store(0, Ordering::Relaxed);
        self.start.store(0, Ordering::Release);
    }

    fn end_if_around(&self, address: usize) -> Option<usize> {
        let start = self.start.load(Ordering::Acquire);
        let end = self.end.load(Ordering::Relaxed);
        (start > RESERVED && (start..end).contains(&address)).then_some(end)
    }
}

// SAFETY: `next` is set before a node is shared, and all nodes live for ever.
unsafe impl Sync for Node {}
// SAFETY: as above.
unsafe impl Send for Node {}

#[cfg(test)]
mod tests {
    use memmap2::MmapOptions;

    use super::*;

    #[test]
    fn pages_of_a_file_that_was_truncated_are_replaced_and_reported() {
        let regions = Regions::new();
        let page = rustix::param::page_size();
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * page as u64).unwrap();
        // SAFETY: no page is read after the file was truncated and before it is replaced.
        let mapping = unsafe { MmapOptions::new().offset(100).len(3 * page).map(&file) }.unwrap();
        let node = regions.add(&mapping);
        let start = mapping.as_ptr().addr();
        for outside in [0, RESERVED, start - 1, start + 3 * page] {
            assert!(!regions.recover(outside), "{outside}");
        }
        assert!(!regions.are_lost());
        assert_eq!(mapping[0], 0);
        file.set_len(0).unwrap();
        assert!(regions.recover(start + page) && regions.are_lost());
        assert_eq!(mapping[page..], vec![0; 2 * page]);
        node.remove();
        assert!(!regions.recover(start));
    }

    #[test]
    fn places_of_removed_regions_are_used_again() {
        let regions = Regions::new();
        let bytes = [0; 10];
        let first = regions.add(&bytes[..4]);
        let second = regions.add(&bytes[4..]);
        assert!(!ptr::eq(first, second));
        first.remove();
        assert!(ptr::eq(first, regions.add(&bytes[..2])));
        assert_eq!(regions.nodes().count(), 2);
    }
}
