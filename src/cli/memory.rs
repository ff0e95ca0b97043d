//! Sets how the allocator handles large blocks.

/// Makes the allocator map each block from this size on separately, and return it to the system when it
/// is freed. By default, glibc raises its threshold with the first large block that is freed. It then
/// allocates spans from pools, which fit ever worse, because spans differ a little in length and are
/// freed by other threads than those that allocated them: a server grew by a quarter over ten minutes
/// of random reads.
#[cfg(target_env = "gnu")]
pub(super) fn map_large_blocks() {
    const FROM_BYTES: libc::c_int = 1 << 20;
    #[expect(unsafe_code, reason = "there is no other way to set it")]
    // SAFETY: no thread runs yet, and nothing but a number is set.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_BYTES) };
    debug_assert_eq!(set, 1, "glibc takes thresholds up to 32 MiB");
}

/// Does nothing: other allocators have no such threshold.
#[cfg(not(target_env = "gnu"))]
pub(super) fn map_large_blocks() {}
