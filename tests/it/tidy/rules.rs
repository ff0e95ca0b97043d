//! Checks the rulebook: every rule names existing tests, and every cited code is a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::sources;

/// The pages with rules, and the letters that begin their codes.
const PAGES: [(&str, &str); 5] = [
    ("docs/semantics.md", "WNMHZ"),
    ("docs/formats.md", "F"),
    ("docs/security.md", "X"),
    ("docs/cli.md", "C"),
    ("docs/registries.md", "R"),
];

/// A row of a page.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    code: String,
    tests: Vec<String>,
}

/// Reads `W3` from `W3` and `w3`; letters that begin no rule give no code.
fn code(word: &str) -> Option<String> {
    let (letter, digits) = (word.get(..1)?.to_ascii_uppercase(), word.get(1..)?);
    let is_letter = PAGES.iter().any(|(_, letters)| letters.contains(&letter));
    let is_number = matches!(digits.len(), 1 | 2) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_letter && is_number).then(|| letter + digits)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns the codes in prose: upper-case, as whole words.
fn codes(text: &str) -> Vec<String> {
    words(text).filter(|word| word.starts_with(char::is_uppercase)).filter_map(code).collect()
}

/// Returns the codes that a test's name begins with, such as `f21_to_f24_layer_types`.
fn codes_of_name(name: &str) -> Vec<String> {
    let parts = name.split('_').map(|part| (part, code(part)));
    parts.take_while(|(part, code)| code.is_some() || *part == "to").filter_map(|(_, code)| code).collect()
}

/// Returns the words in backquotes that look like a test's name.
fn named_tests(text: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |word: &&str| {
        word.matches('_').count() >= 2
            && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    quoted.filter(is_name).map(str::to_owned).collect()
}

/// Returns the rows of a page: a code in the first cell, tests in the last.
fn rules(page: &str) -> Vec<Rule> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    rows.filter_map(|row| {
        let code = code(row.split(" |").next()?.trim_end_matches('*'))?;
        let tests = named_tests(row.rsplit("| ").next()?);
        Some(Rule { code, tests })
    })
    .collect()
}

/// Returns the names of all functions with `#[test]` in Rust text, including those in `proptest!`.
fn tests_of(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            found.extend(words(rest).next().map(str::to_owned));
            is_test = false;
        }
    }
    found
}

/// Returns the comments of Rust text.
fn comments(text: &str) -> String {
    let of_line = |line: &str| {
        let starts = line.match_indices("//").map(|(at, _)| at);
        // Skips the slashes of a URL.
        let start = starts.into_iter().find(|at| !line[..*at].ends_with([':', '/']))?;
        Some(format!("{}\n", line[start..].trim_start_matches(['/', '!'])))
    };
    text.lines().filter_map(of_line).collect()
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Returns every Markdown page of the repository with its path.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["", "docs/"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let name = format!("{folder}{}", entry.unwrap().file_name().display());
            if name.ends_with(".md") {
                found.push((name.clone(), page(&name)));
            }
        }
    }
    found.sort();
    found
}

/// Returns all Rust text of the repository with its path.
fn rust() -> impl Iterator<Item = (String, String)> {
    let files = ["src", "tests", "examples", "benches"].into_iter().flat_map(sources);
    files.map(|(path, text)| (path.display().to_string(), text))
}

fn all_rules() -> Vec<Rule> {
    PAGES.iter().flat_map(|(name, _)| rules(&page(name))).collect()
}

#[test]
fn codes_are_read_from_prose_and_from_names() {
    assert_eq!(
        codes("Rows W1 to W18 (M9, X17); not x2, W100, UTF8, 0xF0 or F_1."),
        ["W1", "W18", "M9", "X17"]
    );
    assert_eq!(codes_of_name("f21_to_f24_layer_types_of_x2"), ["F21", "F24"]);
    assert_eq!(codes_of_name("a_name_without_h2"), [""; 0]);
    assert_eq!(comments("let a = \"http://W1\"; // M1\n/// M2\nf(M3)\n//! M4"), " M1\n M2\n M4\n");
}

