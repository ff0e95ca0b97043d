//! How the program's allocator treats what is large.

/// From here on, memory is mapped by itself and goes back to the system when it is freed. glibc otherwise raises
/// its threshold with the first large block that is freed, and then cuts spans, which differ a little in length
/// and are freed by other threads than allocated them, out of pools that fit ever worse: a server grew by a
/// quarter over ten minutes of random reads.
#[cfg(target_env = "gnu")]
pub(super) fn map_large_blocks() {
    const FROM_BYTES: libc::c_int = 1 << 20;
    #[expect(unsafe_code, reason = "there is no other way to set it")]
    // SAFETY: no thread runs yet, and nothing but a number is set.
    let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_BYTES) };
    debug_assert_eq!(set, 1, "glibc takes thresholds up to 32 MiB");
}

/// Other allocators keep no such threshold.
#[cfg(not(target_env = "gnu"))]
pub(super) fn map_large_blocks() {}
