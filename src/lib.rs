//! Container images as read-only trees.
//!
//! imgmount opens a container image in place (a docker-archive, an OCI layout, a skopeo `dir:`), indexes each
//! layer once, merges the layers as a container runtime does, and serves the result as a read-only tree:
//! through this API, as files, as a tar, or mounted through FUSE. Nothing is unpacked. Every byte is verified
//! against the image's own digests before it is returned.
//!
//! # Example
//!
//! ```
//! use std::io::{Read as _, Seek as _, SeekFrom};
//!
//! use imgmount::{DiffOptions, DifferenceKind, Engine, EngineOptions, Image, LayerRange, LoadOptions, Reference};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let path = home.path().join("image.tar");
//! # std::fs::write(&path, doc_image())?;
//! # let name = path.as_os_str();
//! // The short way: the sole image of an archive, with default options.
//! let image = Image::open(name)?; // name: "image.tar", "layout:1.0", "oci:dir@2"
//!
//! // Resolve a path, and read a file: links are followed inside the image.
//! let id = image.resolve("/etc/link")?;
//! assert_eq!(image.inode(id).map(|inode| inode.size()), Some(12));
//! let mut file = image.open_file("/etc/link")?;
//! file.seek(SeekFrom::Start(7))?;
//! let mut text = String::new();
//! file.read_to_string(&mut text)?;
//! assert_eq!(text, "world");
//!
//! // Walk the tree: the root first, parents before children. Names are bytes.
//! let paths: Vec<Vec<u8>> = image.walk().map(|(path, _)| path).collect();
//! assert_eq!(paths, [&b"/"[..], b"/etc", b"/etc/greeting", b"/etc/link"]);
//!
//! // The long way: list the images of a source, select one, load any of its states.
//! let engine = Engine::new(EngineOptions::default().cache_bytes(64 << 20));
//! let reference = Reference::parse(name, None)?;
//! let source = engine.open(&reference)?;
//! assert_eq!(source.images()?.len(), 1);
//! let selected = source.select(&reference.selection, None)?;
//! let before = selected.load(&LoadOptions::default().layers(LayerRange::Upto(0)))?;
//! let after = selected.load(&LoadOptions::default())?;
//!
//! // Compare two trees: the second layer adds the link.
//! let differences = imgmount::diff(&before, &after, &DiffOptions::default())?;
//! assert_eq!(differences.len(), 1);
//! assert_eq!(differences[0].path, b"/etc/link");
//! assert!(matches!(differences[0].kind, DifferenceKind::Added(_)));
//! # Ok(())
//! # }
//! # /// A docker-archive of two layers.
//! # fn doc_image() -> Vec<u8> {
//! #     use sha2::Digest as _;
//! #     let mut greeting = tar::Builder::new(Vec::new());
//! #     let mut header = tar::Header::new_ustar();
//! #     header.set_size(12);
//! #     greeting.append_data(&mut header, "etc/greeting", &b"Hello, world"[..]).unwrap();
//! #     let mut link = tar::Builder::new(Vec::new());
//! #     let mut header = tar::Header::new_ustar();
//! #     header.set_entry_type(tar::EntryType::Symlink);
//! #     header.set_size(0);
//! #     link.append_link(&mut header, "etc/link", "/etc/greeting").unwrap();
//! #     let layers = [greeting.into_inner().unwrap(), link.into_inner().unwrap()];
//! #     let hex = |layer: &Vec<u8>| -> String {
//! #         sha2::Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect()
//! #     };
//! #     let diff_ids = layers.iter().map(|layer| format!("\"sha256:{}\"", hex(layer)));
//! #     let diff_ids = diff_ids.collect::<Vec<_>>().join(",");
//! #     let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#);
//! #     let manifest = br#"[{"Config":"config.json","RepoTags":null,"Layers":["0.tar","1.tar"]}]"#;
//! #     let mut archive = tar::Builder::new(Vec::new());
//! #     let [first, second] = &layers;
//! #     for (name, bytes) in [
//! #         ("config.json", config.as_bytes()),
//! #         ("0.tar", first),
//! #         ("1.tar", second),
//! #         ("manifest.json", manifest),
//! #     ] {
//! #         let mut header = tar::Header::new_ustar();
//! #         header.set_size(bytes.len() as u64);
//! #         archive.append_data(&mut header, name, bytes).unwrap();
//! #     }
//! #     archive.into_inner().unwrap()
//! # }
//! ```
//!
//! # Where to look
//!
//! | To | Use |
//! |---|---|
//! | open an image | [`Image::open`], or [`Engine::select`] and [`SelectedImage::load`] |
//! | list the images of an archive or a store | [`Engine::open`], [`Source::images`], [`Source::details`] |
//! | keep indexes on disk, so that the image opens faster next time | [`Store`], [`EngineOptions::store`] |
//! | find and describe files | [`Image::resolve`], [`Image::walk`], [`Image::glob`], [`Image::inode`] |
//! | read files | [`Image::open_file`], [`Image::read_at`] |
//! | read the image's documents | [`Image::info`], [`Image::layers`], [`Image::warnings`] |
//! | find the layer that changed a file | [`Image::history`], [`Image::deleted`], [`Inode::layer`] |
//! | compare two images | [`diff`] |
//! | verify an image completely | [`Source::verify`] |
//! | write files or a tar | [`Image::extract`], [`Image::export`] |
//! | mount | `Image::mount` (feature `fuse`) |
//!
//! All errors are variants of [`Error`]. The library prints nothing and reads no environment variable except
//! `PATH` (to find `fusermount3` and credential helpers); log messages go to the `log` crate. Text from an image can contain any
//! bytes: pass it through [`escape`] before printing it to a terminal. `examples/` has a program for each
//! common task.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `fuse` | yes | `Image::mount`, `unmount` and their types |
//! | `registry` | yes | images in registries, `docker://` |
//! | `cli` | yes | the program `imgmount`; nothing in the library |
//!
//! A dependent library that does not mount and reads no registry needs no feature:
//! `imgmount = { version = "...", default-features = false }`.
//!
//! # Modules
//!
//! Data flows one way. A module uses only modules of the groups to the left of its own group; modules of the
//! first group may also use one another:
//!
//! ```text
//! bytes descriptors digest error fields glob host_path limits memory path read_at sublist warning workers
//! | compress | layer | store | image | source | rootfs | analysis | content | load
//! | export extract forest verify | fuse | api
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `error`, `digest`, `fields`, `glob`, `limits`, `path`, `read_at`, `sublist`, `warning` | shared vocabulary types |
//! | `host_path` | which links lead to a destination on the host, and that it is held open |
//! | `workers` | how threads share a list of jobs, and when they stop |
//! | `descriptors`, `memory` | which open files have a descriptor; memory that may not be available |
//! | `bytes` | whether stored bytes are copied or mapped, and how they are checked |
//! | `compress` | choice of decoder; where decoding of a compressed stream can resume |
//! | `layer` | one tar stream and its index: entries, checkpoints, span hashes |
//! | `store` | the cache directory: file names, atomic writes, trust, order of pruning |
//! | `image` | image index, manifest, config, platform choice |
//! | `source` | where a blob is: archives, layouts, directories; the grammar of references |
//! | `rootfs` | the merged tree; no I/O, clock, errno or log |
//! | `analysis` | what a layer did to a path, which differences exist; no I/O |
//! | `content` | the bytes of a regular file: extents, verified spans, the span cache, read-ahead |
//! | `load` | from a selected image to indexed layers, a rootfs and the bytes of its files |
//! | `forest` | one tree or several below one root, and their node numbers |
//! | `verify` | which checks an image has, and their results |
//! | `extract` | writing the tree as files on the host |
//! | `export` | writing the tree as a tar |
//! | `fuse` | the FUSE view; the only module that uses `fuser` |
//! | `api` | names and signatures of the public types |

