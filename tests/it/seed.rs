//! The seed of every random test, here and in the library's own tests, which include this file.
//!
//! The default is 0, so that every run uses the same cases. `IMGMOUNT_TEST_SEED=N` selects another
//! seed; `make random` draws one.

use std::env;
use std::io::Write as _;
use std::sync::Once;

use proptest::test_runner::{Config, RngSeed};

const VARIABLE: &str = "IMGMOUNT_TEST_SEED";

/// Returns the seed of this run. It is printed at the start, and again with every test that fails.
#[allow(clippy::print_stderr, reason = "shown with a test that fails")]
pub(crate) fn seed() -> u64 {
    static START: Once = Once::new();
    let set = env::var(VARIABLE).ok();
    let seed = set.as_deref().map_or(0, |text| text.parse().expect("a seed is a number below 2^64"));
    if set.is_some() {
        // The test harness holds the output of `eprintln!` back until a test fails.
        START.call_once(|| drop(writeln!(std::io::stderr(), "{VARIABLE}={seed}")));
    }
    eprintln!("repeat with {VARIABLE}={seed}");
    seed
}

/// Returns the settings for a property that is tested on this many cases.
pub(crate) fn config(cases: u32) -> Config {
    // A file of failed cases would contain no more than the seed, and would change the checkout.
    Config { cases, rng_seed: RngSeed::Fixed(seed()), failure_persistence: None, ..Config::default() }
}
