//! Positional reading: everything that holds bytes implements [`ReadAt`], and such readers can be stacked.
//!
//! A docker-archive that is gzipped as a whole is a stack of a file, a seekable gzip stream, a byte range
//! (the member), and another seekable gzip stream if the layer is compressed, too. This module owns the rules
//! of such readers. It does not know what the bytes mean.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use crate::descriptors::{Reopen, SharedFile};
use crate::memory::zeros;

/// Bytes of fixed length that can be read at any offset, by several threads at once.
pub(crate) trait ReadAt: Send + Sync + fmt::Debug + 'static {
    /// Returns the length in bytes, as it was when the source was opened. The source can be shorter by now;
    /// then reads fail.
    fn len(&self) -> u64;

    /// Returns the length as [`ReadAt::len`] does, but `None` if much work would be needed to find it out.
    fn known_len(&self) -> Option<u64> {
        Some(self.len())
    }

    /// Fills `buf` from `offset` (bytes), or fails. There are no short reads.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] past the end, also when the file has become shorter; otherwise the
    /// error of the reader below. The error of a decoder is wrapped in [`io::Error::other`].
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Returns a reader of `range` (bytes), from front to back; a range beyond the end is cut. Use it for
    /// longer ranges: a remote source serves the range with one request, whatever the sizes of the single
    /// reads. A read fails if bytes are missing, and returns 0 only at the end of the range. The default
    /// implementation reads each piece separately, which is good for local bytes.
    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        Box::new(Cursor::new(self, range))
    }

    /// Returns a reader of all bytes, from front to back, for a pass over them. A remote source waits as long
    /// as bytes keep coming, and continues where an earlier pass ended.
    fn stream_all(self: Arc<Self>) -> Box<dyn Read + Send> {
        let end = self.len();
        self.stream(0..end)
    }

    /// Returns the remote source of these bytes, if they come from one.
    fn remote(&self) -> Option<&dyn Remote> {
        None
    }

    /// Returns true if reads may take much longer than from a local disk, for example over a network. Threads
    /// that must serve other requests do not make such reads.
    fn may_wait(&self) -> bool {
        false
    }

    /// Returns the length in bytes of the compressed file of which these bytes are a part, uncompressed; `None` if
    /// they are stored as they are.
    fn unpacked_from(&self) -> Option<u64> {
        None
    }

    /// Returns true if the bytes are put together from files, and each read checks that the files it reads
    /// have not changed since they were seen first, by their times. A file that changed then makes reads of
    /// its own bytes fail, but not those of other bytes. The default is false.
    fn checks_files(&self) -> bool {
        false
    }

    /// Returns how many bytes to read at a time if only some of them are needed, such as the headers of a
    /// tar. The default suits files, where a seek costs more than reading this many bytes.
    fn probe_bytes(&self) -> usize {
        32 << 10
    }
}

/// A source whose bytes are requested over a network and cached.
pub(crate) trait Remote {
    /// Announces that `range` (bytes) will be read soon. Returns at once; the range is requested meanwhile.
    fn prepare(&self, range: Range<u64>);

    /// Returns whether all bytes of `range` are cached. They can be wrong, or be gone by the next read.
    #[cfg(feature = "fuse")]
    fn has(&self, range: Range<u64>) -> bool;

    /// Returns how many bytes should be announced ahead of a sequential reader that has read `read_bytes` so
    /// far.
    fn ahead_bytes(&self, read_bytes: u64) -> u64;

    /// Returns when a read that begins now fails because of the limit on the work of this thread
    /// ([`crate::waiting`]); `None` without a limit.
    fn deadline(&self) -> Option<Instant>;

    /// Drops the cached bytes of `range`, because they are not those that the image names. The next read
    /// requests them again, past all caches on the way.
    fn refresh(&self, range: Range<u64>);

    /// Keeps cached bytes from being removed by others, as long as this source is open.
    fn hold(&self);

    /// Records that all bytes were read, and match their digest.
    fn proved(&self);
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn len(&self) -> u64 {
        (**self).len()
    }

    fn known_len(&self) -> Option<u64> {
        (**self).known_len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        Arc::clone(&*self).stream(range)
    }

    fn stream_all(self: Arc<Self>) -> Box<dyn Read + Send> {
        Arc::clone(&*self).stream_all()
    }

    fn remote(&self) -> Option<&dyn Remote> {
        (**self).remote()
    }

    fn may_wait(&self) -> bool {
        (**self).may_wait()
    }

    fn unpacked_from(&self) -> Option<u64> {
        (**self).unpacked_from()
    }

    fn checks_files(&self) -> bool {
        (**self).checks_files()
    }

