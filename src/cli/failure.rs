//! Reports a failure to the user: message, hint and exit code.
//!
//! All three depend on the error's type and variant, never on its text.

use std::io;
use std::process::ExitCode;

use imgmount::{Error, Subject, escape};

#[cfg(feature = "fuse")]
use super::mount;
use super::{FAILURE, complain, limits, net, print_line};

/// The hint for a layer that an engine keeps as files, and whose tar cannot be put together.
const UNVERIFIED_FILES: &str = "--verify off shows the layer's files as they are now, unverified";

/// Prints the error with its hint, if any, and returns the exit code.
pub(super) fn fail(error: &anyhow::Error) -> ExitCode {
    let code = exit_code(error);
    if code != 0 {
        complain(&message(error));
        if let Some(hint) = hint(error) {
            print_line(&format!("hint: {hint}"));
        }
    }
    ExitCode::from(code)
}

/// Returns 0 if the reader of the output closed it, since the reader has what it wanted; otherwise
/// [`FAILURE`].
fn exit_code(error: &anyhow::Error) -> u8 {
    let io = error.downcast_ref::<io::Error>();
    if io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) { 0 } else { FAILURE }
}

/// Formats the error and its sources. No text is repeated: the text of an [`Error`] contains its cause,
/// which is not one of its sources.
fn message(error: &anyhow::Error) -> String {
    let parts: Vec<String> = error.chain().map(ToString::to_string).collect();
    let text = parts.join(": ");
    // All other failures name the failed action; only writes to standard output have no context.
    let unnamed = error.chain().next().is_some_and(|first| first.is::<io::Error>());
    if unnamed { format!("cannot write the output: {text}") } else { text }
}

/// Returns the suggested next step, if there is one.
fn hint(error: &anyhow::Error) -> Option<String> {
    let error = error.downcast_ref::<Error>()?;
    let hint = match error {
        #[cfg(feature = "fuse")]
        Error::Mount { dir, reason } => return mount::hint(dir, reason),
        Error::NotAnImage { path, may_be_rootfs: true, .. } => {
            let path = escape(path.as_bytes());
            return Some(format!("if it is a root file system, use rootfs:{path}"));
        }
        Error::Io { subject: Some(subject), cause, .. }
            if cause.kind() == io::ErrorKind::NotFound && matches!(**subject, Subject::Nowhere { .. }) =>
        {
            return net::hint_of_missing(subject);
        }
        Error::Ambiguous { .. } => {
            "select one with PATH:NAME, PATH:ID, PATH@INDEX, PATH@CONTAINER or --image"
        }
        Error::NoSuchImage { .. } => {
            "use a full name, an ID, @INDEX, or a tag that only one image has; for a container, use @NAME"
        }
        Error::NoPlatform { .. } => "select one with --platform",
        Error::Mismatch { subject, .. } | Error::Decompress { subject, .. } | Error::Tar { subject, .. } => {
            match **subject {
                Subject::Layer { .. } => {
                    "the image is damaged or was changed; --verify off recovers what it can from the layer"
                }
                _ => "the image is incomplete or damaged, or was changed after it was made",
            }
        }
        Error::Unverifiable { .. } => UNVERIFIED_FILES,
        // The store of an engine, in which a file is missing, was changed or is damaged.
        Error::Io { subject: Some(subject), cause, .. }
            if matches!(**subject, Subject::Layer { .. })
                && matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) =>
        {
            UNVERIFIED_FILES
        }
        Error::Io { subject: Some(subject), cause, .. }
            if matches!(**subject, Subject::Socket(_)) && cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            "only root and the members of the socket's group, usually 'docker', can use the engine"
        }
        Error::NotEmpty { .. } => "use --force to extract anyway and replace existing files",
        Error::MissingBlob { .. } => "the image was saved without this blob, or for another platform",
        Error::Strict { .. } => "`imgmount inspect` lists all warnings; without --strict they are accepted",
        Error::Limit { .. } => return limits::hint(error),
        other => return net::hint(other),
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests;
