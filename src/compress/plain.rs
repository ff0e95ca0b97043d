//! No compression: every offset is a boundary.

use super::input::Input;
use super::{Quota, Step};
use crate::error::StreamResult as Result;

/// Copies bytes at hand, at most `quota.limit` of them.
pub(super) fn step(input: &mut Input, out: &mut Vec<u8>, quota: Quota) -> Result<Step> {
    let chunk = input.fill()?;
    let chunk = chunk.get(..quota.limit).unwrap_or(chunk);
    out.extend_from_slice(chunk);
    let len_bytes = chunk.len();
    input.consume(len_bytes);
    // Looking ahead: a boundary is only one when something follows.
    if input.fill()?.is_empty() { Ok(Step::End) } else { Ok(Step::Boundary) }
}
