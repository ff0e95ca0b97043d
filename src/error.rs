//! What can go wrong, as one enum.
//!
//! Every variant names the thing it is about: a file, a blob, a layer, an entry, an offset. There
//! is no errno in here; the FUSE view chooses one, and the command line chooses an exit code.

use std::io;

use crate::digest::Digest;

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be opened, read or mounted.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried, with the file's name: `cannot open 'a.tar'`.
        what: String,
        /// The operating system's answer.
        #[source]
        cause: io::Error,
    },
    /// A reference, selector or path that cannot be understood.
    #[error("'{text}': {reason}")]
    Reference {
        /// The text as it was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The bytes are no kind of image that is known here.
    #[error("'{path}': not a container image: {reason}")]
    NotAnImage {
        /// Where it was looked for.
        path: String,
        /// What was found instead.
        reason: String,
    },
    /// Several images are inside and none was selected, or the selector fits several.
    #[error("'{path}' holds several images{}", list(.candidates))]
    Ambiguous {
        /// The archive or layout.
        path: String,
        /// The images to choose from, as a selector would name them.
        candidates: Vec<String>,
    },
    /// No image goes by the name that was asked for.
    #[error("'{path}' holds no image '{selector}'{}", list(.candidates))]
    NoSuchImage {
        /// The archive or layout.
        path: String,
        /// What was asked for.
        selector: String,
        /// What is there.
        candidates: Vec<String>,
    },
    /// The image is not made for the platform that was asked for.
    #[error("no image for platform {wanted}{}", list(.available))]
    NoPlatform {
        /// The platform asked for, or the host's.
        wanted: String,
        /// What is there.
        available: Vec<String>,
    },
    /// Something that is recognised and not served.
    #[error("{what}: not supported: {reason}")]
    Unsupported {
        /// The thing: a media type, a layer, an algorithm.
        what: String,
        /// Why, and what it is.
        reason: String,
    },
    /// A document, archive or stream that breaks its own format.
    #[error("{what}: {reason}")]
    Malformed {
        /// The document or stream.
        what: String,
        /// What is wrong, with the offset where there is one.
        reason: String,
    },
    /// A digest or size that is not what the image promised.
    #[error("{what} does not match: expected {expected}, found {found}")]
    Mismatch {
        /// What was checked: `layer 3 (blob digest)`.
        what: String,
        /// What the manifest or config says.
        expected: String,
        /// What the bytes say.
        found: String,
    },
    /// A blob that the image names is not there.
    #[error("{what}: blob {digest} is missing{}", foreign(.urls))]
    MissingBlob {
        /// What needs it: `layer 3`.
        what: String,
        /// Its digest.
        digest: Digest,
        /// Where the manifest says it could be had, for foreign layers.
        urls: Vec<String>,
    },
    /// A tar stream that cannot be read on.
    #[error("{what}: entry '{entry}' at offset {offset}: {reason}")]
    Tar {
        /// The layer or archive.
        what: String,
        /// The entry's name, escaped; empty where none is known yet.
        entry: String,
        /// Offset of the entry's header in the uncompressed tar, in bytes.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A compressed stream that cannot be decoded on.
    #[error("{what}: damaged {format} data at compressed offset {offset}: {reason}")]
    Decompress {
        /// The layer or archive; empty where the caller knows it.
        what: String,
        /// `gzip`, `zstd`, `xz` or `bzip2`.
        format: &'static str,
        /// Offset in the compressed bytes.
        offset: u64,
        /// What the decoder said.
        reason: String,
    },
    /// Something from an image that is larger than imgmount is willing to handle.
    #[error("{what}: {value} exceeds the limit {limit} ({max})")]
    Limit {
        /// What exceeds it.
        what: String,
        /// The limit's name.
        limit: &'static str,
        /// What it would have been.
        value: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// Bytes that are no longer what was verified when the layer was indexed.
    #[error("{what}: bytes at offset {offset} changed since they were verified")]
    Changed {
        /// The layer.
        what: String,
        /// Offset of the span in the uncompressed tar, in bytes.
        offset: u64,
    },
    /// A path inside the image that does not lead anywhere, or not to what was asked for.
    #[error("'{path}': {reason}")]
    Path {
        /// The path inside the image, escaped.
        path: String,
        /// Which way it fails.
        reason: PathFault,
    },
    /// `--strict`: the image merges only with warnings.
    #[error("the image merges with {count} warning(s), first: {first}")]
    Strict {
        /// How many there are.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The tree could not be mounted or unmounted.
    #[error("'{dir}': {reason}")]
    Mount {
        /// The mount point.
        dir: String,
        /// What went wrong.
        reason: MountFault,
    },
}

/// How mounting or unmounting can fail.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum MountFault {
    /// The mount point is not there.
    #[error("no such directory")]
    NotFound,
    /// The mount point is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// What is mounted there has lost its process.
    #[error("a dead mount: the process that served it is gone")]
    Dead,
    /// An image is mounted there already.
    #[error("an image is mounted here already")]
    AlreadyMounted,
    /// No FUSE in the kernel or in the container.
    #[error("/dev/fuse is missing: there is no FUSE on this system or in this container")]
    NoDevice,
    /// Ordinary users need a helper, and it is not installed.
    #[error("mounting needs the program fusermount3, which is not installed")]
    NoHelper,
    /// The helper refused; its own words.
    #[error("{0}")]
    Helper(String),
    /// Somebody uses the mount; who, as far as could be found out.
    #[error("in use{}", holders(.0))]
    Busy(Vec<String>),
    /// Nothing is mounted there.
    #[error("not mounted")]
    NotMounted,
    /// Something else is mounted there: the name of its file system type.
    #[error("not an imgmount mount, but {0}")]
    OtherMount(String),
    /// The operating system refused.
    #[error("{call}: {cause}")]
    Os {
        /// What was called.
        call: &'static str,
        /// Its answer.
        #[source]
        cause: io::Error,
    },
}

/// How a path inside an image can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    /// Nothing there.
    #[error("no such file or directory in the image")]
    NotFound,
    /// A component on the way is no directory.
    #[error("not a directory")]
    NotADirectory,
    /// A directory where a file was asked for.
    #[error("is a directory")]
    IsADirectory,
    /// Neither a regular file nor a link to one.
    #[error("not a regular file")]
    NotAFile,
    /// More symlinks on the way than a kernel follows.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
}

impl Error {
    /// Wraps an operating system error with what was tried.
    pub fn io(what: impl Into<String>, cause: io::Error) -> Self {
        Error::Io { what: what.into(), cause }
    }

    /// Names the layer or archive in an error that was made where it was not known.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        match &mut self {
            Error::Tar { what, .. } | Error::Decompress { what, .. } | Error::Limit { what, .. }
                if what.is_empty() =>
            {
                subject.clone_into(what);
            }
            // Limits name the entry; the layer goes in front.
            Error::Limit { what, .. } if !what.starts_with(subject) => *what = format!("{subject}: {what}"),
            _ => {}
        }
        self
    }
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let mut text = String::from("; there is:");
    for candidate in candidates {
        text.push_str("\n  ");
        text.push_str(candidate);
    }
    text
}

fn holders(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

fn foreign(urls: &[String]) -> String {
    if urls.is_empty() {
        return String::new();
    }
    // They are the image's words, on their way to a terminal.
    let urls: Vec<String> = urls.iter().map(|url| crate::path::escape(url.as_bytes())).collect();
    format!(" (a foreign layer, to be had from {})", urls.join(", "))
}
