//! Integration tests, one binary: the real program on images made in code and by other tools.
//!
//! | module | tests |
//! |---|---|
//! | `fixture` | makes images (no tests) |
//! | `tree` | reads and compares whole trees |
//! | `mounted` | runs, mounts and unmounts the program (no tests) |
//! | `matrix` | every compression with every way of writing names |
//! | `sources` | every form of image that the command line reaches |
//! | `semantics` | rows of the merge rules through a real mount |
//! | `extract` | trees written to a directory, and what stands in the way |
//! | `export` | trees written as a tar |
//! | `faults` | what must not go wrong when something does |
//! | `interop` | images by podman, skopeo, umoci and docker |
//! | `cli` | commands, formats, exit codes |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;
mod export;
mod extract;
mod faults;
mod fixture;
mod interop;
mod matrix;
mod mounted;
mod semantics;
mod sources;
mod tree;
