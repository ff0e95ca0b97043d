//! A header scan: reads the entries of an uncompressed tar without its contents.
//!
//! This module owns the choice between reading and seeking. A scan reads headers, seeks past contents and
//! computes no hashes, so it takes milliseconds for a tar of any size. It is used for archives that hold
//! layers, and for uncompressed layers under `--verify off`; the index of such a layer has spans without
//! hashes and is never stored.

use super::index::{Indexed, Request};
use super::pass::{BuilderSink, SPAN_BYTES};
use super::table::LayerFacts;
use super::tar::{Sink, TarParser};
use super::windows::Windows;
use crate::compress::Compression;
use crate::error::{Result, StreamFault, StreamResult};
use crate::limits::Limits;
use crate::read_at::ReadAt;
use crate::warning::WarningKind;

/// Indexes `request.bytes`, a plain tar, by scanning its headers.
pub(super) fn scan_headers(request: &Request<'_>) -> Result<Indexed> {
    let mut sink = BuilderSink::default();
    let scanned = scan(&*request.bytes, request.limits, &mut sink);
    match scanned {
        Err(fault @ StreamFault::Limit { .. }) => return Err(fault.of(request.what)),
        Err(damage) => {
            log::warn!("{}: damaged; showing only the entries before the damage: {damage}", request.what);
            sink.builder.push_warning(WarningKind::Damaged, b"");
        }
        Ok(()) => {}
    }
    let tar_bytes = request.bytes.len();
    for offset in (0..tar_bytes).step_by(SPAN_BYTES) {
        sink.builder.push_span(offset, None, None);
    }
    (request.progress)(tar_bytes);
    let facts = LayerFacts {
        diff_id: None,
        blob_digest: None,
        blob_bytes: tar_bytes,
        compression: Compression::Plain,
        tar_bytes,
        copy_bytes: 0,
    };
    Ok(Indexed {
        index: sink.builder.finish(facts),
        windows: Windows::Memory(Vec::new()),
        copy: None,
        is_complete: true,
    })
}

/// Passes every entry of the tar in `bytes` to `sink`.
///
/// # Errors
/// [`StreamFault::Tar`] where the tar is damaged or truncated, [`StreamFault::Limit`], [`StreamFault::Io`],
/// and the errors of `sink`.
pub(crate) fn scan(bytes: &dyn ReadAt, limits: Limits, sink: &mut impl Sink) -> StreamResult<()> {
    let mut parser = TarParser::new(limits);
    let probe_bytes = bytes.probe_bytes();
    let mut buffer = vec![0; probe_bytes];
    while parser.offset() < bytes.len() && !parser.at_end() {
        let left = bytes.len() - parser.offset();
        let skippable = parser.skippable().min(left);
        if skippable >= probe_bytes as u64 {
            parser.skip(skippable)?;
            continue;
        }
        let len = usize::try_from(left).map_or(probe_bytes, |left| left.min(probe_bytes));
        let chunk = buffer.get_mut(..len).unwrap_or_default();
        bytes
            .read_exact_at(chunk, parser.offset())
            .map_err(|cause| StreamFault::io_at("cannot read", parser.offset(), cause))?;
        parser.feed(chunk, sink)?;
    }
    parser.finish(sink)
}
