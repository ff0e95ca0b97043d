//! Container images as mountable trees.
//!
//! imgmount opens a container image where it lies, indexes every layer once, merges the layers
//! as a container runtime would and serves the result read-only. Nothing is unpacked.
//!
//! # An image in five steps
//!
//! A name is parsed, the place it names is opened, an image there is selected, its layers are loaded into a
//! [`load::Tree`], and the tree is asked. Everything else in this crate is there to be looked at, or to be
//! put in another's place.
//!
//! ```
//! use std::io::{Seek, SeekFrom};
//!
//! use imgmount::load::{Engine, EngineOptions, TreeOptions};
//! use imgmount::rootfs::{Follow, ROOT};
//! use imgmount::source::Reference;
//!
//! # fn main() -> imgmount::Result<()> {
//! # let home = tempfile::tempdir().expect("a directory");
//! # let image = home.path().join("image.tar");
//! # std::fs::write(&image, doc_image()).expect("a file");
//! # let image = image.as_os_str();
//! let engine = Engine::new(EngineOptions::default());
//! let reference = Reference::parse(image, None)?; // image: "image.tar", "oci:layout:1.0", ...
//! let opened = engine.open(&reference)?.image(&reference.selection, None)?;
//! let tree = engine.load(opened, &TreeOptions::default())?;
//!
//! // Every path, parents first. Names are bytes.
//! let paths: Vec<Vec<u8>> = tree.rootfs().walk(ROOT).map(|(path, _)| path).collect();
//! assert_eq!(paths, [&b"/"[..], b"/greeting", b"/link"]);
//!
//! // A file's bytes, through a link that stays inside the image.
//! let file = tree.rootfs().resolve(b"/link", Follow::Last)?;
//! let mut buffer = [0; 64];
//! let len = tree.read_at(file, &mut buffer, 7)?;
//! assert_eq!(buffer[..len], *b"world");
//!
//! // Or as anything that reads and seeks.
//! let mut reader = tree.open(file)?;
//! reader.seek(SeekFrom::End(-5)).expect("a place in the file");
//! assert_eq!(std::io::read_to_string(reader).expect("text"), "world");
//! # Ok(())
//! # }
//! # /// A docker-archive of one layer.
//! # fn doc_image() -> Vec<u8> {
//! #     use imgmount::digest::Algorithm;
//! #     let mut layer = tar::Builder::new(Vec::new());
//! #     let mut header = tar::Header::new_ustar();
//! #     header.set_size(12);
//! #     layer.append_data(&mut header, "greeting", &b"Hello, world"[..]).unwrap();
//! #     let mut header = tar::Header::new_ustar();
//! #     header.set_entry_type(tar::EntryType::Symlink);
//! #     header.set_size(0);
//! #     layer.append_link(&mut header, "link", "/greeting").unwrap();
//! #     let layer = layer.into_inner().unwrap();
//! #     let diff_id = Algorithm::Sha256.digest(&layer);
//! #     let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
//! #     let manifest = br#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#;
//! #     let mut archive = tar::Builder::new(Vec::new());
//! #     let files = [("config.json", config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest)];
//! #     for (name, bytes) in files {
//! #         let mut header = tar::Header::new_ustar();
//! #         header.set_size(bytes.len() as u64);
//! #         archive.append_data(&mut header, name, bytes).unwrap();
//! #     }
//! #     archive.into_inner().unwrap()
//! # }
//! ```
//!
//! The tree can then be mounted: see `fuse::mount`. `examples/` has a program for each of these.
//! Errors are one enum, [`Error`]. Nothing here prints or reads settings from the environment; what there is to say goes to
//! the `log` crate.
//!
//! # Modules
//!
//! Data flows one way, and a module uses only what stands to its left:
//!
//! ```text
//! bytes error digest glob path read_at warning | compress | layer | store | image | source | rootfs | analysis | content |
//! load | forest verify extract export fuse cli
//! ```
//!
//! | module | owns |
//! |---|---|
//! | [`error`], [`digest`], [`glob`], [`path`], [`read_at`], [`warning`] | leaves: what everything speaks |
//! | [`bytes`] | stored bytes that are copied or mapped, and their checksum |
//! | [`compress`] | how to re-enter a compressed stream |
//! | [`layer`] | one tar stream, indexed: entries, checkpoints, span hashes |
//! | [`store`] | the cache directory: file names, atomicity, trust, pruning |
//! | [`image`] | what the image is: image index, manifest, config, platform choice |
//! | [`source`] | where bytes live: archives, layouts, directories; the reference grammar |
//! | [`rootfs`] | the merged tree, pure: no I/O, no clock, no errno, no log |
//! | [`analysis`] | what layers did and where trees differ, pure |
//! | [`content`] | bytes of a regular file: extents to verified spans to a copy |
//! | [`load`] | the engine: an image to indexed layers, a rootfs and its content |
//! | `forest` | one tree or several below one root, and their inode numbers |
//! | [`verify`] | which promises an image makes, and whether each is kept |
//! | [`extract`] | the tree as files on the host |
//! | [`export`] | the tree as a tar |
//! | `fuse` | the FUSE view, the only user of `fuser` |

pub mod analysis;
pub mod bytes;
pub mod compress;
pub mod content;
pub mod digest;
pub mod error;
pub mod export;
pub mod extract;
mod fields;
#[cfg(feature = "fuse")]
pub mod forest;
#[cfg(feature = "fuse")]
pub mod fuse;
pub mod glob;
pub mod image;
pub mod layer;
pub mod load;
pub mod path;
pub mod read_at;
pub mod rootfs;
#[cfg(test)]
#[path = "../tests/it/seed.rs"]
mod seed;
pub mod source;
pub mod store;
pub mod verify;
pub mod warning;
mod workers;

pub use error::{Error, Result};