#[test]
fn rows_and_tests_are_read_from_a_page_and_from_rust() {
    let page =
        "| Rule | Case | Tests |\n|---|---|---|\n| W3* | `a \\| b_c_d` | `w3_one_two`, `no` |\n| X1 | c | |";
    let rule = |code: &str, tests: &[&str]| Rule {
        code: code.to_owned(),
        tests: tests.iter().map(|&test| test.to_owned()).collect(),
    };
    assert_eq!(rules(page), [rule("W3", &["w3_one_two"]), rule("X1", &[])]);
    let text =
        "#[test]\n#[ignore]\nfn one() {}\nfn two() {}\nproptest! {\n    #[test]\n    fn three(a in b) {}\n}";
    assert_eq!(tests_of(text), ["one", "three"]);
}

#[test]
fn every_rule_names_tests_and_they_exist() {
    let tests: BTreeSet<String> = rust().flat_map(|(_, text)| tests_of(&text)).collect();
    for (name, _) in PAGES {
        let text = page(name);
        for rule in rules(&text) {
            assert!(!rule.tests.is_empty(), "{name}: {} names no test", rule.code);
        }
        let missing: Vec<_> = named_tests(&text).into_iter().filter(|test| !tests.contains(test)).collect();
        assert_eq!(missing, [""; 0], "{name} names tests that do not exist");
    }
}

#[test]
fn rules_are_numbered_from_1_without_gaps_on_their_own_page() {
    for (name, letters) in PAGES {
        let mut numbers: BTreeMap<char, Vec<usize>> = BTreeMap::new();
        for rule in rules(&page(name)) {
            let (letter, number) = rule.code.split_at(1);
            let number = number.parse().unwrap();
            numbers.entry(letter.chars().next().unwrap()).or_default().push(number);
        }
        assert_eq!(numbers.keys().copied().collect::<BTreeSet<_>>(), letters.chars().collect(), "{name}");
        for (letter, mut numbers) in numbers {
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>(), "{name}: {letter}");
        }
    }
}

#[test]
fn every_code_that_is_cited_is_a_rule() {
    let known: BTreeSet<String> = all_rules().into_iter().map(|rule| rule.code).collect();
    let in_rust = rust().flat_map(|(path, text)| {
        let names = tests_of(&text).iter().flat_map(|name| codes_of_name(name)).collect::<Vec<_>>();
        // The codes in this file are examples.
        let comments = if path.ends_with("tidy/rules.rs") { String::new() } else { comments(&text) };
        let cited = codes(&comments).into_iter().chain(names);
        cited.map(move |code| (path.clone(), code)).collect::<Vec<_>>()
    });
    let in_pages = pages().into_iter().flat_map(|(path, text)| {
        let cited = codes(&text);
        cited.into_iter().map(move |code| (path.clone(), code)).collect::<Vec<_>>()
    });
    let unknown: Vec<_> = in_rust.chain(in_pages).filter(|(_, code)| !known.contains(code)).collect();
    assert_eq!(unknown, []);
}

#[test]
fn comments_name_the_pages_of_this_repository_by_their_path() {
    let names: Vec<String> = pages().into_iter().map(|(name, _)| name).collect();
    for (path, text) in rust().filter(|(path, _)| !path.ends_with("tidy/rules.rs")) {
        let comments = comments(&text);
        let words: Vec<&str> = words(&comments).collect();
        for (name, _) in PAGES {
            let stem = name.trim_start_matches("docs/").trim_end_matches(".md");
            let short =
                words.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(stem) && !codes(pair[1]).is_empty());
            assert!(!short, "{path} cites '{stem} ...': write {name}");
        }
        for word in comments.split_whitespace() {
            let word = word.trim_matches(|c: char| !c.is_alphanumeric());
            let bare = names.iter().any(|name| name.strip_prefix("docs/") == Some(word));
            let gone =
                word.starts_with("docs/") && word.ends_with(".md") && !names.iter().any(|name| name == word);
            assert!(!bare && !gone, "{path} names {word}");
        }
    }
}
