//! Names as tar archives write them, cleaned into components. Names are bytes, never `String`.
//!
//! This module owns the meaning of `..`, `.`, repeated and leading slashes (docs/semantics.md N9 to N11), the
//! maximum length of a name, and how a name is printed on a terminal. It must not know any tree: cleaning is
//! lexical, so it makes no difference whether `a` in `a/../b` exists or is a symbolic link.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The maximum length of a component in a file system, in bytes (`NAME_MAX` in Linux's `limits.h`).
pub(crate) const MAX_COMPONENT_BYTES: usize = 255;

/// The maximum length of a path in a view, in bytes: `PATH_MAX` in Linux's `limits.h`. It also limits the
/// depth of a tree.
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// The maximum length of a symbolic link target, in bytes: `PATH_MAX` without its terminating NUL.
pub(crate) const MAX_LINK_TARGET_BYTES: usize = 4095;

/// A name split into the components from the root to the named file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cleaned<'a> {
    /// The components from the root, without `.`, `..` and empty parts. An empty list is the root itself.
    pub components: Vec<&'a [u8]>,
    /// True if the name leads out of the root with `..`, and was kept inside (docs/semantics.md N10).
    pub escaped: bool,
}

/// Cleans `name` lexically: `/a`, `./a`, `b/../a` and `a//` all become `a`; `..` stops at the root.
#[must_use]
pub(crate) fn clean(name: &[u8]) -> Cleaned<'_> {
    let mut components = Vec::new();
    let mut escaped = false;
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => escaped |= components.pop().is_none(),
            _ => components.push(part),
        }
    }
    Cleaned { components, escaped }
}

/// Returns the shortest absolute spelling of `path`: `b//./c/` and `/a/../b/c` become `/b/c`. Symbolic links
/// are not resolved.
#[must_use]
pub fn normalize_path(path: &[u8]) -> Vec<u8> {
    [b"/", clean(path).components.join(&b'/').as_slice()].concat()
}

/// Returns `name` as text that is safe to print: one line, without terminal controls or invisible characters.
///
/// Printable UTF-8 is kept. Control characters, bytes that are not UTF-8, and characters that a terminal does
/// not show or that reorder their neighbours become `\xNN` for each byte. A backslash becomes `\\`, so
/// different names always have different texts.
#[must_use]
pub fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                text.push_str("\\\\");
            } else if c.is_control() || is_invisible(c) {
                push_hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// Returns the path of a file of the host as text that is safe to print, as [`escape`].
#[must_use]
pub fn escape_path(path: impl AsRef<Path>) -> String {
    escape(path.as_ref().as_os_str().as_bytes())
}

/// Returns whether `c` has no glyph of its own: Unicode's format characters (category Cf: zero width,
/// direction overrides, tags), its line separators, and the blank letters used to fake names.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(name: &[u8]) -> String {
        escape(&clean(name).components.join(&b'/'))
    }

    #[test]
    fn n9_spellings_of_one_name_are_one_name() {
        for spelling in ["a/b", "/a/b", "./a/b", "a//b", "a/./b", "a/x/../b", "//a/b/", "x/../a/y/../b/."] {
            assert_eq!(joined(spelling.as_bytes()), "a/b", "{spelling}");
            assert!(!clean(spelling.as_bytes()).escaped, "{spelling}");
        }
    }

    #[test]
    fn n10_climbing_out_of_the_root_is_held_there_and_told() {
        for climbing in ["../x", "/../../x", "a/../../x", "../a/../x"] {
            assert_eq!(joined(climbing.as_bytes()), "x", "{climbing}");
            assert!(clean(climbing.as_bytes()).escaped, "{climbing}");
        }
    }

    #[test]
    fn n11_the_root_has_no_components() {
        for root in ["", ".", "/", "./", "a/..", "././/"] {
            assert!(clean(root.as_bytes()).components.is_empty(), "{root}");
        }
    }

    #[test]
    fn names_that_only_look_like_dots_are_names() {
        assert_eq!(clean(b".../..a/.b").components, [&b"..."[..], b"..a", b".b"]);
    }

    #[test]
    fn n14_bytes_that_are_no_utf8_are_kept() {
        assert_eq!(clean(b"\xff\xfe/\x80").components, [&b"\xff\xfe"[..], b"\x80"]);
    }

    #[test]
    fn x19_terminal_control_is_written_out() {
        assert_eq!(escape(b"\x1b]0;title\x07"), "\\x1b]0;title\\x07");
        assert_eq!(escape(b"a\nb\r\t\x7f\0"), "a\\x0ab\\x0d\\x09\\x7f\\x00");
        assert_eq!(escape("c1 \u{9b}31m".as_bytes()), "c1 \\xc2\\x9b31m");
        assert_eq!(escape(b"\xff\xc3("), "\\xff\\xc3(");
    }

    #[test]
    fn x19_invisible_and_reordering_characters_are_written_out() {
        assert_eq!(escape("a\u{202e}txt.exe".as_bytes()), "a\\xe2\\x80\\xaetxt.exe");
        assert_eq!(escape("a\u{200b}b\u{feff}".as_bytes()), "a\\xe2\\x80\\x8bb\\xef\\xbb\\xbf");
    }

    #[test]
    fn x19_printable_names_stay_and_a_backslash_is_doubled() {
        assert_eq!(escape("Größe 日本 🦀 ~!'\"".as_bytes()), "Größe 日本 🦀 ~!'\"");
        assert_eq!(escape(b"a\\x1b"), "a\\\\x1b");
    }

    proptest! {
        #![proptest_config(crate::seed::config(256))]

        #[test]
        fn x19_no_two_names_look_the_same(a in ".{0,6}|[\\\\x0-9a-f]{0,6}", b in ".{0,6}|[\\\\x0-9a-f]{0,6}") {
            prop_assert_eq!(escape(a.as_bytes()) == escape(b.as_bytes()), a == b);
        }

        #[test]
        fn x1_no_component_leads_anywhere_else(name in prop::collection::vec(prop::sample::select(b"./a".to_vec()), 0..24)) {
            for component in clean(&name).components {
                prop_assert!(!matches!(component, b"" | b"." | b".."));
                prop_assert!(!component.contains(&b'/'));
            }
        }
    }
}
