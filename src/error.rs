//! Errors: one enum, [`Error`], whose variants carry data.
//!
//! A [`Subject`] names the object of an error: a layer, a document, an archive. Code that decodes or parses a
//! byte stream without knowing its name fails with a [`StreamFault`], which becomes an [`Error`] when it is
//! given a subject. The text of an error contains its cause, and a field of the variant holds the cause. The
//! cause is not a [`source`](std::error::Error::source), so a caller that prints the text and all sources
//! prints the cause once. This module knows no errno, hints or exit codes: the FUSE view chooses the errno,
//! and the command line chooses hints and exit codes, both by variant.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::digest::Digest;
use crate::limits::Bound;
use crate::path::{escape, escape_path};

mod stream;
mod subject;
#[cfg(test)]
mod tests;

pub(crate) use stream::{StreamFault, StreamResult};
pub use subject::{DocumentRole, EntryName, Property, Subject};

/// The result of every fallible operation of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an image could not be opened, read or mounted.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation of the operating system failed.
    #[error("{action}{}{}: {cause}", named(.subject), at(*.offset))]
    #[non_exhaustive]
    Io {
        /// The failed action: `cannot open`.
        action: &'static str,
        /// The object of the action, if `action` does not name the object.
        subject: Option<Box<Subject>>,
        /// Offset of the action in the subject, in bytes.
        offset: Option<u64>,
        /// The error that the operating system returned.
        cause: io::Error,
    },
    /// A reference, selector or path that cannot be parsed.
    #[error("'{}': {reason}", escape(.text.as_bytes()))]
    Reference {
        /// The text as the user gave it.
        text: String,
        /// Why the text cannot be parsed.
        reason: String,
    },
    /// The bytes are not an image in a supported format.
    #[error("'{}': not a container image: {reason}", escape(.path.as_bytes()))]
    NotAnImage {
        /// The path that was searched for an image.
        path: String,
        /// What was found at the path instead.
        reason: String,
        /// Whether the path is a directory or a tar, which could be a root file system without an image's
        /// documents.
        may_be_rootfs: bool,
    },
    /// The place holds several images and none was selected, or the selector matches several.
    #[error("'{}' holds several images{}", escape(.path.as_bytes()), list(.candidates))]
    Ambiguous {
        /// The archive or layout.
        path: String,
        /// The images to choose from, as a selector names them.
        candidates: Vec<String>,
    },
    /// No image has the selected name.
    #[error(
        "'{}' holds no image '{}'{}",
        escape(.path.as_bytes()),
        escape(.selector.as_bytes()),
        list(.candidates)
    )]
    NoSuchImage {
        /// The archive or layout.
        path: String,
        /// The selector.
        selector: String,
        /// The images that the archive or layout holds.
        candidates: Vec<String>,
    },
    /// The image was not built for the requested platform.
    #[error("no image for platform {wanted}{}", list(.available))]
    NoPlatform {
        /// The requested platform, or the host's.
        wanted: String,
        /// The platforms that the image is available for.
        available: Vec<String>,
    },
    /// A recognised feature that is not supported.
    #[error("{subject}: not supported: {reason}")]
    #[non_exhaustive]
    Unsupported {
        /// The unsupported object: a media type, a layer, a transport.
        subject: Box<Subject>,
        /// What the object is, and why it is not supported.
        reason: String,
    },
    /// A document, archive or stream that violates its format.
    #[error("{subject}: {reason}")]
    #[non_exhaustive]
    Malformed {
        /// The document or stream.
        subject: Box<Subject>,
        /// How the format is violated, with the offset if one is known.
        reason: String,
    },
    /// A digest or size that differs from the one that the image states.
    #[error("{subject}: {property} does not match: expected {expected}, found {found}")]
    #[non_exhaustive]
    Mismatch {
        /// The layer or document.
        subject: Box<Subject>,
        /// The property that was compared.
        property: Property,
        /// The value in the manifest or config.
        expected: String,
        /// The value computed from the bytes.
        found: String,
    },
    /// A layer whose bytes cannot be compared with the digest that the image states, because the engine did
    /// not keep what is needed for it.
    #[error("{subject}: cannot be verified: {reason}")]
    #[non_exhaustive]
    Unverifiable {
        /// The layer.
        subject: Box<Subject>,
        /// What is missing or does not fit.
        reason: String,
    },
    /// A blob that the image names is missing.
    #[error("{}{}", missing(.subject, .digest), foreign(.urls))]
    #[non_exhaustive]
    MissingBlob {
        /// The layer or document that is stored in the blob.
        subject: Box<Subject>,
        /// Digest of the blob.
        digest: Digest,
        /// Download addresses in the manifest, for foreign layers.
        urls: Vec<String>,
    },
    /// A tar stream that violates its format.
    #[error("{subject}: {entry}: {reason}")]
    #[non_exhaustive]
    Tar {
        /// The layer or archive.
        subject: Box<Subject>,
        /// The tar entry.
        entry: EntryName,
        /// How the format is violated.
        reason: String,
    },
    /// A compressed stream that violates its format.
    #[error("{subject}: damaged {format} data at compressed offset {offset}: {reason}")]
    #[non_exhaustive]
    Decompress {
        /// The layer or archive.
        subject: Box<Subject>,
        /// `gzip`, `zstd`, `xz` or `bzip2`.
        format: &'static str,
        /// Offset in the compressed bytes.
        offset: u64,
        /// The message of the decoder.
        reason: String,
    },
    /// An image exceeds a limit.
    #[error("{subject}: {value} exceeds the limit {limit} ({max})")]
    #[non_exhaustive]
    Limit {
        /// The object that exceeds the limit.
        subject: Box<Subject>,
        /// Name of the limit.
        limit: &'static str,
        /// The value found.
        value: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// Bytes of a layer changed after the layer was indexed and verified.
    #[error("{subject}: bytes at offset {offset} changed since they were verified")]
    #[non_exhaustive]
    Changed {
        /// The layer.
        subject: Box<Subject>,
        /// Offset of the changed span in the uncompressed tar, in bytes.
        offset: u64,
    },
    /// A path inside the image that does not exist or has the wrong type.
    #[error("'{path}': {reason}")]
    Path {
        /// The path inside the image, escaped.
        path: String,
        /// Why the path cannot be used.
        reason: PathFault,
    },
    /// `--strict`: merging the layers gives warnings.
    #[error("merging the layers gives {count} warning(s), first: {first}")]
    Strict {
        /// Number of warnings.
        count: usize,
        /// Text of the first warning.
        first: String,
    },
    /// The target directory of an extraction is not empty.
    #[error("cannot extract into '{}': not empty", escape_path(.dir))]
    #[non_exhaustive]
    NotEmpty {
        /// The target directory.
        dir: PathBuf,
    },
    /// The extraction ended before all files were extracted, because nothing more can be written.
    #[error("extraction stopped at '{path}' and is incomplete: {cause}")]
    #[non_exhaustive]
    Incomplete {
        /// The path that could not be written, relative to the target directory, escaped.
        path: String,
        /// Why the path could not be written.
        cause: Box<Error>,
    },
    /// A registry, or the proxy before it, cannot be reached or does not answer.
    #[error("cannot reach '{host}': {reason}")]
    Unreachable {
        /// The host.
        host: String,
        /// The last failure.
        reason: String,
    },
    /// A registry requires credentials, or refused those that were sent.
    #[error("'{host}' denies access{}", to_user(.user))]
    Denied {
        /// The registry.
        host: String,
        /// The user whose credentials were sent; `None` if there were none.
        user: Option<String>,
    },
    /// A registry allows no more requests for now.
    #[error("'{host}' allows no more requests{}", for_now(.after))]
    Limited {
        /// The registry.
        host: String,
        /// The pause that the registry asks for.
        after: Option<Duration>,
    },
    /// The certificate of a registry is not accepted, or the registry does not accept the client certificate.
    #[error("'{host}': {reason}")]
    Certificate {
        /// The registry.
        host: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// A registry does not have the image, breaks the protocol, or is blocked by the configuration.
    #[error("'{host}': {reason}")]
    Registry {
        /// The registry.
        host: String,
        /// What is missing or wrong.
        reason: String,
        /// The HTTP status of the answer, if it is the reason.
        status: Option<u16>,
    },
    /// A credential helper failed.
    #[error("credential helper '{helper}': {reason}")]
    CredentialHelper {
        /// The name of the helper, without `docker-credential-`.
        helper: String,
        /// What failed.
        reason: String,
    },
    /// Requests are forbidden, and something is not in the cache.
    #[error("{what} is not in the cache, and --offline allows no request")]
    Offline {
        /// What is missing.
        what: String,
    },
    /// The caller interrupted the operation.
    #[error("interrupted")]
    Interrupted,
    /// The image could not be mounted or unmounted.
    #[error("'{dir}': {reason}")]
    Mount {
        /// The mount point.
        dir: String,
        /// Why mounting or unmounting failed.
        reason: MountFault,
    },
}

/// Why mounting or unmounting failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum MountFault {
    /// The mount point does not exist.
    #[error("no such directory")]
    NotFound,
    /// The mount point is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The mount point holds a dead mount: the process that served the mount has ended.
    #[error("dead mount: the process that served it is gone")]
    Dead,
    /// An image is already mounted at the mount point.
    #[error("an image is already mounted here")]
    AlreadyMounted,
    /// The mount point was moved or replaced while the image was mounted.
    #[error("the directory was moved or replaced while the image was mounted")]
    Moved,
    /// FUSE is not available in the kernel or in the container.
    #[error("/dev/fuse is missing: FUSE is not available on this system or in this container")]
    NoDevice,
    /// Unprivileged users need the program fusermount3, which is not installed.
    #[error("mounting needs the program fusermount3, which is not installed")]
    NoHelper,
    /// fusermount3 failed; the text is its own message.
    #[error("{0}")]
    Helper(String),
    /// Processes use the mount; the list names those that could be identified.
    #[error("in use{}", holders(.0))]
    Busy(Vec<String>),
    /// Nothing is mounted at the directory.
    #[error("not mounted")]
    NotMounted,
    /// Another file system is mounted at the directory; the text is its type.
    #[error("not an imgmount mount: the type is {0}")]
    OtherMount(String),
    /// A system call failed.
    #[error("{call}: {cause}")]
    Os {
        /// The name of the call.
        call: &'static str,
        /// The error that the call returned.
        cause: io::Error,
    },
}

