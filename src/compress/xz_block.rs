//! One block of an xz stream: header, filtered and compressed contents, padding, integrity check.
//!
//! This module owns the limit on the dictionary of a block and the comparison of the integrity check.
//! `liblzma`'s raw decoder decodes the contents. This module must not know what surrounds a block.
//!
//! Section numbers below are those of the .xz file format's specification, 1.2.

use std::array;
use std::fmt;
use std::sync::LazyLock;

use crc32fast::{Hasher, hash as crc32};
use liblzma::stream::{Action, Filters, Status, Stream};
use sha2::{Digest as _, Sha256};

use super::frames::Ran;
use super::input::{Input, Refusal};
use crate::error::{StreamFault, StreamResult as Result};

/// The largest dictionary of a block, in bytes: four times that of `xz -9`, the largest preset.
const DICTIONARY_BYTES_MAX: u64 = 256 << 20;

// Block flags (3.1.2).
const FILTERS_LESS_ONE: u8 = 0x03;
const RESERVED: u8 = 0x3c;
const HAS_COMPRESSED_SIZE: u8 = 0x40;
const HAS_OUTPUT_SIZE: u8 = 0x80;

/// LZMA2, the last filter of every chain (5.3.1).
const LZMA2: u64 = 0x21;

/// The integrity check of a stream's blocks (2.1.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckKind {
    None,
    Crc32,
    Crc64,
    Sha256,
}

impl CheckKind {
    /// Returns the check with this number. Reserved numbers are an error.
    pub(super) fn from_id(id: u8) -> Result<Self, String> {
        match id {
            0x00 => Ok(CheckKind::None),
            0x01 => Ok(CheckKind::Crc32),
            0x04 => Ok(CheckKind::Crc64),
            0x0a => Ok(CheckKind::Sha256),
            _ => Err(format!("unknown integrity check {id:#04x}")),
        }
    }

    /// Returns the number of the check in stream flags.
    pub(super) fn id(self) -> u8 {
        match self {
            CheckKind::None => 0x00,
            CheckKind::Crc32 => 0x01,
            CheckKind::Crc64 => 0x04,
            CheckKind::Sha256 => 0x0a,
        }
    }
}

/// The sizes of a block, as the index lists them (4.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Size of header, contents and check, in bytes.
    pub(super) unpadded_bytes: u64,
    /// Size of the decoded output, in bytes.
    pub(super) output_bytes: u64,
}

/// A block that is being decoded.
pub(super) struct Block {
    decoder: Stream,
    check: Check,
    header_bytes: u64,
    compressed_bytes: u64,
    output_bytes: u64,
    declared_compressed_bytes: Option<u64>,
    declared_output_bytes: Option<u64>,
    dictionary_bytes: u64,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("output_bytes", &self.output_bytes).finish_non_exhaustive()
    }
}

impl Block {
    /// Returns the memory of the decoder in bytes: nearly all of it is the dictionary.
    pub(super) fn memory_bytes(&self) -> usize {
        usize::try_from(self.dictionary_bytes).unwrap_or(usize::MAX)
    }

    /// Reads a block header (3.1).
    pub(super) fn read(input: &mut Input, check: CheckKind) -> Result<Self> {
        let size = input.byte()?;
        // The size is stored in units of four bytes, minus one; the last four bytes are a checksum.
        let header_bytes = u64::from(size).saturating_add(1).saturating_mul(4);
        let mut header = vec![size];
        for _ in 5..header_bytes {
            header.push(input.byte()?);
        }
        if u32::from_le_bytes(input.array()?) != crc32(&header) {
            return Err(input.damaged("a block header checksum does not match"));
        }
        let mut fields = Fields(header.get(1..).unwrap_or_default());
        let parsed = parse_header(&mut fields).map_err(|reason| input.damaged(reason))?;
        if parsed.dictionary_bytes > DICTIONARY_BYTES_MAX {
            return Err(StreamFault::Limit {
                entry: None,
                limit: "xz dictionary bytes",
                value: parsed.dictionary_bytes,
                max: DICTIONARY_BYTES_MAX,
            });
        }
        let decoder = Stream::new_raw_decoder(&parsed.filters);
        let decoder = decoder.map_err(|error| input.refused(refusal(error)))?;
        Ok(Block {
            decoder,
            check: Check::new(check),
            header_bytes,
            compressed_bytes: 0,
            output_bytes: 0,
            declared_compressed_bytes: parsed.compressed_bytes,
            declared_output_bytes: parsed.output_bytes,
            dictionary_bytes: parsed.dictionary_bytes,
        })
    }