mod analysis;
mod api;
mod bytes;
mod compress;
mod content;
mod descriptors;
mod digest;
mod error;
mod export;
mod extract;
mod fields;
#[cfg(feature = "fuse")]
mod forest;
#[cfg(feature = "fuse")]
mod fuse;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod host_path;
mod image;
mod layer;
mod limits;
mod load;
mod memory;
mod path;
mod read_at;
mod rootfs;
#[cfg(test)]
#[path = "../tests/it/seed.rs"]
mod seed;
mod source;
mod store;
mod sublist;
mod verify;
#[cfg_attr(
    not(all(feature = "fuse", feature = "registry")),
    allow(dead_code, reason = "only mounts limit the waits, and only registries make them")
)]
mod waiting;
mod warning;
mod workers;

// Public items, by topic.

// Opening images.
pub use api::{Image, SelectedImage, Source};
pub use image::Platform;
pub use layer::index::Verify;
pub use limits::{Limit, Limits};
pub use load::{Engine, EngineOptions, LayerRange, LoadOptions, Progress};
pub use rootfs::Semantics;
pub use source::{
    Environment, ImageDetails, ImageKind, ImageSummary, Location, Proxies, ProxyAddress, Reference,
    RegistryOptions, Selection, Transport, split_path,
};

// Contents of manifests and configs.
pub use compress::Compression;
pub use digest::{Algorithm, Digest};
pub use image::{
    Container, ContainerMount, HistoryEntry, ImageConfig, ImageInfo, LayerDescriptor, LayerOrigin,
};
pub use layer::LayerId;
pub use load::LayerInfo;
pub use warning::{Warning, WarningKind};

// The tree and its files.
pub use analysis::{FileType, Inode};
pub use glob::{Glob, is_pattern};
pub use layer::entry::{DeviceNumber, Timestamp, Xattrs};
pub use load::FileReader;
pub use path::{escape, escape_path, normalize_path};
pub use rootfs::{InodeId, ROOT};

// History of layers, and differences between trees.
pub use analysis::Field;
pub use analysis::deleted::{DeletedFile, DeletedFiles, DeletedOptions, Removal};
pub use analysis::diff::{DiffOptions, Difference, DifferenceKind};
pub use analysis::history::{Action, Event, Step};
pub use api::diff;

// Verification.
pub use verify::{Check, Verdict, VerifyItem, VerifyMismatch, VerifyOptions, VerifySubject};

// Writing the tree as files or a tar, and mounting it.
pub use export::ExportOptions;
pub use extract::{Existing, ExtractFailure, ExtractOptions, ExtractReport, NotKept};
#[cfg(feature = "fuse")]
pub use fuse::{MountOptions, MountPoint, MountView, Mounted, unmount};
pub use host_path::{HostDirectory, HostTarget};

// The store of layer indexes.
pub use layer::table::LayerFacts;
pub use store::{Allowance, Store, StoredBlob, StoredLayer};

// For the allocator of a program.
#[doc(hidden)]
pub use memory::failure_is_expected;

// Files of the store that are mapped into memory.
pub use bytes::{mapping_is_lost, recover_mapping};

// Errors.
pub use error::{DocumentRole, EntryName, Error, MountFault, PathFault, Property, Result, Subject};