/// Why a path inside an image cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathFault {
    /// The path does not exist in the image.
    #[error("no such file or directory in the image")]
    NotFound,
    /// A parent component of the path is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The path is a directory, and a file is required.
    #[error("is a directory")]
    IsADirectory,
    /// The path is neither a regular file nor a link to a regular file.
    #[error("not a regular file")]
    NotAFile,
    /// The path has more symbolic links than Linux follows.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
}

// Limits the size, because errors are returned by value through many calls.
const _: () = assert!(size_of::<Error>() <= 112);

/// Returns the failure of the source below all readers that `cause` passed: not an error of the operating
/// system, and not damage of the bytes.
#[cfg(feature = "fuse")]
fn source_failure(cause: &io::Error) -> Option<&io::Error> {
    let inner = cause.get_ref()?;
    match inner.downcast_ref() {
        Some(StreamFault::Io { cause, .. }) => return source_failure(cause),
        Some(_) => return None,
        None => {}
    }
    match inner.downcast_ref() {
        Some(Error::Io { cause, .. }) => source_failure(cause),
        Some(_) => None,
        None => Some(cause),
    }
}

impl Error {
    /// Returns why the source of an image gave no bytes, if it is the cause of this error: a failure of a
    /// network, for example, but not an error of the operating system or damage of the bytes.
    #[cfg(feature = "fuse")]
    pub(crate) fn source_failure(&self) -> Option<&io::Error> {
        match self {
            Error::Io { cause, .. } => source_failure(cause),
            _ => None,
        }
    }

