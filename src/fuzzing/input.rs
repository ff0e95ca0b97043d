//! The form of inputs: parts with a length before each, and choices that bytes make.

/// Most parts of an input; more are ignored, so that an input of empty parts costs little.
const MOST_PARTS: usize = 200;

/// Splits an input into its parts: each has its length before it, as a little-endian `u32`. Every input has
/// parts: a length that is too large takes the rest.
pub(crate) fn split(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<4>() {
        if parts.len() == MOST_PARTS {
            break;
        }
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let (part, after) = rest.split_at(len.min(rest.len()));
        parts.push(part);
        data = after;
    }
    parts
}

/// Joins parts to an input; the reverse of [`split`].
pub(crate) fn join<T: AsRef<[u8]>>(parts: &[T]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in parts {
        let part = part.as_ref();
        data.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        data.extend_from_slice(part);
    }
    data
}

/// Choices that the bytes of an input make, one byte each; 0 when none are left.
#[derive(Debug, Clone)]
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Choices(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the next byte.
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Returns a number below `end`, which is from 1 to 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Returns a number of two bytes.
    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn pick<'b, T>(&mut self, from: &'b [T]) -> &'b T {
        let at = self.below(from.len());
        &from[at]
    }
}
