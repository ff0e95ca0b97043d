//! The format of uncompressed streams: every offset is a boundary.

use super::formats::{Boundaries, Format, FormatDecoder};
use super::input::Input;
use super::{Quota, Step};
use crate::error::StreamResult as Result;

pub(super) const FORMAT: Format = Format {
    name: "plain",
    magic: &[],
    media_type_suffixes: &[""],
    boundaries: Boundaries::Everywhere,
    decoder: |input, state| {
        input.check_start(state)?;
        Ok(Box::new(Plain))
    },
};

#[derive(Debug)]
struct Plain;

impl FormatDecoder for Plain {
    /// Copies buffered bytes, at most `quota.limit`.
    fn step(&mut self, input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
        let chunk = input.fill()?;
        let chunk = chunk.get(..quota.limit).unwrap_or(chunk);
        out.extend_from_slice(chunk);
        let len_bytes = chunk.len();
        input.consume(len_bytes);
        // A boundary must have more data after it, so the next chunk is read here.
        if input.fill()?.is_empty() { Ok(Step::End) } else { Ok(Step::Boundary) }
    }
}
