//! Shell patterns for paths, as bytes.
//!
//! | | matches |
//! |---|---|
//! | `*` | any run of characters within a component, including none |
//! | `?` | one character: a UTF-8 sequence, or one byte that is not part of a UTF-8 sequence |
//! | `[abc]`, `[a-z]`, `[!a]`, `[^a]` | one character of (or not of) a set; without its `]`, a plain `[` |
//! | `\x` | x itself |
//! | `**` as a whole component | any number of components, including none |
//!
//! This module owns this grammar. A leading dot is an ordinary character, and only a slash ends a component.
//! The time to match is at most proportional to the length of the pattern times the length of the path,
//! because matching goes back to the last star only. This module does not know what callers do with matching
//! paths.

/// A pattern for whole paths.
///
/// A pattern without a slash matches the last component at any depth: `*.pyc` means `**/*.pyc`. Leading,
/// trailing and repeated slashes are ignored, as in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

/// The requirement for one component of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// `**`: any number of components.
    AnyDepth,
    /// Exactly this name.
    Name(Vec<u8>),
    /// A name that matches the pattern.
    Pattern(Pattern),
}

/// A pattern for one component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Star,
    One,
    Literal(Letter),
    Set { negated: bool, ranges: Vec<(Letter, Letter)> },
}

/// A character, or a byte that is not part of a UTF-8 sequence. The numbers of such bytes are above those of
/// all characters.
type Letter = u32;

/// Returns whether `text` contains a character that is special in a pattern: `*`, `?`, `[` or `\`.
#[must_use]
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'))
}

impl Glob {
    /// Parses a pattern. Every text is a valid pattern.
    #[must_use]
    pub fn new(pattern: &[u8]) -> Self {
        let names = pattern.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let mut parts: Vec<Part> = names.map(Part::new).collect();
        if !pattern.contains(&b'/') {
            parts.insert(0, Part::AnyDepth);
        }
        // `**/**` matches the same paths as `**` and is slower.
        parts.dedup_by(|a, b| matches!((a, b), (Part::AnyDepth, Part::AnyDepth)));
        Glob { parts }
    }

    /// Returns the requirements for the components, from the root.
    #[must_use]
    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns whether the pattern matches the whole of `path`.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        match_run(&self.parts, &names, |part| *part == Part::AnyDepth, |part, name| part.matches(name))
    }
}

impl Part {
    fn new(name: &[u8]) -> Self {
        match name {
            b"**" => Part::AnyDepth,
            name if is_pattern(name) => Part::Pattern(Pattern::new(name)),
            name => Part::Name(name.to_vec()),
        }
    }

    /// Returns whether one component satisfies this requirement.
    #[must_use]
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Part::AnyDepth => true,
            Part::Name(wanted) => wanted == name,
            Part::Pattern(pattern) => pattern.matches(name),
        }
    }
}

impl Pattern {
    /// Parses the pattern of one component.
    #[must_use]
    pub(crate) fn new(pattern: &[u8]) -> Self {
        let letters = letters(pattern);
        let mut tokens = Vec::new();
        let mut rest = letters.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let (token, left) = match char::from_u32(*first) {
                Some('*') => (Token::Star, after),
                Some('?') => (Token::One, after),
                Some('\\') => match after.split_first() {
                    Some((escaped, left)) => (Token::Literal(*escaped), left),
                    None => (Token::Literal(*first), after),
                },
                Some('[') => read_set(after).unwrap_or((Token::Literal(*first), after)),
                _ => (Token::Literal(*first), after),
            };
            tokens.push(token);
            rest = left;
        }
        Pattern(tokens)
    }

    /// Returns whether the pattern matches the whole of `name`.
    #[must_use]
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match_run(
            &self.0,
            &letters(name),
            |token| *token == Token::Star,
            |token, letter| match token {
                Token::Star | Token::One => true,
                Token::Literal(wanted) => wanted == letter,
                Token::Set { negated, ranges } => {
                    ranges.iter().any(|(low, high)| (low..=high).contains(&letter)) != *negated
                }
            },
        )
    }
}

/// Reads the set after a `[`, and returns the set and the text after its `]`; `None` if the set has no `]`.
fn read_set(after: &[Letter]) -> Option<(Token, &[Letter])> {
    const CLOSE: Letter = ']' as Letter;
    const DASH: Letter = '-' as Letter;
    let (negated, mut rest) = match after.split_first() {
        Some((first, rest)) if [u32::from('!'), u32::from('^')].contains(first) => (true, rest),
        _ => (false, after),
    };
    let mut ranges = Vec::new();
    loop {
        rest = match rest {
            // A `]` that comes first in a set is a member of the set.
            [CLOSE, left @ ..] if !ranges.is_empty() => return Some((Token::Set { negated, ranges }, left)),
            [low, DASH, high, left @ ..] if *high != CLOSE => {
                ranges.push((*low, *high));
                left
            }
            [letter, left @ ..] => {
                ranges.push((*letter, *letter));
                left
            }
            [] => return None,
        };
    }
}

