//! Requests for bytes of a remote source: a span needs one bounded request.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::super::{Checkpoint, DecoderMemory, Seekable};
use super::streams::{LARGE, Sample};
use super::{Compression, decode_with_checkpoints, decoder};
use crate::read_at::ReadAt;

/// Records every request. A stream counts as one request, whatever the number of reads.
#[derive(Debug)]
struct Remote {
    bytes: Arc<Vec<u8>>,
    requests: Mutex<Vec<Range<u64>>>,
}

impl ReadAt for Remote {
    fn len(&self) -> u64 {
        ReadAt::len(&*self.bytes)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.requests.lock().unwrap().push(offset..offset + buf.len() as u64);
        self.bytes.read_exact_at(buf, offset)
    }

    fn stream(self: Arc<Self>, range: Range<u64>) -> Box<dyn Read + Send> {
        self.requests.lock().unwrap().push(range.clone());
        Arc::clone(&self.bytes).stream(range)
    }
}

fn remote(sample: &Sample, checkpoints: &[Checkpoint]) -> (Arc<Remote>, Seekable) {
    let bytes = Arc::new(sample.bytes.clone());
    let remote = Arc::new(Remote { bytes, requests: Mutex::default() });
    let len_bytes = sample.data.len() as u64;
    let table = Arc::new(checkpoints.to_vec());
    let seekable =
        Seekable::new(remote.clone(), sample.compression, len_bytes, table, DecoderMemory::alone());
    (remote, seekable)
}

/// Returns where spans begin and end, with the compressed offsets there. The last span ends with the stream.
fn spans(sample: &Sample, checkpoints: &[Checkpoint]) -> Vec<(Range<u64>, Range<u64>)> {
    let starts =
        checkpoints.iter().map(|checkpoint| (checkpoint.output_offset, checkpoint.compressed_offset));
    let starts: Vec<_> = starts.chain([(sample.data.len() as u64, sample.bytes.len() as u64)]).collect();
    let spans = starts.windows(2).map(|pair| (pair[0].0..pair[1].0, pair[0].1..pair[1].1));
    // If the data ends at a checkpoint, no span follows.
    spans.filter(|(output, _)| !output.is_empty()).collect()
}

fn compressed() -> impl Iterator<Item = (&'static Sample, Vec<Checkpoint>)> {
    let samples = LARGE.iter().filter(|sample| sample.compression != Compression::Plain);
    samples.map(|sample| {
        (sample, decode_with_checkpoints(decoder(sample.compression, &sample.bytes), 100_000).1)
    })
}

#[test]
fn a_span_is_one_request_up_to_the_next_checkpoint() {
    for (sample, checkpoints) in compressed() {
        for (output, stored) in spans(sample, &checkpoints) {
            let (remote, seekable) = remote(sample, &checkpoints);
            let mut read = Vec::new();
            let len_bytes = usize::try_from(output.end - output.start).unwrap();
            seekable.append_exact(&mut read, output.start, len_bytes).unwrap();
            // A deflate checkpoint may be inside the byte at its offset.
            let end = (stored.end + 1).min(sample.bytes.len() as u64);
            let requests = remote.requests.lock().unwrap();
            let whole = stored.start..end;
            assert_eq!(*requests, std::slice::from_ref(&whole), "{} at {output:?}", sample.name);
        }
    }
}

#[test]
fn spans_read_one_after_the_other_are_one_request_each_and_no_byte_is_requested_twice() {
    for (sample, checkpoints) in compressed() {
        let (remote, seekable) = remote(sample, &checkpoints);
        let spans = spans(sample, &checkpoints);
        let mut read = Vec::new();
        for (output, _) in &spans {
            let len_bytes = usize::try_from(output.end - output.start).unwrap();
            seekable.append_exact(&mut read, output.start, len_bytes).unwrap();
        }
        assert!(read == sample.data, "{}", sample.name);
        let requests = remote.requests.lock().unwrap();
        assert!(requests.len() <= spans.len(), "{}: {requests:?} for {spans:?}", sample.name);
        let follows = |pair: &[Range<u64>]| pair[0].end == pair[1].start;
        assert!(requests.windows(2).all(follows), "{}: {requests:?}", sample.name);
    }
}

#[test]
fn part_of_a_span_costs_no_more_requests_than_the_span() {
    for (sample, checkpoints) in compressed() {
        let (remote, seekable) = remote(sample, &checkpoints);
        let (last, _) = spans(sample, &checkpoints).pop().unwrap();
        let offset = last.start + (last.end - last.start) / 2;
        seekable.read_exact_at(&mut [0; 10], offset).unwrap();
        seekable.read_exact_at(&mut [0; 10], offset + 10).unwrap();
        assert_eq!(remote.requests.lock().unwrap().len(), 1, "{}", sample.name);
    }
}

/// A decoder that needs more bytes than the table states gets them: here the table belongs to other bytes.
#[test]
fn a_wrong_table_costs_requests_and_not_the_answer() {
    let (sample, mut checkpoints) = compressed().find(|(sample, _)| sample.name.contains("gzip")).unwrap();
    checkpoints.truncate(2);
    let span = usize::try_from(checkpoints[1].output_offset).unwrap();
    checkpoints[1].compressed_offset /= 2;
    let (remote, seekable) = remote(sample, &checkpoints);
    let mut read = Vec::new();
    seekable.append_exact(&mut read, 0, span).unwrap();
    assert!(read == sample.data[..span]);
    assert!(remote.requests.lock().unwrap().len() > 1);
}
