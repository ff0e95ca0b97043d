//! Compares the tables of docs/limits.md with the source: the limits that can be set, with `src/limits.rs`, and
//! the fixed ones, with the constants `MAX_...` and `..._MAX` of the library and the program.
//!
//! With `IMGMOUNT_UPDATE_DOCS=1` in the environment, the test writes the tables instead.

use std::path::Path;
use std::{env, fs};

use imgmount::Limits;

use super::sources;

/// The text that stands before each table in the page.
const SETTABLE: &str = "| Name | Default | Limits | Reason |\n|---|---|---|---|\n";
const FIXED: &str = "| Constant | Value | Limits, and reason |\n|---|---|---|\n";

/// A constant that limits something.
#[derive(Debug, PartialEq, Eq)]
struct Constant {
    file: String,
    name: String,
    value: String,
    doc: String,
}

/// Writes a number with commas between groups of three digits.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// Returns the value of a product or a shifted number; `None` for other expressions.
fn evaluated(expression: &str) -> Option<u64> {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    if let Some((number_text, shift)) = expression.split_once("<<") {
        return number(number_text)?.checked_shl(u32::try_from(number(shift)?).ok()?);
    }
    expression.split('*').map(number).try_fold(1_u64, |product, factor| product.checked_mul(factor?))
}

/// Returns the constants of Rust text. Tests at its end are left out.
fn constants(file: &str, text: &str) -> Vec<Constant> {
    let mut found = Vec::new();
    let mut doc: Vec<&str> = Vec::new();
    for line in text.lines().take_while(|line| !line.starts_with("mod tests {")).map(str::trim_start) {
        if let Some(comment) = line.strip_prefix("///") {
            doc.push(comment.trim());
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        let declared =
            line.split_once("const ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        if let Some((name, rest)) = declared.and_then(|(_, rest)| rest.split_once(": "))
            && (name.starts_with("MAX_") || name.ends_with("_MAX"))
            && let Some((_, expression)) = rest.trim_end_matches(';').split_once(" = ")
        {
            found.push(Constant {
                file: file.to_owned(),
                name: name.to_owned(),
                value: evaluated(expression).map_or_else(|| format!("`{expression}`"), with_commas),
                doc: doc.join(" ").replace("[`", "`").replace("`]", "`"),
            });
        }
        doc.clear();
    }
    found
}

fn settable_rows() -> String {
    let row = |limit: &imgmount::Limit| {
        let imgmount::Limit { name, default, bounds, reason, .. } = limit;
        format!("| `{name}` | {} | {bounds} | {reason} |\n", with_commas(*default))
    };
    Limits::all().map(row).collect()
}

fn fixed_rows() -> String {
    let mut all: Vec<_> = sources("src")
        .into_iter()
        .filter(|(path, _)| {
            !path.components().any(|part| part.as_os_str() == "tests") && !path.ends_with("tests.rs")
        })
        .flat_map(|(path, text)| constants(&path.display().to_string(), &text))
        .collect();
    all.sort_by(|a, b| (&a.file, &a.name).cmp(&(&b.file, &b.name)));
    let row = |Constant { file, name, value, doc }: &Constant| {
        assert!(!doc.is_empty(), "{file}: {name} has no comment that gives its reason");
        format!("| `{name}` in `{file}` | {value} | {doc} |\n")
    };
    all.iter().map(row).collect()
}

/// Returns the page with these rows in the table that `head` begins.
fn with_rows(page: &str, head: &str, rows: &str) -> String {
    let (before, rest) = page.split_once(head).expect("the table is in the page");
    // A table ends at an empty line; a new one has no rows yet.
    let end = if rest.starts_with('\n') { 0 } else { rest.find("\n\n").map_or(rest.len(), |at| at + 1) };
    format!("{before}{head}{rows}{}", &rest[end..])
}

#[test]
fn docs_limits_has_the_tables_of_the_source() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md");
    let page = fs::read_to_string(&path).unwrap();
    let expected = with_rows(&page, SETTABLE, &settable_rows());
    let expected = with_rows(&expected, FIXED, &fixed_rows());
    if env::var_os("IMGMOUNT_UPDATE_DOCS").is_some() {
        fs::write(&path, expected).unwrap();
        return;
    }
    let wrong: Vec<_> = expected.lines().filter(|line| !page.contains(*line)).collect();
    assert!(
        page == expected,
        "`IMGMOUNT_UPDATE_DOCS=1 cargo test --test it tidy::limits` writes these rows of docs/limits.md:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn constants_are_read_from_rust() {
    let text = "\
/// First.
/// [`Second`].
pub(crate) const MAX_A_BYTES: u64 = 4 * 1_024 << 0;
const WINDOW_MAX: u64 = 2 << 20;
/// Third.
const MAX_TIME: Duration = Duration::from_secs(5);
const OTHER: u64 = 1;
mod tests {
    const MAX_IN_TESTS: u64 = 1;
";
    let read: Vec<_> =
        constants("a.rs", text).into_iter().map(|one| (one.name, one.value, one.doc)).collect();
    let expected = [
        ("MAX_A_BYTES", "`4 * 1_024 << 0`", "First. `Second`."),
        ("WINDOW_MAX", "2,097,152", ""),
        ("MAX_TIME", "`Duration::from_secs(5)`", "Third."),
    ];
    let expected = expected.map(|(name, value, doc)| (name.to_owned(), value.to_owned(), doc.to_owned()));
    assert_eq!(read, expected);
    assert_eq!(evaluated("20 * 1024 * 1024"), Some(20 << 20));
}
