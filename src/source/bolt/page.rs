//! One page of a database: its elements, checked as a whole.
//!
//! This module reads bytes. It must not know other pages.

use super::MAX_KEY_BYTES;

/// Length of the header of a page, of an element and of a bucket in bytes.
pub(super) const HEADER_BYTES: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
/// The flag of a leaf's element whose value is a bucket.
const BUCKET: u32 = 0x01;

/// The kinds of page that hold keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keys with pages below.
    Branch,
    /// Keys with values.
    Leaf,
}

/// The header of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) id: u64,
    flags: u16,
    count: u16,
    /// Number of pages that follow and belong to this one.
    pub(super) overflow: u32,
}

/// A page whose elements lie within it, in order, without overlap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    kind: Kind,
    len: usize,
    bytes: &'a [u8],
    /// Offset of the page in the database, in bytes.
    offset: usize,
}

/// An element of a leaf.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'a> {
    pub(super) is_bucket: bool,
    pub(super) value: &'a [u8],
    /// Offset of the value in the database, in bytes.
    pub(super) offset: usize,
}

/// The parts of an element, as offsets in its page.
struct Element {
    start: usize,
    value: usize,
    end: usize,
}

/// Returns the header of the page at the start of `bytes`.
pub(super) fn header(bytes: &[u8]) -> Option<Header> {
    Some(Header {
        id: u64_at(bytes, 0)?,
        flags: u16_at(bytes, 8)?,
        count: u16_at(bytes, 10)?,
        overflow: u32_at(bytes, 12)?,
    })
}

impl<'a> Page<'a> {
    /// Checks the page `bytes` at `offset` of the database.
    ///
    /// # Errors
    /// What is wrong, as the rest of a sentence about the page.
    pub(super) fn parse(bytes: &'a [u8], offset: usize) -> Result<Self, String> {
        let header = header(bytes).ok_or("has no header")?;
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            flags => return Err(format!("has the type {flags:#x}, neither branch nor leaf")),
        };
        let page = Page { kind, len: usize::from(header.count), bytes, offset };
        if kind == Kind::Branch && page.len == 0 {
            return Err("is an empty branch".to_owned());
        }
        page.check_elements()?;
        Ok(page)
    }

    fn check_elements(&self) -> Result<(), String> {
        let mut free = element_offset(self.len).ok_or("has too many elements")?;
        let mut before: Option<&[u8]> = None;
        for at in 0..self.len {
            let element = self.element(at).filter(|element| element.end <= self.bytes.len());
            let element = element.ok_or_else(|| format!("has an element {at} outside of the page"))?;
            let key = self.bytes.get(element.start..element.value).unwrap_or_default();
            if element.start < free {
                return Err(format!("has elements that overlap, at element {at}"));
            }
            if key.len() > MAX_KEY_BYTES {
                return Err(format!(
                    "has a key of {} bytes, above MAX_KEY_BYTES ({MAX_KEY_BYTES})",
                    key.len()
                ));
            }
            if before.is_some_and(|before| before >= key) {
                return Err(format!("has keys out of order, at element {at}"));
            }
            (free, before) = (element.end, Some(key));
        }
        Ok(())
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the number of elements.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the offset of the page in the database, in bytes.
    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the key of element `at`.
    pub(super) fn key(&self, at: usize) -> Option<&'a [u8]> {
        let element = self.element(at)?;
        self.bytes.get(element.start..element.value)
    }

    /// Returns the position of `key`, or else the position at which it would be.
    pub(super) fn position(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle).unwrap_or_default().cmp(key) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle.saturating_add(1),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Returns the page below element `at` of a branch, and the offset of the element in the database.
    pub(super) fn child(&self, at: usize) -> Option<(u64, usize)> {
        let start = element_offset(at).filter(|_| at < self.len && self.kind == Kind::Branch)?;
        Some((u64_at(self.bytes, start.checked_add(8)?)?, self.offset.checked_add(start)?))
    }

    /// Returns element `at` of a leaf.
    pub(super) fn leaf(&self, at: usize) -> Option<Leaf<'a>> {
        let element = self.element(at).filter(|_| self.kind == Kind::Leaf)?;
        Some(Leaf {
            is_bucket: u32_at(self.bytes, element_offset(at)?)? & BUCKET != 0,
            value: self.bytes.get(element.value..element.end)?,
            offset: self.offset.checked_add(element.value)?,
        })
    }

    fn element(&self, at: usize) -> Option<Element> {
        let offset = element_offset(at).filter(|_| at < self.len)?;
        let field = |number: usize| {
            let value = u32_at(self.bytes, offset.checked_add(number.checked_mul(4)?)?)?;
            usize::try_from(value).ok()
        };
        let (position, key_len, value_len) = match self.kind {
            Kind::Branch => (field(0)?, field(1)?, 0),
            Kind::Leaf => (field(1)?, field(2)?, field(3)?),
        };
        let start = offset.checked_add(position)?;
        let value = start.checked_add(key_len)?;
        Some(Element { start, value, end: value.checked_add(value_len)? })
    }
}

/// Returns the offset of element `at` in its page, in bytes.
fn element_offset(at: usize) -> Option<usize> {
    at.checked_mul(HEADER_BYTES)?.checked_add(HEADER_BYTES)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}
