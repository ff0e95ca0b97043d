//! Copies of a database that another process may be writing.
//!
//! containerd holds a lock on its databases for as long as it runs, so a reader cannot wait for one. bbolt
//! writes the pages of a transaction to places that the transaction before does not use, and then one of the
//! two meta pages. So while the meta pages stay the same, the pages that they lead to stay the same, too:
//! a copy is complete if both meta pages are the same before and after. This module must not know what a
//! database contains.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use super::meta::{self, Meta};
use super::{Database, MAX_DATABASE_BYTES};
use crate::error::{Error, Result, Subject};

/// Number of copies that are made until one is complete.
const MAX_ATTEMPTS: u32 = 10;
/// Time between two copies; the wait before copy N is N times as long.
const PAUSE: Duration = Duration::from_millis(5);

/// Copies the database in `file` and calls `parse` with the copy. Copies again, up to [`MAX_ATTEMPTS`] times,
/// if a transaction ended meanwhile, or if the database looks damaged and has changed since. `what` names the
/// database in errors.
///
/// # Errors
/// [`Error::Limit`] above [`MAX_DATABASE_BYTES`]; the last error of `parse`; [`Error::Malformed`] when
/// transactions ended during all attempts.
pub(in crate::source) fn read<T>(
    file: &File,
    what: &Subject,
    parse: impl Fn(&Database) -> Result<T>,
) -> Result<T> {
    let mut result = None;
    for attempt in 0..MAX_ATTEMPTS {
        thread::sleep(PAUSE.saturating_mul(attempt));
        let before = metas(file, what)?;
        let bytes = copy(file, what, &before)?;
        if metas(file, what)? != before {
            continue;
        }
        let parsed = Database::new(what.clone(), bytes).and_then(|database| parse(&database));
        let damaged = matches!(parsed, Err(Error::Malformed { .. } | Error::Limit { .. }));
        // Damage that was found twice in the same transaction is not a copy's.
        let is_same = result.as_ref().is_some_and(|(metas, _)| *metas == before);
        result = Some((before, parsed));
        if !damaged || is_same {
            break;
        }
    }
    let (_, parsed) = result.ok_or_else(|| {
        let reason = format!("another process changed the database during each of {MAX_ATTEMPTS} copies");
        Error::malformed(what.clone(), reason)
    })?;
    parsed
}

fn metas(file: &File, what: &Subject) -> Result<[Option<Meta>; 2]> {
    let mut head = Vec::new();
    read_up_to(file, meta::BOTH_BYTES, &mut head).map_err(|cause| cannot_read(what, cause))?;
    Ok(meta::both(&head))
}

/// Reads the pages of the database, without free space at the end of the file.
fn copy(file: &File, what: &Subject, metas: &[Option<Meta>; 2]) -> Result<Vec<u8>> {
    let len = file.metadata().map_err(|cause| cannot_read(what, cause))?.len();
    let ends = metas.iter().flatten().map(|meta| meta.end.saturating_mul(u64::from(meta.page_size)));
    let len = ends.max().map_or(len, |end| end.min(len));
    if len > MAX_DATABASE_BYTES {
        return Err(Error::limit(what.clone(), "MAX_DATABASE_BYTES", len, MAX_DATABASE_BYTES));
    }
    let mut bytes = Vec::new();
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    read_up_to(file, len, &mut bytes).map_err(|cause| cannot_read(what, cause))?;
    Ok(bytes)
}

/// Reads the first `len` bytes of the file, or fewer if the file is shorter.
fn read_up_to(file: &File, len: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.resize(len, 0);
    let mut filled: usize = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled = filled.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(())
}

fn cannot_read(what: &Subject, cause: io::Error) -> Error {
    Error::io_on("cannot read", what.clone(), cause)
}