    fn probe_bytes(&self) -> usize {
        (**self).probe_bytes()
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| past_end())?;
        let end = start.checked_add(buf.len()).ok_or_else(past_end)?;
        let bytes = self.get(start..end).ok_or_else(past_end)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// A file, and its length when it was opened.
#[derive(Debug)]
pub(crate) struct FileBytes {
    file: Handle,
    len_bytes: u64,
}

#[derive(Debug)]
enum Handle {
    /// An open file.
    Own(File),
    /// A file that can be opened again.
    Shared(SharedFile),
}

impl FileBytes {
    /// Takes ownership of `file` and reads its length.
    ///
    /// # Errors
    /// The error of reading the length.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let len_bytes = file.metadata()?.len();
        Ok(FileBytes { file: Handle::Own(file), len_bytes })
    }

    /// Takes ownership of `file` as [`FileBytes::new`] does. If descriptors run short, the file is closed, and
    /// `reopen` opens it for the next read.
    ///
    /// # Errors
    /// As [`FileBytes::new`].
    pub(crate) fn reopened_by(file: File, reopen: Reopen) -> io::Result<Self> {
        let len_bytes = file.metadata()?.len();
        Ok(FileBytes { file: Handle::Shared(SharedFile::new(file, reopen)?), len_bytes })
    }
}

impl ReadAt for FileBytes {
    fn len(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match &self.file {
            Handle::Own(file) => file.read_exact_at(buf, offset),
            Handle::Shared(file) => file.get()?.read_exact_at(buf, offset),
        }
    }
}

/// A range of the bytes of another [`ReadAt`], for example a member of an archive.
#[derive(Debug, Clone)]
pub(crate) struct ByteRange {
    inner: Arc<dyn ReadAt>,
    offset: u64,
    len_bytes: u64,
}

impl ByteRange {
    /// Returns the range of `len_bytes` bytes of `inner` from `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the range ends beyond `inner`.
    pub(crate) fn new(inner: Arc<dyn ReadAt>, offset: u64, len_bytes: u64) -> io::Result<Self> {
        match offset.checked_add(len_bytes) {
            Some(end) if end <= inner.len() => Ok(ByteRange { inner, offset, len_bytes }),
            _ => Err(past_end()),
        }
    }
}

impl ReadAt for ByteRange {
    fn len(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or_else(past_end)?;
        if end > self.len_bytes {
            return Err(past_end());
        }
        // The range lies within `inner`, so the sum cannot overflow.
        self.inner.read_exact_at(buf, self.offset + offset)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        let [start, end] = [range.start, range.end].map(|offset| self.offset + offset.min(self.len_bytes));
        Arc::clone(&self.inner).stream(start..end)
    }

    fn may_wait(&self) -> bool {
        self.inner.may_wait()
    }

    fn unpacked_from(&self) -> Option<u64> {
        self.inner.unpacked_from()
    }
}

/// Reads a range of a [`ReadAt`] from front to back.
#[derive(Debug)]
pub(crate) struct Cursor<R> {
    inner: R,
    offset: u64,
    end: u64,
}

impl<R: ReadAt> Cursor<R> {
    /// Returns a reader of `range` (bytes); a range beyond the end of `inner` is cut.
    pub(crate) fn new(inner: R, range: Range<u64>) -> Self {
        let end = range.end.min(inner.len());
        Cursor { inner, offset: range.start, end }
    }
}

impl<R: ReadAt> Read for Cursor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_sub(self.offset);
        let len = usize::try_from(left).map_or(buf.len(), |left| left.min(buf.len()));
        if len == 0 {
            return Ok(0);
        }
        let buf = buf.get_mut(..len).unwrap_or_default();
        self.inner.read_exact_at(buf, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// Reads all bytes of `inner`. The caller has checked that the length is acceptable.
///
/// # Errors
/// As [`ReadAt::read_exact_at`].
pub(crate) fn read_to_vec(inner: &dyn ReadAt) -> io::Result<Vec<u8>> {
    let len = usize::try_from(inner.len()).map_err(|_| past_end())?;
    let mut bytes = zeros(len)?;
    inner.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn past_end() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_shows_its_part_and_nothing_else() {
        let window = ByteRange::new(Arc::new(b"0123456789".to_vec()), 3, 4).unwrap();
        assert_eq!(read_to_vec(&window).unwrap(), b"3456");
        let past = window.read_exact_at(&mut [0; 2], 3).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
        assert!(ByteRange::new(Arc::new(vec![0; 4]), 2, 3).is_err());
        assert!(ByteRange::new(Arc::new(vec![0; 4]), u64::MAX, 2).is_err());
    }

    #[test]
    fn a_stream_is_its_range_and_cut_at_the_end() {
        let bytes: Arc<dyn ReadAt> = Arc::new(b"0123456789".to_vec());
        let window: Arc<dyn ReadAt> = Arc::new(ByteRange::new(bytes.clone(), 3, 4).unwrap());
        for (bytes, range, expected) in [
            (&bytes, 2..5, "234"),
            (&bytes, 8..20, "89"),
            (&bytes, 10..20, ""),
            (&window, 0..4, "3456"),
            (&window, 1..9, "456"),
            (&window, 5..9, ""),
        ] {
            let text = io::read_to_string(Arc::clone(bytes).stream(range.clone())).unwrap();
            assert_eq!(text, expected, "{range:?}");
        }
    }
}
