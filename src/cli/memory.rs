//! Sets how the allocator handles large blocks, and what happens when there is no more memory.

#![expect(unsafe_code, reason = "an allocator cannot be written or set without it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write as _;

use super::FAILURE;

/// The allocator of the system. If it has no more memory, the program ends with a message and the exit code of
/// other failures, unless the code that asks for the memory handles that itself.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: every call is passed on to the allocator of the system. Nothing is allocated here.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        checked(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        checked(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: as in `alloc`.
        checked(unsafe { System.realloc(block, layout, bytes) }, bytes)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

fn checked(block: *mut u8, bytes: usize) -> *mut u8 {
    if block.is_null() && !imgmount::failure_is_expected() {
        end_without_memory(bytes);
    }
    block
}

/// Ends the program as after any failure. Nothing is allocated and no lock is taken, because the thread may hold
/// one.
#[cold]
fn end_without_memory(bytes: usize) -> ! {
    let mut text = [0; 100];
    let mut rest = &mut text[..];
    // The text fits.
    let _ = writeln!(rest, "imgmount: not enough memory: cannot allocate {bytes} bytes");
    let left = rest.len();
    let len = text.len() - left;
    // Without standard error there is nothing to tell.
    let _ = rustix::io::write(rustix::stdio::stderr(), &text[..len]);
    // SAFETY: `_exit` has no conditions; handlers at exit could need memory.
    unsafe { libc::_exit(i32::from(FAILURE)) }
}

/// Makes the allocator map each block from this size on separately, and return it to the system when it
/// is freed. By default, glibc raises its threshold with the first large block that is freed. It then
/// allocates spans from pools, which fit ever worse, because spans differ a little in length and are
/// freed by other threads than those that allocated them: a server grew by a quarter over ten minutes
/// of random reads.
#[cfg(target_env = "gnu")]
pub(super) fn map_large_blocks() {
    const FROM_BYTES: libc::c_int = 1 << 20;
    // SAFETY: no thread runs yet, and nothing but a number is set.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_BYTES) };
    debug_assert_eq!(set, 1, "glibc takes thresholds up to 32 MiB");
}

/// Does nothing: other allocators have no such threshold.
#[cfg(not(target_env = "gnu"))]
pub(super) fn map_large_blocks() {}
