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
//! | `random` | layers at random against a plain second merge, and reads at random against the content |
//! | `mounts` | how a mount comes about, who may enter it, what ends it |
//! | `served` | the kernel's calls, one by one |
//! | `extract` | trees written to a directory, and what stands in the way |
//! | `export` | trees written as a tar |
//! | `faults` | what must not go wrong when something does |
//! | `mutations` | damaged images give an answer or an error |
//! | `overlay` | the kernel's overlay of the same layers shows the same tree |
//! | `numbers` | numbers for tests that try many cases (no tests) |
//! | `seed` | the seed of random tests (no tests) |
//! | `interop` | images by podman, skopeo, umoci and docker |
//! | `cli` | commands, formats, exit codes |
//! | `history` | what it prints, to the letter |
//! | `deleted` | what it prints, and that all of it can be read |
//! | `diff` | what it prints, to the letter |
//! | `diff_random` | `diff` against a plain comparison of random trees |
//! | `diff_page` | the page that `diff --html` writes, in a browser too |
//! | `json` | what `--json` prints against its document |
//! | `json_changes` | the same, for what tells of layers and differences |
//! | `examples` | the library's examples |
//! | `readme` | what README.md promises |
//! | `tidy` | rules and their tests, layering, forgotten files |
//! | `patterns` | paths with patterns, and lists in the order of bytes |
//! | `verify` | every kind of damage, and what is said of it |
//! | `spans` | one large file, read whole by its stored index |
//! | `cache` | what is kept on disk, and throwing it away |
//! | `view_all` | layers, states and documents beside the rootfs |
//! | `man` | manual pages, and what is installed |
//! | `bench` | what the bench makes, judges and writes; it measures nothing |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;
mod cache;
mod cli;
mod deleted;
mod diff;
mod diff_page;
mod diff_random;
mod examples;
mod export;
mod extract;
mod faults;
mod fixture;
mod history;
mod interop;
mod json;
mod json_changes;
mod man;
mod matrix;
mod mounted;
mod mounts;
mod mutations;
mod numbers;
mod overlay;
mod patterns;
mod random;
mod readme;
mod seed;
mod semantics;
mod served;
mod sources;
mod spans;
mod tidy;
mod tree;
mod verify;
mod view_all;