fn letters(text: &[u8]) -> Vec<Letter> {
    let mut letters = Vec::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        letters.extend(chunk.valid().chars().map(u32::from));
        letters.extend(chunk.invalid().iter().map(|byte| u32::from(char::MAX) + 1 + u32::from(*byte)));
    }
    letters
}

/// Returns whether `wanted` matches all of `items`; an element for which `is_star` is true matches any number
/// of items. After a mismatch, the last star takes one more item. Going back to an earlier star cannot help,
/// because the last star can take every item that the earlier one could take in addition.
fn match_run<W, I>(
    wanted: &[W],
    items: &[I],
    is_star: impl Fn(&W) -> bool,
    fits: impl Fn(&W, &I) -> bool,
) -> bool {
    let (mut at, mut item) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        match (wanted.get(at), items.get(item)) {
            (Some(want), _) if is_star(want) => {
                star = Some((at, item));
                at += 1;
            }
            (Some(want), Some(found)) if fits(want, found) => {
                at += 1;
                item += 1;
            }
            (None, None) => return true,
            _ => match star {
                Some((star_at, taken)) if taken < items.len() => {
                    star = Some((star_at, taken + 1));
                    (at, item) = (star_at + 1, taken + 1);
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matching<'a>(pattern: &str, paths: &[&'a str]) -> Vec<&'a str> {
        let glob = Glob::new(pattern.as_bytes());
        paths.iter().copied().filter(|path| glob.matches(path.as_bytes())).collect()
    }

    #[test]
    fn a_star_stays_within_a_component() {
        let paths = ["/etc/a.conf", "/etc/.conf", "/etc/b.conf.d", "/etc/d/c.conf", "/etc"];
        assert_eq!(matching("/etc/*.conf", &paths), ["/etc/a.conf", "/etc/.conf"]);
        assert_eq!(matching("/*/*/*", &paths), ["/etc/d/c.conf"]);
    }

    #[test]
    fn two_stars_are_any_number_of_components() {
        let paths = ["/", "/a", "/a/b", "/a/x/b", "/a/x/y/b", "/b"];
        assert_eq!(matching("/a/**/b", &paths), ["/a/b", "/a/x/b", "/a/x/y/b"]);
        assert_eq!(matching("/a/**", &paths), ["/a", "/a/b", "/a/x/b", "/a/x/y/b"]);
        assert_eq!(matching("/**/**", &paths), paths);
        assert_eq!(matching("/a**/b", &paths), ["/a/b"]);
    }

    #[test]
    fn a_pattern_without_a_slash_is_about_the_last_component() {
        let paths = ["/a.pyc", "/lib/b.pyc", "/lib/b.py", "/c.pyc/d"];
        assert_eq!(matching("*.pyc", &paths), ["/a.pyc", "/lib/b.pyc"]);
        assert_eq!(matching("b.py", &paths), ["/lib/b.py"]);
    }

    #[test]
    fn slashes_count_as_in_a_path() {
        assert_eq!(matching("a/b/", &["/a/b", "a//b/", "/x/a/b"]), ["/a/b", "a//b/"]);
    }

    #[test]
    fn a_question_mark_is_one_character_or_one_stray_byte() {
        let glob = Glob::new(b"caf?");
        assert!(glob.matches("café".as_bytes()) && glob.matches(b"caf\xe9") && glob.matches(b"cafe"));
        assert!(!glob.matches(b"caf") && !glob.matches(b"cafes"));
    }

    #[test]
    fn sets_have_ranges_and_can_be_negated() {
        let names = ["a", "b", "z", "-", "]", "é"];
        for (pattern, expected) in [
            ("/[a-c]", vec!["a", "b"]),
            ("/[!a-c]", vec!["z", "-", "]", "é"]),
            ("/[^a-]", vec!["b", "z", "]", "é"]),
            ("/[]a]", vec!["a", "]"]),
            ("/[à-ï]", vec!["é"]),
        ] {
            assert_eq!(matching(pattern, &names), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_escaped_or_unfinished_is_itself() {
        assert_eq!(matching(r"/a\*b", &["a*b", "axb", r"a\*b"]), ["a*b"]);
        assert_eq!(matching("/[ab", &["[ab", "a"]), ["[ab"]);
        assert_eq!(matching("/[]", &["[]", "]"]), ["[]"]);
        assert_eq!(matching(r"/a\", &[r"a\"]), [r"a\"]);
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_others() {
        let pattern = format!("/{}b", "*a".repeat(200));
        assert!(!Glob::new(pattern.as_bytes()).matches("a".repeat(4000).as_bytes()));
    }

    /// Matches by definition, in exponential time.
    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((b'*', after)), rest) => {
                plainly(after, name) || rest.is_some_and(|(_, rest)| plainly(pattern, rest))
            }
            (Some((b'?', after)), Some((_, rest))) => plainly(after, rest),
            (Some((byte, after)), Some((first, rest))) => byte == first && plainly(after, rest),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(crate::seed::config(256))]

        #[test]
        fn stars_match_what_their_definition_says(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let found = Pattern::new(pattern.as_bytes()).matches(name.as_bytes());
            prop_assert_eq!(found, plainly(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