    /// Creates [`Error::Io`]. `action` says which action failed, and on what.
    pub(crate) fn io(action: &'static str, cause: io::Error) -> Self {
        Error::Io { action, subject: None, offset: None, cause }
    }

    /// Creates [`Error::Io`]. In the message, the name of `subject` follows `action`.
    pub(crate) fn io_on(action: &'static str, subject: impl Into<Box<Subject>>, cause: io::Error) -> Self {
        Error::Io { action, subject: Some(subject.into()), offset: None, cause }
    }

    /// Creates [`Error::Unsupported`].
    pub(crate) fn unsupported(subject: impl Into<Box<Subject>>, reason: impl Into<String>) -> Self {
        Error::Unsupported { subject: subject.into(), reason: reason.into() }
    }

    /// Creates [`Error::Malformed`].
    pub(crate) fn malformed(subject: impl Into<Box<Subject>>, reason: impl Into<String>) -> Self {
        Error::Malformed { subject: subject.into(), reason: reason.into() }
    }

    /// Creates [`Error::Mismatch`].
    pub(crate) fn mismatch(
        subject: impl Into<Box<Subject>>,
        property: Property,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        let (expected, found) = (expected.to_string(), found.to_string());
        Error::Mismatch { subject: subject.into(), property, expected, found }
    }

