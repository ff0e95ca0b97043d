//! Integration tests, in one binary: the real program on images made in code and by other tools.
//!
//! | module | tests |
//! |---|---|
//! | `fixture` | makes images (no tests) |
//! | `tree` | reads and compares whole trees |
//! | `mounted` | runs, mounts and unmounts the program (no tests) |
//! | `containers_storage` | stores of podman, of root and of users |
//! | `matrix` | every compression with every way of writing names |
//! | `sources` | every form of image that the command line reaches |
//! | `semantics` | rows of the merge rules through a real mount |
//! | `random` | random layers against a simple second merge, and random reads against the content |
//! | `mounts` | mounting, access by other users, and the end of a mount |
//! | `served` | the kernel's calls, one by one |
//! | `extract` | trees written to a directory, and existing files there |
//! | `other_users` | what root does in directories of other users |
//! | `export` | trees written as a tar |
//! | `faults` | damage, crashes and unusable caches |
//! | `source_faults` | sources that change or fail below a mount |
//! | `cache_faults` | cache directories that are damaged, full, read-only or removed below a mount |
//! | `lost_cache` | files of the cache that are truncated while they are mapped |
//! | `sharing` | many mounts with one cache, and servers that are stopped, dead or without descriptors |
//! | `mutations` | damaged images give an answer or an error |
//! | `overlay` | the kernel's overlay of the same layers shows the same tree |
//! | `numbers` | random numbers for tests that try many cases (no tests) |
//! | `seed` | the seed of random tests (no tests) |
//! | `engines` | starts real engines (no tests) |
//! | `docker_graph` | the data directory of a real Docker engine, running and stopped |
//! | `interop` | images by podman, skopeo, umoci and docker |
//! | `cli` | commands, formats, exit codes |
//! | `containerd` | stores of a real containerd, live and dead, and faults in them |
//! | `history` | its exact output |
//! | `deleted` | its output, and that every listed file can be read |
//! | `images` | lists of images, and the references in them |
//! | `completions` | names that shells complete |
//! | `diff` | its exact output |
//! | `diff_random` | `diff` against a simple comparison of random trees |
//! | `diff_page` | the page that `diff --html` writes, also in a browser |
//! | `json` | the output of `--json` against its document |
//! | `json_changes` | the same, for layers and differences |
//! | `docker_daemon` | images of running engines, through their sockets |
//! | `registry_faults` | faults of a registry, one by one, and what each costs |
//! | `soak` | mounts whose sources and caches fail at random |
//! | `registry_storage` | the storage directory of a registry, with and without a running registry |
//! | `examples` | the library's examples |
//! | `rootfs` | flat tars and directories as images |
//! | `content_cache` | what is kept of layers from a registry, and mounts whose registry fails |
//! | `registries` | images in registries, and every way in which a registry fails |
//! | `readme` | the commands and statements of README.md |
//! | `tidy` | rules and their tests, order of modules, forgotten files |
//! | `patterns` | paths with patterns, and lists in the order of bytes |
//! | `verify` | every kind of damage, and how `verify` reports it |
//! | `spans` | one large file, read whole with its stored index |
//! | `cache` | the cache directory, and removing its entries |
//! | `view_all` | layers, states and documents next to the rootfs |
//! | `resources` | few descriptors, small files and little memory |
//! | `kills` | the program killed at random moments, and what the next run finds |
//! | `limits` | images at each limit, and past it |
//! | `man` | manual pages, and installed files |
//! | `bench` | images, verdicts and reports of the bench, without measuring |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bench;
mod cache;
mod cache_faults;
mod cli;
mod completions;
mod containerd;
mod containers_storage;
mod content_cache;
mod deleted;
mod diff;
mod diff_page;
mod diff_random;
mod docker_daemon;
mod docker_graph;
mod engines;
mod examples;
mod export;
mod extract;
mod faults;
mod fixture;
mod history;
mod images;
mod interop;
mod json;
mod json_changes;
mod kills;
mod limits;
mod lost_cache;
mod man;
mod matrix;
mod mounted;
mod mounts;
mod mutations;
mod numbers;
mod other_users;
mod overlay;
mod patterns;
mod random;
mod readme;
mod registries;
mod registry_faults;
mod registry_storage;
mod resources;
mod rootfs;
mod seed;
mod semantics;
mod served;
mod sharing;
mod soak;
mod source_faults;
mod sources;
mod spans;
mod tidy;
mod tree;
mod verify;
mod view_all;
