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
//! | `interop` | images by podman, skopeo, umoci and docker |
//! | `cli` | commands, formats, exit codes |
//! | `patterns` | paths with patterns, and lists in the order of bytes |
//! | `verify` | every kind of damage, and what is said of it |
//! | `cache` | what is kept on disk, and throwing it away |
//! | `view_all` | layers, states and documents beside the rootfs |
//! | `man` | manual pages, and what is installed |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cache;
mod cli;
mod faults;
mod fixture;
mod interop;
mod man;
mod matrix;
mod mounted;
mod patterns;
mod semantics;
mod sources;
mod tree;
mod verify;
mod view_all;
