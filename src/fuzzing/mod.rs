//! Fuzz targets: functions that take any bytes as input and panic if a promise of docs/security.md is broken.
//!
//! `fuzz/` runs the targets with libFuzzer. The tests run them on the seeds, and on every input that failed once
//! (`tests/fuzz/TARGET/`). This module owns the list of targets, the form of their inputs, and the mutations
//! that keep an input well-formed. It exists only in tests and with `--cfg fuzzing`, and is no part of the
//! public API. docs/fuzzing.md lists the targets.

#![allow(clippy::unwrap_used, reason = "a target that finds a fault panics")]

mod documents;
mod image;
mod input;
mod merge;
mod mutate;
mod names;
#[cfg(test)]
mod seeds;
mod stored;
mod stores;
mod streams;
mod tar;
#[cfg(test)]
mod tests;

use self::mutate::{Mutation, Plain, Random};

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name: of the binary in `fuzz/`, and of the directories of its inputs.
    pub name: &'static str,
    /// The largest useful input, in bytes.
    pub max_bytes: usize,
    run: fn(&[u8]),
    mutation: Mutation,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "tar", max_bytes: 16 << 10, run: tar::run, mutation: tar::mutation },
    Target { name: "pax", max_bytes: 8 << 10, run: tar::run_chain, mutation: tar::chain_mutation },
    Target { name: "index", max_bytes: 16 << 10, run: stored::run_index, mutation: stored::mutation },
    Target { name: "tree", max_bytes: 8 << 10, run: stored::run_tree, mutation: stored::mutation },
    Target { name: "documents", max_bytes: 16 << 10, run: documents::run, mutation: mutate::json },
    Target { name: "names", max_bytes: 512, run: names::run, mutation: mutate::bytes },
    Target { name: "streams", max_bytes: 32 << 10, run: streams::run, mutation: streams::mutation },
    Target { name: "merge", max_bytes: 1 << 10, run: merge::run, mutation: mutate::bytes },
    Target { name: "bolt", max_bytes: 64 << 10, run: stores::bolt, mutation: mutate::bytes },
    Target { name: "tar_split", max_bytes: 16 << 10, run: stores::tar_split, mutation: mutate::lines },
    Target { name: "stores", max_bytes: 64 << 10, run: stores::run, mutation: stores::mutation },
    #[cfg(feature = "registry")]
    Target { name: "registry", max_bytes: 8 << 10, run: stores::registry, mutation: stores::plain_parts },
    Target { name: "daemon", max_bytes: 8 << 10, run: stores::daemon, mutation: stores::plain_parts },
    Target { name: "image", max_bytes: 32 << 10, run: image::run, mutation: image::mutation },
];

/// Returns the target with this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Runs the target on one input.
    pub fn run(&self, data: &[u8]) {
        (self.run)(data);
    }

    /// Changes an input and keeps its structure. `plain` makes a change without knowledge of the structure.
    pub fn mutate(&self, data: &mut Vec<u8>, seed: u32, plain: &mut dyn FnMut(&mut Vec<u8>)) {
        let plain: &mut Plain<'_> = plain;
        (self.mutation)(data, &mut Random::new(seed.into()), plain);
    }
}
