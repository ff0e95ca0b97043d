//! Connects the targets of `imgmount::fuzzing` with libFuzzer; docs/fuzzing.md says how to run them.

pub use imgmount::fuzzing::{Target, target};
pub use libfuzzer_sys;

/// Defines the fuzz target with this name.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        static TARGET: std::sync::LazyLock<&$crate::Target> =
            std::sync::LazyLock::new(|| $crate::target($name).expect("a target with this name"));
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET.run(data));
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate(*TARGET, data, size, max_size, seed)
        });
    };
}

/// Changes the first `size` bytes of `data` and returns the new length, which is at most `max_size`.
pub fn mutate(target: &Target, data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut changed = data[..size].to_vec();
    target.mutate(&mut changed, seed, &mut |part| {
        let len = part.len();
        // Room to grow.
        part.resize(len + 64.max(len / 4), 0);
        let room = part.len();
        let len = libfuzzer_sys::fuzzer_mutate(part, len, room);
        part.truncate(len);
    });
    changed.truncate(max_size);
    data[..changed.len()].copy_from_slice(&changed);
    changed.len()
}
