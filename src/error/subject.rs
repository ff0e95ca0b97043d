//! The objects that errors are about.

use std::fmt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::path::escape_path;

/// The object of an error. Its text names the object in a message.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A layer.
    Layer {
        /// The layer's position in the image, from 0.
        number: usize,
        /// The layer's diff_id, if the image's config is known.
        diff_id: Option<Digest>,
    },
    /// A layer of an archive that names its layers by file.
    LayerFile {
        /// The layer's position in the image, from 0.
        number: usize,
        /// The archive or directory.
        archive: PathBuf,
        /// The layer's file name in the archive, as the image writes it.
        name: String,
    },
    /// A document that a descriptor names.
    Document {
        /// The kind of document.
        role: DocumentRole,
        /// The digest in the descriptor.
        digest: Digest,
    },
    /// The manifest that an image index lists for a platform.
    ManifestFor {
        /// The platform.
        platform: String,
    },
    /// An image archive or directory.
    Archive(PathBuf),
    /// The path of a reference without a transport that leads nowhere.
    Nowhere {
        /// The path.
        path: PathBuf,
        /// The reference, if it can be the name of an image in a registry.
        image_name: Option<String>,
    },
    /// A file in an image archive or directory.
    Member {
        /// The archive or directory.
        archive: PathBuf,
        /// The file's name in the archive, as the image writes it.
        name: String,
    },
    /// Another file or directory of the host: in the cache, of the kernel, or a target.
    File(PathBuf),
    /// The engine behind a socket.
    Socket(PathBuf),
    /// The bytes read from standard input.
    StandardInput,
    /// A transport in an image reference.
    Transport(String),
    /// A media type in a document.
    MediaType(String),
    /// A digest string as a document or reference writes it.
    DigestText(String),
    /// An entry in the tar of a layer or archive.
    Entry {
        /// The layer or archive.
        tar: Box<Subject>,
        /// The tar entry.
        entry: EntryName,
    },
    /// The image as a whole.
    Image,
    /// The merged tree of the layers.
    MergedTree,
    /// The result of a query about an image: a list of paths.
    Answer,
}

/// The kinds of document in an image.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentRole {
    /// An image index: a list of manifests.
    ImageIndex,
    /// An image's manifest.
    Manifest,
    /// An image's config.
    Config,
}

/// The property of a blob or document that does not match.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property {
    /// The number of bytes.
    Size,
    /// The digest of a document.
    Digest,
    /// The digest of a layer's bytes as stored.
    BlobDigest,
    /// The digest of a layer's uncompressed tar.
    DiffId,
    /// The config that a list of images names.
    Config,
}

/// The name and offset of a tar entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName {
    /// The entry's name, escaped; `None` before the header is read.
    pub name: Option<String>,
    /// Offset of the entry's header in the uncompressed tar, in bytes.
    pub offset: u64,
}

impl DocumentRole {
    /// Returns `image index`, `manifest` or `config`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DocumentRole::ImageIndex => "image index",
            DocumentRole::Manifest => "manifest",
            DocumentRole::Config => "config",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Layer { number, diff_id: None } => write!(f, "layer {number}"),
            Subject::Layer { number, diff_id: Some(diff_id) } => {
                // Engines shorten an ID to twelve digits.
                let (name, hex) = (diff_id.algorithm().name(), diff_id.hex());
                write!(f, "layer {number} ({name}:{hex:.12})")
            }
            Subject::LayerFile { number, archive, name } => {
                write!(f, "layer {number} ('{}' in '{}')", name.escape_debug(), escape_path(archive))
            }
            Subject::Document { role, digest } => write!(f, "{} {digest}", role.name()),
            Subject::ManifestFor { platform } => write!(f, "manifest for {platform}"),
            Subject::Archive(path) | Subject::File(path) | Subject::Nowhere { path, .. } => {
                write!(f, "'{}'", escape_path(path))
            }
            Subject::Member { archive, name } => {
                write!(f, "'{}' in '{}'", name.escape_debug(), escape_path(archive))
            }
            Subject::Socket(path) => write!(f, "the engine at '{}'", escape_path(path)),
            Subject::StandardInput => f.write_str("standard input"),
            Subject::Transport(name) => write!(f, "transport '{name}'"),
            Subject::MediaType(text) => write!(f, "'{}'", text.escape_debug()),
            Subject::DigestText(text) => write!(f, "digest '{}'", text.escape_debug()),
            Subject::Entry { tar, entry } => write!(f, "{tar}: {entry}"),
            Subject::Image => f.write_str("the image"),
            Subject::MergedTree => f.write_str("merged rootfs"),
            Subject::Answer => f.write_str("the answer"),
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Property::Size => "size",
            Property::Digest => "digest",
            Property::BlobDigest => "blob digest",
            Property::DiffId => "diff_id",
            Property::Config => "config",
        })
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "entry '{name}' at offset {}", self.offset),
            None => write!(f, "entry at offset {}", self.offset),
        }
    }
}
