//! Raw deflate (RFC 1951) that can stop at block ends and resume there.
//!
//! This module is the only caller of `libz-rs-sys`, because `flate2` offers neither `Z_BLOCK` nor
//! `inflatePrime`. It owns the conditions that zlib's interface requires of its caller and meets all of them,
//! so its own interface is safe. It must not know gzip, checksums or files.
//!
//! Source of the interface: zlib's manual, `inflate`, `inflatePrime`, `inflateSetDictionary`.
#![expect(unsafe_code, reason = "zlib's interface is made of pointers")]

use std::ffi::CStr;
use std::fmt;

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateGetDictionary,
    inflateInit2_, inflatePrime, inflateReset, inflateSetDictionary, z_stream, zlibVersion,
};

/// The maximum distance of a deflate back-reference (RFC 1951, 3.2.5), in bytes.
pub(super) const WINDOW_BYTES: usize = 32 << 10;

/// A negative value means no header and no trailer; 15 is the full window.
const RAW_WINDOW_BITS: i32 = -15;

/// Output space reserved at a time, in bytes. Each call copies a full window at its end, so the space is a
/// multiple of the window.
const ROOM_BYTES: usize = 256 << 10;

// Bits of `data_type` after a call (zlib's manual, `inflate`).
const UNUSED_BITS: i32 = 7;
const IN_LAST_BLOCK: i32 = 64;
const AT_BLOCK_END: i32 = 128;

/// Whether decoding stops at the end of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockEnds {
    /// Continue past block ends.
    Pass,
    /// Stop at the next block end.
    Stop,
}

/// The result of one call.
#[derive(Debug)]
pub(super) struct Ran {
    /// Input bytes used. The last of these bytes may contain unused bits.
    pub(super) consumed: usize,
    /// True if decoding stopped at the end of a block that is not the last.
    pub(super) at_block_end: bool,
    /// True if the last block ended.
    pub(super) done: bool,
    /// True if the call made no progress: it read and wrote nothing and passed no block end.
    pub(super) stuck: bool,
}

/// A raw inflate stream.
pub(super) struct Inflate {
    /// Boxed so that its address does not change after `inflateInit2_`.
    stream: Box<z_stream>,
}

// SAFETY: the stream owns its state, which nothing else points to and which is not bound to a
// thread: zlib keeps no thread-local data, and the allocator is the global one.
unsafe impl Send for Inflate {}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").field("data_type", &self.stream.data_type).finish_non_exhaustive()
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: `new` initialised the stream, and the stream is not used after this call.
        unsafe { inflateEnd(&raw mut *self.stream) };
    }
}

impl Inflate {
    /// Creates a decoder at the start of a deflate stream.
    pub(super) fn new() -> Result<Self, String> {
        let mut stream = Box::new(z_stream::default());
        let size = i32::try_from(size_of::<z_stream>()).unwrap_or(0);
        // SAFETY: the pointer is to a whole stream with an allocator set, no input and no output;
        // version and size are those of the library that is called.
        let code = unsafe { inflateInit2_(&raw mut *stream, RAW_WINDOW_BITS, zlibVersion(), size) };
        if code == Z_OK { Ok(Inflate { stream }) } else { Err(format!("inflateInit2 says {code}")) }
    }

    /// Resets the decoder to the start of a deflate stream.
    pub(super) fn reset(&mut self) -> Result<(), String> {
        // SAFETY: `new` initialised the stream.
        let code = unsafe { inflateReset(&raw mut *self.stream) };
        checked("inflateReset", code)
    }

    /// Makes a new stream resume after a block end. The first `bits` (0 to 7) bits are those of `value`,
    /// lowest first, and `window` is the output before them.
    pub(super) fn prime(&mut self, bits: u8, value: u8, window: &[u8]) -> Result<(), String> {
        // SAFETY: `new` initialised the stream.
        let code = unsafe { inflatePrime(&raw mut *self.stream, i32::from(bits), i32::from(value)) };
        checked("inflatePrime", code)?;
        let window = window.last_chunk::<WINDOW_BYTES>().map_or(window, |whole| whole.as_slice());
        let len_bytes = u32::try_from(window.len()).unwrap_or(0);
        // SAFETY: the pointer and length are those of `window`, which is only read during the call.
        let code = unsafe { inflateSetDictionary(&raw mut *self.stream, window.as_ptr(), len_bytes) };
        checked("inflateSetDictionary", code)
    }

    /// Decodes from `input` and appends at most `limit` bytes to `out`.
    pub(super) fn run(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        limit: usize,
        block_ends: BlockEnds,
    ) -> Result<Ran, String> {
        out.reserve(limit.min(ROOM_BYTES));
        let spare = out.spare_capacity_mut();
        let room = clamp(spare.len().min(limit));
        let given = clamp(input.len());
        self.stream.next_in = input.as_ptr();
        self.stream.avail_in = given;
        self.stream.next_out = spare.as_mut_ptr().cast();
        self.stream.avail_out = room;
        let flush = if block_ends == BlockEnds::Stop { Z_BLOCK } else { Z_NO_FLUSH };
        // SAFETY: `new` initialised the stream. `given` bytes can be read at `next_in` and `room` bytes
        // written at `next_out`, both for the whole call; zlib-rs accepts uninitialised memory as output.
        // Both pointers are set again before every call.
        let code = unsafe { inflate(&raw mut *self.stream, flush) };
        let written = room.saturating_sub(self.stream.avail_out) as usize;
        // SAFETY: `written` bytes after `len` were just initialised, within the capacity.
        unsafe { out.set_len(out.len().saturating_add(written)) };
        if !matches!(code, Z_OK | Z_STREAM_END | Z_BUF_ERROR) {
            return Err(self.reason(code));
        }
        let consumed = given.saturating_sub(self.stream.avail_in) as usize;
        let done = code == Z_STREAM_END;
        let at_end = block_ends == BlockEnds::Stop && self.stream.data_type & AT_BLOCK_END != 0;
        Ok(Ran {
            consumed,
            at_block_end: at_end && !done && self.stream.data_type & IN_LAST_BLOCK == 0,
            done,
            stuck: consumed == 0 && written == 0 && !done && !at_end,
        })
    }

    /// Returns how many high bits of the last consumed byte are unused (0 to 7), at a block end.
    pub(super) fn unused_bits(&self) -> u8 {
        u8::try_from(self.stream.data_type & UNUSED_BITS).unwrap_or(0)
    }

    /// Returns the output that the stream can still refer to: up to [`WINDOW_BYTES`].
    pub(super) fn window(&self) -> Vec<u8> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut len_bytes = 0;
        // SAFETY: `new` initialised the stream; 32 KiB is always enough, as the manual says.
        let code =
            unsafe { inflateGetDictionary(&raw const *self.stream, window.as_mut_ptr(), &raw mut len_bytes) };
        window.truncate(if code == Z_OK { len_bytes as usize } else { 0 });
        window
    }

    fn reason(&self, code: i32) -> String {
        if self.stream.msg.is_null() {
            return format!("inflate says {code}");
        }
        // SAFETY: zlib sets `msg` to a string constant that ends with a zero byte.
        let text = unsafe { CStr::from_ptr(self.stream.msg) };
        text.to_string_lossy().into_owned()
    }
}

/// Limits a length to the 32 bits that zlib counts in; the next call continues with the rest.
fn clamp(len_bytes: usize) -> u32 {
    u32::try_from(len_bytes).unwrap_or(u32::MAX)
}

fn checked(call: &str, code: i32) -> Result<(), String> {
    if code == Z_OK { Ok(()) } else { Err(format!("{call} says {code}")) }
}
