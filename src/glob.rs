//! Patterns for paths, as a shell and gitignore(5) write them. Bytes, never `String`.
//!
//! | | |
//! |---|---|
//! | `?` | one byte, not `/` |
//! | `*` | any bytes, not `/` |
//! | `**` | any bytes |
//! | `[a-z]`, `[!a-z]` | one byte of these, or none of these; never `/` |
//! | `\x` | `x` itself |
//!
//! A pattern that begins with `/` starts at the root; any other matches at every depth. Matching takes time
//! in proportion to the pattern times the path, whatever they are.

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Star,
    StarStar,
    /// One of these ranges, or none of them.
    Class {
        ranges: Vec<(u8, u8)>,
        negated: bool,
    },
}

impl Glob {
    /// Reads a pattern. There is none that cannot be read: a bracket that is not closed is a bracket.
    #[must_use]
    pub fn new(pattern: &[u8]) -> Self {
        let trimmed = match pattern {
            [head @ .., b'/'] if !head.is_empty() => head,
            all => all,
        };
        let mut tokens = Vec::new();
        if !trimmed.starts_with(b"/") {
            tokens.extend([Token::StarStar, Token::Byte(b'/')]);
        }
        let mut rest = trimmed;
        while let Some((token, tail)) = next_token(rest) {
            tokens.push(token);
            rest = tail;
        }
        Glob { tokens }
    }

    /// Whether it matches all of an absolute path.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        // All places of the pattern that the path so far can have led to.
        let mut places = vec![false; self.tokens.len() + 1];
        reach(&self.tokens, &mut places, 0);
        for byte in path {
            let mut next = vec![false; places.len()];
            for (at, token) in self.tokens.iter().enumerate() {
                if places.get(at) == Some(&true) && token.takes(*byte) {
                    let stays = matches!(token, Token::Star | Token::StarStar);
                    reach(&self.tokens, &mut next, if stays { at } else { at + 1 });
                }
            }
            places = next;
        }
        places.last() == Some(&true)
    }
}

/// Marks a place, and those that can be had from there for nothing: stars may stand for nothing.
fn reach(tokens: &[Token], places: &mut [bool], mut at: usize) {
    while let Some(place) = places.get_mut(at) {
        *place = true;
        if !matches!(tokens.get(at), Some(Token::Star | Token::StarStar)) {
            return;
        }
        at += 1;
    }
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Token::Byte(wanted) => byte == *wanted,
            Token::Any | Token::Star => byte != b'/',
            Token::StarStar => true,
            Token::Class { ranges, negated } => {
                let listed = ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte));
                byte != b'/' && listed != *negated
            }
        }
    }
}

fn next_token(pattern: &[u8]) -> Option<(Token, &[u8])> {
    let found = match pattern {
        [] => return None,
        [b'*', b'*', tail @ ..] => (Token::StarStar, tail),
        [b'*', tail @ ..] => (Token::Star, tail),
        [b'?', tail @ ..] => (Token::Any, tail),
        [b'\\', byte, tail @ ..] => (Token::Byte(*byte), tail),
        [b'[', tail @ ..] => class(tail).unwrap_or((Token::Byte(b'['), tail)),
        [byte, tail @ ..] => (Token::Byte(*byte), tail),
    };
    Some(found)
}

/// The class whose bracket was just opened. A `]` in first place is one of its bytes.
fn class(pattern: &[u8]) -> Option<(Token, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'!' | b'^', tail @ ..] => (true, tail),
        all => (false, all),
    };
    let mut ranges = Vec::new();
    loop {
        match rest {
            [b']', tail @ ..] if !ranges.is_empty() => return Some((Token::Class { ranges, negated }, tail)),
            [low, b'-', high, tail @ ..] if *high != b']' => {
                ranges.push((*low, *high));
                rest = tail;
            }
            [byte, tail @ ..] => {
                ranges.push((*byte, *byte));
                rest = tail;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, matches: &[&str], does_not: &[&str]) {
        let glob = Glob::new(pattern.as_bytes());
        for path in matches {
            assert!(glob.matches(path.as_bytes()), "{pattern} should match {path}");
        }
        for path in does_not {
            assert!(!glob.matches(path.as_bytes()), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn a_pattern_with_a_slash_in_front_starts_at_the_root() {
        check(
            "/etc/*.conf",
            &["/etc/a.conf", "/etc/.conf"],
            &["/etc/d/a.conf", "/x/etc/a.conf", "/etc/a.confx"],
        );
        check("/var/cache/", &["/var/cache"], &["/var/cache/x"]);
    }

    #[test]
    fn any_other_matches_at_every_depth() {
        check("*.pyc", &["/a.pyc", "/usr/lib/a.pyc"], &["/a.py"]);
        check("d/x", &["/d/x", "/a/d/x"], &["/ad/x"]);
    }

    #[test]
    fn two_stars_cross_slashes() {
        check("/usr/**/x", &["/usr/a/x", "/usr/a/b/x"], &["/usr/x", "/usr/a/xx"]);
        check("/usr/**", &["/usr/a", "/usr/a/b"], &["/usr"]);
    }

    #[test]
    fn brackets_list_bytes() {
        check("/[a-cx]", &["/a", "/c", "/x"], &["/d", "/-", "/ab"]);
        check("/[!a]", &["/b"], &["/a", "//"]);
        check("/[]-]", &["/]", "/-"], &["/a"]);
        check("/[", &["/["], &["/a"]);
    }

    #[test]
    fn a_backslash_takes_away_meaning() {
        check(r"/\*", &["/*"], &["/a"]);
    }

    #[test]
    fn names_that_are_no_utf8_match_by_bytes() {
        assert!(Glob::new(b"/caf?").matches(b"/caf\xe9"));
    }

    #[test]
    fn many_stars_take_no_longer_than_their_number() {
        let glob = Glob::new("/".bytes().chain("*a".repeat(200).bytes()).collect::<Vec<_>>().as_slice());
        assert!(!glob.matches(&[b"/".as_slice(), &[b'a'; 4000], b"b"].concat()));
    }
}