    /// Decodes more of the contents.
    pub(super) fn run(&mut self, input: &[u8], output: &mut [u8]) -> Result<Ran, Refusal> {
        let (total_in, total_out) = (self.decoder.total_in(), self.decoder.total_out());
        let status = self.decoder.process(input, output, Action::Run).map_err(refusal)?;
        self.compressed_bytes = self.decoder.total_in();
        self.output_bytes = self.decoder.total_out();
        let since =
            |before: u64, after: u64| usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX);
        let ran = Ran {
            consumed: since(total_in, self.compressed_bytes),
            written: since(total_out, self.output_bytes),
            done: status == Status::StreamEnd,
        };
        self.check.update(output.get(..ran.written).unwrap_or_default());
        Ok(ran)
    }

    /// Compares sizes, padding and check after the contents (3.3, 3.4).
    pub(super) fn finish(&mut self, input: &mut Input) -> Result<Sizes> {
        let fits = |declared: Option<u64>, found| declared.is_none_or(|declared| declared == found);
        if !fits(self.declared_compressed_bytes, self.compressed_bytes)
            || !fits(self.declared_output_bytes, self.output_bytes)
        {
            return Err(input.damaged("the sizes of a block do not match its header"));
        }
        // The header has a multiple of four bytes, and the contents are padded to a multiple of four.
        for _ in 0..self.compressed_bytes.wrapping_neg() % 4 {
            if input.byte()? != 0 {
                return Err(input.damaged("a block has padding that is not zero"));
            }
        }
        let check_bytes = self.check.finish(input)?;
        Ok(Sizes {
            unpadded_bytes: self.header_bytes.wrapping_add(self.compressed_bytes).wrapping_add(check_bytes),
            output_bytes: self.output_bytes,
        })
    }
}

fn refusal(error: liblzma::stream::Error) -> Refusal {
    match error {
        liblzma::stream::Error::Mem => Refusal::NoMemory,
        error => error.to_string().into(),
    }
}

struct Header {
    filters: Filters,
    dictionary_bytes: u64,
    compressed_bytes: Option<u64>,
    output_bytes: Option<u64>,
}

fn parse_header(fields: &mut Fields<'_>) -> Result<Header, String> {
    let flags = fields.byte()?;
    if flags & RESERVED != 0 {
        return Err(format!("unknown block flags {flags:#04x}"));
    }
    let compressed_bytes = (flags & HAS_COMPRESSED_SIZE != 0).then(|| fields.number()).transpose()?;
    let output_bytes = (flags & HAS_OUTPUT_SIZE != 0).then(|| fields.number()).transpose()?;
    let mut filters = Filters::new();
    let mut dictionary_bytes = None;
    for _ in 0..=(flags & FILTERS_LESS_ONE) {
        if dictionary_bytes.is_some() {
            return Err("a filter follows LZMA2".to_owned());
        }
        let id = fields.number()?;
        let len_bytes = fields.number()?;
        let properties = fields.bytes(len_bytes)?;
        add_filter(&mut filters, id, properties)?;
        if id == LZMA2 {
            dictionary_bytes = Some(dictionary_size(properties)?);
        }
    }
    if fields.0.iter().any(|&byte| byte != 0) {
        return Err("a block header has padding that is not zero".to_owned());
    }
    let dictionary_bytes = dictionary_bytes.ok_or("a block does not end with LZMA2")?;
    Ok(Header { filters, dictionary_bytes, compressed_bytes, output_bytes })
}

/// Adds the filter `id`. The numbers of filters are those of section 5.3.
fn add_filter(filters: &mut Filters, id: u64, properties: &[u8]) -> Result<(), String> {
    let added = match id {
        0x03 => filters.delta_properties(properties),
        0x04 => filters.x86_properties(properties),
        0x05 => filters.powerpc_properties(properties),
        0x06 => filters.ia64_properties(properties),
        0x07 => filters.arm_properties(properties),
        0x08 => filters.arm_thumb_properties(properties),
        0x09 => filters.sparc_properties(properties),
        0x0a => filters.arm64_properties(properties),
        0x0b => filters.riscv_properties(properties),
        LZMA2 => filters.lzma2_properties(properties),
        _ => return Err(format!("unknown filter {id:#x}")),
    };
    added.map(|_| ()).map_err(|error| format!("filter {id:#x}: {error}"))
}

