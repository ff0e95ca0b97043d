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
//! | `faults` | what must not go wrong when something does |
//! | `mutations` | damaged images give an answer or an error |
//! | `overlay` | the kernel's overlay of the same layers shows the same tree |
//! | `random` | numbers for tests that try many cases (no tests) |
//! | `interop` | images by podman, skopeo, umoci and docker |
//! | `mounts` | options, audiences and ends of a mount |
//! | `served` | the kernel's calls one by one |
//! | `panics` | a panic in a request is that request's failure |
//! | `cli` | commands, formats, exit codes |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;
mod faults;
mod fixture;
mod interop;
mod matrix;
mod mounted;
mod mounts;
mod mutations;
mod overlay;
mod panics;
mod random;
mod semantics;
mod served;
mod sources;
mod tree;
