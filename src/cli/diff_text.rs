//! Compares text files line by line and prints the changes in the format of `diff -u`.
//!
//! This module owns which files count as text, how large they may be, and the time limits of the search
//! for a short difference. After the limit, the difference is still correct, but may be longer than
//! necessary.

use std::io::{self, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use similar::{Algorithm, DiffOp, capture_diff_slices_deadline, group_diff_ops};

use super::output::visible;
use imgmount::{Image, InodeId, escape};

/// Size limit of a file that is compared line by line, in bytes.
pub(crate) const MAX_TEXT_BYTES: u64 = 1 << 20;
/// Time limit of a comparison. Ordinary texts take milliseconds; two texts with nothing in common could
/// take minutes.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time limit of all comparisons of one command. An image of some megabytes can hold hundreds of such texts.
const TOTAL_PATIENCE: Duration = Duration::from_secs(10);
/// Time that every comparison may take, even after the limit for all: enough for ordinary texts.
const LEAST_PATIENCE: Duration = Duration::from_millis(10);
/// Number of lines shown around each change.
const CONTEXT_LINES: usize = 3;

/// The time that is left for the comparisons of one command.
#[derive(Debug)]
pub(crate) struct SearchTime {
    left: Duration,
}

impl Default for SearchTime {
    fn default() -> Self {
        SearchTime { left: TOTAL_PATIENCE }
    }
}

impl SearchTime {
    /// Returns how long the next comparison may search.
    fn next(&self) -> Duration {
        self.left.clamp(LEAST_PATIENCE, PATIENCE)
    }

    /// Counts the time that a comparison took.
    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

/// The result of comparing two files as text.
pub(crate) enum TextDiff {
    Hunks(Vec<Hunk>),
    /// One of the files is not text.
    Binary,
    /// One of the files is larger than [`MAX_TEXT_BYTES`].
    TooLarge,
}

/// A group of changes that are close together.
pub(crate) struct Hunk {
    /// The position: `@@ -1,2 +1,3 @@`.
    pub(crate) header: String,
    pub(crate) lines: Vec<Line>,
}

/// A line of one file or of both.
pub(crate) struct Line {
    /// A space, `-` or `+`.
    pub(crate) sign: char,
    /// The line with its newline, if it has one.
    pub(crate) bytes: Vec<u8>,
}

/// A regular file of an image.
pub(crate) type TextFile<'a> = (&'a Image, InodeId);

/// Compares two files. The search for a short difference takes its time from `time`.
pub(crate) fn text_diff(a: TextFile<'_>, b: TextFile<'_>, time: &mut SearchTime) -> Result<TextDiff> {
    if size(a).max(size(b)) > MAX_TEXT_BYTES {
        return Ok(TextDiff::TooLarge);
    }
    let (a, b) = (read(a)?, read(b)?);
    if a.contains(&0) || b.contains(&0) {
        return Ok(TextDiff::Binary);
    }
    Ok(TextDiff::Hunks(hunks(&a, &b, time)))
}

fn size((image, id): TextFile<'_>) -> u64 {
    image.inode(id).map_or(0, |inode| inode.size())
}

fn read(file: TextFile<'_>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(size(file))?];
    let (image, id) = file;
    let len = image.read_at(id, &mut bytes, 0)?;
    bytes.truncate(len);
    Ok(bytes)
}

fn hunks(a: &[u8], b: &[u8], time: &mut SearchTime) -> Vec<Hunk> {
    let (a, b) = (lines(a), lines(b));
    let start = Instant::now();
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &a, &b, start.checked_add(time.next()));
    time.spend(start.elapsed());
    group_diff_ops(ops, CONTEXT_LINES).iter().map(|group| hunk(group, &a, &b)).collect()
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

fn hunk(ops: &[DiffOp], a: &[&[u8]], b: &[&[u8]]) -> Hunk {
    let mut lines = Vec::new();
    let mut push = |sign: char, from: &[&[u8]], range: Range<usize>| {
        let found = from.get(range).unwrap_or_default();
        lines.extend(found.iter().map(|bytes| Line { sign, bytes: bytes.to_vec() }));
    };
    for op in ops {
        match op {
            DiffOp::Equal { .. } => push(' ', a, op.old_range()),
            _ => {
                push('-', a, op.old_range());
                push('+', b, op.new_range());
            }
        }
    }
    let whole = |range: fn(&DiffOp) -> Range<usize>| {
        let start = ops.first().map_or(0, |op| range(op).start);
        let end = ops.last().map_or(0, |op| range(op).end);
        place(start, end.saturating_sub(start))
    };
    let header = format!("@@ -{} +{} @@", whole(DiffOp::old_range), whole(DiffOp::new_range));
    Hunk { header, lines }
}

/// Formats a range of lines as POSIX diff does: counted from 1; an empty range is the line before it; a
/// length of 1 is left out.
fn place(start: usize, len: usize) -> String {
    match len {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        _ => format!("{},{len}", start + 1),
    }
}

/// Prints a difference in the format of patch(1). On a terminal, control characters are escaped.
pub(crate) fn print(path: &[u8], diff: &TextDiff, to_terminal: bool, out: &mut impl Write) -> io::Result<()> {
    let path = escape(path);
    let hunks = match diff {
        TextDiff::Hunks(hunks) => hunks,
        TextDiff::Binary => return writeln!(out, "Binary files a{path} and b{path} differ"),
        TextDiff::TooLarge => {
            return writeln!(out, "Files a{path} and b{path} differ, and are too large to compare by lines");
        }
    };
    writeln!(out, "--- a{path}\n+++ b{path}")?;
    for hunk in hunks {
        writeln!(out, "{}", hunk.header)?;
        for Line { sign, bytes } in &hunk.lines {
            let (text, newline) = match bytes.strip_suffix(b"\n") {
                Some(text) => (text, "\n"),
                None => (bytes.as_slice(), "\n\\ No newline at end of file\n"),
            };
            write!(out, "{sign}")?;
            if to_terminal {
                out.write_all(visible(text).as_bytes())?;
            } else {
                out.write_all(text)?;
            }
            out.write_all(newline.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(a: &[u8], b: &[u8], to_terminal: bool) -> String {
        let mut out = Vec::new();
        print(b"/f", &TextDiff::Hunks(hunks(a, b, &mut SearchTime::default())), to_terminal, &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn changes_far_apart_are_hunks_of_their_own() {
        let a: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let b = a.replace("2\n3\n", "2\nthree\n").replace("19\n", "");
        let expected = "--- a/f\n+++ b/f\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n\
            @@ -16,5 +16,4 @@\n 16\n 17\n 18\n-19\n 20\n";
        assert_eq!(printed(a.as_bytes(), b.as_bytes(), false), expected);
    }

    #[test]
    fn ranges_of_no_line_and_of_one_are_written_as_posix_has_it() {
        assert_eq!(printed(b"", b"1\n", false), "--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+1\n");
    }

    #[test]
    fn a_missing_newline_is_told() {
        let expected = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-1\n\\ No newline at end of file\n+1\n";
        assert_eq!(printed(b"1", b"1\n", false), expected);
    }

    #[test]
    fn only_a_terminal_is_spared_what_could_harm_it() {
        assert!(printed(b"", b"\x1b[31m\tC:\\x\n", false).contains("+\x1b[31m\tC:\\x\n"));
        assert!(printed(b"", b"\x1b[31m\tC:\\x\n", true).contains("+\\x1b[31m\tC:\\x\n"));
    }

    #[test]
    fn texts_with_nothing_in_common_take_no_longer_than_patience() {
        let text = |parity: usize| -> Vec<u8> {
            (0..150_000).flat_map(|line| format!("{}\n", line * 2 + parity).into_bytes()).collect()
        };
        let (a, b) = (text(0), text(1));
        let start = Instant::now();
        let mut time = SearchTime::default();
        let found = hunks(&a, &b, &mut time);
        assert!(start.elapsed() < PATIENCE * 20, "{:?}", start.elapsed());
        let count = |sign| found.iter().flat_map(|hunk| &hunk.lines).filter(|line| line.sign == sign).count();
        assert_eq!((count('-'), count('+')), (150_000, 150_000));
        assert!(time.left < TOTAL_PATIENCE, "the time that was taken is counted");
    }

    /// 200 pairs of texts with nothing in common, in an image of a few megabytes, took a second each.
    #[test]
    fn all_comparisons_of_a_command_share_their_time() {
        let mut time = SearchTime::default();
        let most: Duration = (0..1000)
            .map(|_| {
                let taken = time.next();
                time.spend(taken);
                taken
            })
            .sum();
        assert_eq!(most, TOTAL_PATIENCE + LEAST_PATIENCE * 990);
        assert_eq!(hunks(b"1\n2\n", b"1\n3\n", &mut time).len(), 1);
    }
}
