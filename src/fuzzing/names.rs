//! Names and patterns: references, globs, paths, platforms and digests.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::digest::Digest;
use crate::glob::Glob;
use crate::image::Platform;
use crate::path::{clean, escape, normalize_path};
use crate::source::{Location, Reference, split_path};

pub(super) fn run(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 => references(data, choice & 0x80 != 0),
        1 => globs(data),
        2 => paths(data),
        _ => texts(data),
    }
}

fn references(data: &[u8], exists: bool) {
    let text = OsStr::from_bytes(data);
    let image = data.len().is_multiple_of(3).then_some("name:tag");
    if let Ok(reference) = Reference::parse_where(text, image, &|_| exists) {
        let is_empty = matches!(&reference.location, Location::Path(path) if path.as_os_str().is_empty());
        let names_only = reference
            .transport
            .is_some_and(|transport| transport.name() == "docker-daemon" || transport.name() == "docker");
        assert!(!is_empty || names_only, "{reference:?}");
        // The selection is text that selects the same.
        assert!(reference.selection.to_string().len() <= data.len() + 8, "{reference:?}");
    }
    let (image, path) = split_path(text);
    if let Some(path) = path {
        assert_eq!([image.as_bytes(), b":", &path[..]].concat(), data);
        assert!(path.starts_with(b"/"));
    } else {
        assert_eq!(image.as_bytes(), data);
    }
}

fn paths(data: &[u8]) {
    let text = escape(data);
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert_eq!(unescape(&text), data, "two names look the same");
    let normal = normalize_path(data);
    assert_eq!(normalize_path(&normal), normal);
    let parts = clean(data).components;
    assert!(parts.iter().all(|part| !matches!(part, &(b"" | b"." | b".."))), "{parts:?}");
    assert_eq!([b"/", parts.join(&b'/').as_slice()].concat(), normal);
}

/// Reverses [`escape`].
fn unescape(text: &str) -> Vec<u8> {
    let mut name = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [b'\\', b'\\', rest @ ..] => {
                name.push(b'\\');
                rest
            }
            [b'\\', b'x', high, low, rest @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap();
                name.push(u8::from_str_radix(digits, 16).unwrap());
                rest
            }
            [byte, rest @ ..] => {
                name.push(*byte);
                rest
            }
            [] => return name,
        };
    }
}

fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        let shown = platform.to_string();
        assert!(!shown.chars().any(char::is_control), "{shown:?}");
    }
}

/// The pattern and the path are separated by a NUL.
fn globs(data: &[u8]) {
    let (pattern, path) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, data),
    };
    // The simple matcher takes exponential time.
    if pattern.iter().filter(|byte| **byte == b'*').count() > 4 || path.len() > 24 {
        let _ = Glob::new(pattern).matches(path);
        return;
    }
    let matches = Glob::new(pattern).matches(path);
    assert_eq!(matches, simple_match(pattern, path), "{} on {}", escape(pattern), escape(path));
}

/// Matches by trying everything.
fn simple_match(pattern: &[u8], path: &[u8]) -> bool {
    let split = |text: &[u8]| -> Vec<Vec<u32>> {
        text.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(letters).collect()
    };
    let mut parts = split(pattern);
    if !pattern.contains(&b'/') {
        parts.insert(0, letters(b"**"));
    }
    components(&parts, &split(path))
}

fn components(parts: &[Vec<u32>], names: &[Vec<u32>]) -> bool {
    match (parts, names) {
        ([], names) => names.is_empty(),
        ([part, rest @ ..], names) if *part == letters(b"**") => {
            (0..=names.len()).any(|skipped| components(rest, &names[skipped..]))
        }
        ([part, parts @ ..], [name, names @ ..]) => component(part, name) && components(parts, names),
        _ => false,
    }
}

const STAR: u32 = '*' as u32;
const ONE: u32 = '?' as u32;
const ESCAPE: u32 = '\\' as u32;
const OPEN: u32 = '[' as u32;

fn component(pattern: &[u32], name: &[u32]) -> bool {
    match pattern {
        [] => name.is_empty(),
        [STAR, rest @ ..] => (0..=name.len()).any(|skipped| component(rest, &name[skipped..])),
        [ONE, rest @ ..] => !name.is_empty() && component(rest, &name[1..]),
        [ESCAPE, literal, rest @ ..] => name.first() == Some(literal) && component(rest, &name[1..]),
        [OPEN, rest @ ..] => match set(rest) {
            Some((holds, rest)) => {
                name.first().is_some_and(|letter| holds(*letter)) && component(rest, &name[1..])
            }
            None => name.first() == Some(&OPEN) && component(rest, &name[1..]),
        },
        [literal, rest @ ..] => name.first() == Some(literal) && component(rest, &name[1..]),
    }
}

type Holds = Box<dyn Fn(u32) -> bool>;

/// Returns the set after a `[`, and the rest of the pattern.
fn set(pattern: &[u32]) -> Option<(Holds, &[u32])> {
    let negated = pattern.first().is_some_and(|first| [u32::from('!'), u32::from('^')].contains(first));
    let mut at = usize::from(negated);
    let mut ranges = Vec::new();
    loop {
        let letter = *pattern.get(at)?;
        if letter == u32::from(']') && !ranges.is_empty() {
            let holds = move |letter: u32| {
                ranges.iter().any(|(low, high): &(u32, u32)| *low <= letter && letter <= *high) != negated
            };
            return Some((Box::new(holds), &pattern[at + 1..]));
        }
        let is_range = pattern.get(at + 1) == Some(&u32::from('-'))
            && pattern.get(at + 2).is_some_and(|high| *high != u32::from(']'));
        ranges.push((letter, if is_range { pattern[at + 2] } else { letter }));
        at += if is_range { 3 } else { 1 };
    }
}

/// Returns the characters of a text; bytes that are not UTF-8 count one each.
fn letters(text: &[u8]) -> Vec<u32> {
    let mut letters = Vec::new();
    for chunk in text.utf8_chunks() {
        letters.extend(chunk.valid().chars().map(u32::from));
        letters.extend(chunk.invalid().iter().map(|byte| 0x11_0000 + u32::from(*byte)));
    }
    letters
}