/// Returns the dictionary size for its code (5.3.1): two or three, times a power of two.
fn dictionary_size(properties: &[u8]) -> Result<u64, String> {
    match properties {
        [40] => Ok(u64::from(u32::MAX)),
        [code @ 0..40] => Ok((2 | u64::from(code & 1)) << (u32::from(code / 2).saturating_add(11))),
        _ => Err("unknown dictionary size".to_owned()),
    }
}

/// The unread fields of a block header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len_bytes: u64) -> Result<&'a [u8], String> {
        let split = usize::try_from(len_bytes).ok().and_then(|len| self.0.split_at_checked(len));
        let (bytes, rest) = split.ok_or("a block header is too short")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.bytes(1).map(|byte| byte.first().copied().unwrap_or(0))
    }

    fn number(&mut self) -> Result<u64, String> {
        vli(|| self.byte())?.ok_or_else(|| "a block header has an invalid number".to_owned())
    }
}

/// Reads a number of up to 63 bits, seven bits a byte, lowest first (1.2); `None` when the number is longer
/// or not written in the shortest form.
pub(super) fn vli<E>(mut next: impl FnMut() -> Result<u8, E>) -> Result<Option<u64>, E> {
    let mut number = 0;
    for shift in (0..63_u32).step_by(7) {
        let byte = next()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((byte != 0 || shift == 0).then_some(number));
        }
    }
    Ok(None)
}

/// A computation of an integrity check.
enum Check {
    None,
    Crc32(Hasher),
    Crc64(u64),
    Sha256(Box<Sha256>),
}

impl Check {
    fn new(kind: CheckKind) -> Self {
        match kind {
            CheckKind::None => Check::None,
            CheckKind::Crc32 => Check::Crc32(Hasher::new()),
            CheckKind::Crc64 => Check::Crc64(0),
            CheckKind::Sha256 => Check::Sha256(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::None => {}
            Check::Crc32(crc) => crc.update(bytes),
            Check::Crc64(crc) => *crc = crc64(*crc, bytes),
            Check::Sha256(hash) => hash.update(bytes),
        }
    }

    /// Compares the result with the check in `input`, and returns the check's length in bytes.
    fn finish(&mut self, input: &mut Input) -> Result<u64> {
        let (matches, len_bytes) = match self {
            Check::None => (true, 0),
            Check::Crc32(crc) => (input.array()? == crc.clone().finalize().to_le_bytes(), 4),
            Check::Crc64(crc) => (input.array()? == crc.to_le_bytes(), 8),
            Check::Sha256(hash) => (input.array::<32>()?.as_slice() == hash.finalize_reset().as_slice(), 32),
        };
        if matches {
            Ok(len_bytes)
        } else {
            Err(input.damaged("the integrity check of a block does not match"))
        }
    }
}

/// Tables for the CRC-64 of ECMA-182, bits reversed (section 6). Table `n` holds the effect of a byte that is
/// followed by `n` zero bytes, so that eight bytes are processed at once.
static CRC64_TABLES: LazyLock<[[u64; 256]; 8]> = LazyLock::new(|| {
    const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;
    let shift = |crc: u64| {
        if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ POLYNOMIAL }
    };
    let zero_byte = |crc: u64| (0..8).fold(crc, |crc, _| shift(crc));
    array::from_fn(|zeros| array::from_fn(|byte| (0..=zeros).fold(byte as u64, |crc, _| zero_byte(crc))))
});

/// Returns the checksum after `bytes`, continuing from `crc`, which is 0 before the first byte.
fn crc64(crc: u64, bytes: &[u8]) -> u64 {
    let tables = &*CRC64_TABLES;
    let entry = |table: &[u64; 256], byte: u8| table.get(usize::from(byte)).copied().unwrap_or(0);
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut crc = !crc;
    for eight in eights {
        let mixed = (crc ^ u64::from_le_bytes(*eight)).to_le_bytes();
        crc = mixed.iter().zip(tables.iter().rev()).fold(0, |sum, (&byte, table)| sum ^ entry(table, byte));
    }
    let [single, ..] = tables;
    for byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ entry(single, low ^ byte);
    }
    !crc
}