    /// Creates [`Error::Unverifiable`].
    pub(crate) fn unverifiable(subject: impl Into<Box<Subject>>, reason: impl Into<String>) -> Self {
        Error::Unverifiable { subject: subject.into(), reason: reason.into() }
    }

    /// Creates [`Error::MissingBlob`]. `urls` are the download addresses in the manifest.
    pub(crate) fn missing_blob(subject: impl Into<Box<Subject>>, digest: Digest, urls: Vec<String>) -> Self {
        Error::MissingBlob { subject: subject.into(), digest, urls }
    }

    /// Creates [`Error::Limit`] for a limit that users can set.
    pub(crate) fn over(subject: impl Into<Box<Subject>>, bound: Bound, value: u64) -> Self {
        Error::limit(subject, bound.name, value, bound.max)
    }

    /// Creates [`Error::Limit`].
    pub(crate) fn limit(subject: impl Into<Box<Subject>>, limit: &'static str, value: u64, max: u64) -> Self {
        Error::Limit { subject: subject.into(), limit, value, max }
    }

    /// Creates [`Error::Changed`] for the span at `offset` bytes.
    pub(crate) fn changed(subject: impl Into<Box<Subject>>, offset: u64) -> Self {
        Error::Changed { subject: subject.into(), offset }
    }

    /// Creates [`Error::NotEmpty`].
    pub(crate) fn not_empty(dir: impl Into<PathBuf>) -> Self {
        Error::NotEmpty { dir: dir.into() }
    }

    /// Creates [`Error::Incomplete`] for an extraction that `cause` stopped at `path`, which is escaped.
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

/// Returns the text of [`Error::MissingBlob`]. The digest is omitted if `subject` already contains it (a
/// document) or if the blob has none (a layer that is known by its file name).
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

fn to_user(user: &Option<String>) -> String {
    match user {
        None => " without credentials".to_owned(),
        Some(user) => format!(" to user '{}'", user.escape_debug()),
    }
}

fn for_now(after: &Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!(" for {} s", after.as_secs().max(1)))
}

fn holders(holders: &[String]) -> String {
    if holders.is_empty() { String::new() } else { format!(" by {}", holders.join(", ")) }
}

fn foreign(urls: &[String]) -> String {
    if urls.is_empty() {
        return String::new();
    }
    // The URLs come from the image and may be printed on a terminal.
    let urls: Vec<String> = urls.iter().map(|url| escape(url.as_bytes())).collect();
    format!(" (a foreign layer, available at {})", urls.join(", "))
}
