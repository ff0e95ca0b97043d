//! Errors: one enum, [`Error`], whose variants carry data.
//!
//! A [`Subject`] says what an error is about: a layer, a document, an archive. Code that decodes or parses
//! bytes without knowing whose they are fails with a [`StreamFault`], which becomes an [`Error`] once it
//! is given a subject. A cause is in the text and in a field of its variant, and is no
//! [`source`](std::error::Error::source): whoever prints the text and the sources prints the cause once.
//! There is no errno in here; the FUSE view chooses one, and the command line chooses hints and exit
//! codes, both by variant.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

mod stream;
mod subject;
#[cfg(test)]
mod tests;

pub(crate) use stream::{StreamFault, StreamResult};
pub use subject::{DocumentRole, EntryName, Property, Subject};

/// The result of everything in this library that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be opened, read or mounted.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{action}{}{}: {cause}", named(.subject), at(*.offset))]
    #[non_exhaustive]
    Io {
        /// The failed action: `cannot open`.
        action: &'static str,
        /// The object of the action, where the caller does not name it.
        subject: Option<Box<Subject>>,
        /// Offset of the action in the subject, in bytes.
        offset: Option<u64>,
        /// The operating system's answer.
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
    #[error("{subject}: not supported: {reason}")]
    #[non_exhaustive]
    Unsupported {
        /// The thing: a media type, a layer, a transport.
        subject: Box<Subject>,
        /// Why, and what it is.
        reason: String,
    },
    /// A document, archive or stream that breaks its own format.
    #[error("{subject}: {reason}")]
    #[non_exhaustive]
    Malformed {
        /// The document or stream.
        subject: Box<Subject>,
        /// What is wrong, with the offset where there is one.
        reason: String,
    },
    /// A digest or size that is not what the image promised.
    #[error("{subject}: {property} does not match: expected {expected}, found {found}")]
    #[non_exhaustive]
    Mismatch {
        /// The layer or document.
        subject: Box<Subject>,
        /// Which of its properties was compared.
        property: Property,
        /// What the manifest or config says.
        expected: String,
        /// What the bytes say.
        found: String,
    },
    /// A blob that the image names is not there.
    #[error("{}{}", missing(.subject, .digest), foreign(.urls))]
    #[non_exhaustive]
    MissingBlob {
        /// The layer or document that the blob holds.
        subject: Box<Subject>,
        /// Its digest.
        digest: Digest,
        /// Where the manifest says it could be had, for foreign layers.
        urls: Vec<String>,
    },
    /// A tar stream that breaks its format.
    #[error("{subject}: {entry}: {reason}")]
    #[non_exhaustive]
    Tar {
        /// The layer or archive.
        subject: Box<Subject>,
        /// The entry.
        entry: EntryName,
        /// What is wrong.
        reason: String,
    },
    /// A compressed stream that breaks its format.
    #[error("{subject}: damaged {format} data at compressed offset {offset}: {reason}")]
    #[non_exhaustive]
    Decompress {
        /// The layer or archive.
        subject: Box<Subject>,
        /// `gzip`, `zstd`, `xz` or `bzip2`.
        format: &'static str,
        /// Offset in the compressed bytes.
        offset: u64,
        /// What the decoder reports.
        reason: String,
    },
    /// Something from an image that exceeds a limit.
    #[error("{subject}: {value} exceeds the limit {limit} ({max})")]
    #[non_exhaustive]
    Limit {
        /// The thing that exceeds it.
        subject: Box<Subject>,
        /// The limit's name.
        limit: &'static str,
        /// The value found.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// Bytes that changed after they were verified, when the layer was indexed.
    #[error("{subject}: bytes at offset {offset} changed since they were verified")]
    #[non_exhaustive]
    Changed {
        /// The layer.
        subject: Box<Subject>,
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
    #[error("merging the layers gives {count} warning(s), first: {first}")]
    Strict {
        /// How many there are.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The directory to extract into is not empty.
    #[error("cannot extract into '{}': not empty", .dir.display())]
    #[non_exhaustive]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// The work ended before all files were extracted, since no more can be written.
    #[error("extraction stopped at '{path}' and is incomplete: {cause}")]
    #[non_exhaustive]
    Incomplete {
        /// The path that could not be written, below the target directory, escaped.
        path: String,
        /// Why it could not be written.
        cause: Box<Error>,
    },
    /// The caller stopped the work.
    #[error("interrupted")]
    Interrupted,
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
    #[error("dead mount: the process that served it is gone")]
    Dead,
    /// An image is mounted there already.
    #[error("an image is already mounted here")]
    AlreadyMounted,
    /// No FUSE in the kernel or in the container.
    #[error("/dev/fuse is missing: FUSE is not available on this system or in this container")]
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
    #[error("not an imgmount mount: the type is {0}")]
    OtherMount(String),
    /// The operating system refused.
    #[error("{call}: {cause}")]
    Os {
        /// What was called.
        call: &'static str,
        /// Its answer.
        cause: io::Error,
    },
}

/// How a path inside an image can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
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

// An error is returned by value through many calls.
const _: () = assert!(size_of::<Error>() <= 112);

impl Error {
    /// A refusal of the operating system. `action` says what failed, and on what.
    pub(crate) fn io(action: &'static str, cause: io::Error) -> Self {
        Error::Io { action, subject: None, offset: None, cause }
    }

    /// A refusal of the operating system. The name of `subject` follows `action` in the message.
    pub(crate) fn io_on(action: &'static str, subject: impl Into<Box<Subject>>, cause: io::Error) -> Self {
        Error::Io { action, subject: Some(subject.into()), offset: None, cause }
    }

    /// Something that is recognised and not served.
    pub(crate) fn unsupported(subject: impl Into<Box<Subject>>, reason: impl Into<String>) -> Self {
        Error::Unsupported { subject: subject.into(), reason: reason.into() }
    }

    /// A document, archive or stream that breaks its format.
    pub(crate) fn malformed(subject: impl Into<Box<Subject>>, reason: impl Into<String>) -> Self {
        Error::Malformed { subject: subject.into(), reason: reason.into() }
    }

    /// A digest or size that differs from the image's.
    pub(crate) fn mismatch(
        subject: impl Into<Box<Subject>>,
        property: Property,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Error::Mismatch { subject: subject.into(), property, expected, found }
    }

    /// A blob that is not there. `urls` say where the manifest offers it.
    pub(crate) fn missing_blob(subject: impl Into<Box<Subject>>, digest: Digest, urls: Vec<String>) -> Self {
        Error::MissingBlob { subject: subject.into(), digest, urls }
    }

    /// Something that exceeds a limit.
    pub(crate) fn limit(subject: impl Into<Box<Subject>>, limit: &'static str, value: u64, max: u64) -> Self {
        Error::Limit { subject: subject.into(), limit, value, max }
    }

    /// Bytes at `offset` that changed after they were verified.
    pub(crate) fn changed(subject: impl Into<Box<Subject>>, offset: u64) -> Self {
        Error::Changed { subject: subject.into(), offset }
    }

    /// A directory to extract into that is not empty.
    pub(crate) fn not_empty(dir: impl Into<PathBuf>) -> Self {
        Error::NotEmpty { dir: dir.into() }
    }

    /// An extraction that `cause` ended at `path`, which is escaped.
    pub(crate) fn incomplete(path: String, cause: Error) -> Self {
        Error::Incomplete { path, cause: Box::new(cause) }
    }
}

fn named(subject: &Option<Box<Subject>>) -> String {
    subject.as_ref().map(|subject| format!(" {subject}")).unwrap_or_default()
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

/// A document's name has its digest already, and a layer that is known by its file has no blob digest.
fn missing(subject: &Subject, digest: &Digest) -> String {
    match subject {
        Subject::Document { .. } | Subject::LayerFile { .. } => format!("{subject} is missing"),
        _ => format!("{subject}: blob {digest} is missing"),
    }
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() {
        return String::new();
    }
    let mut text = String::from("; available:");
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
    format!(" (a foreign layer, available at {})", urls.join(", "))
}
