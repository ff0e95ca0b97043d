//! Writes the changes as a tree of collapsible directories, for [`diff_html`](super::diff_html).
//!
//! Directories are `<details>` elements, which work with a keyboard and without a script. A chain of
//! directories without other contents is one line. This module owns how many texts are compared for one
//! page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;

use super::diff::Pair;
use super::diff_html::{counted, grouped, html, shown};
use super::diff_stat::Counts;
use super::diff_text::{Line, SearchTime, TextDiff, text_diff};
use super::output::rfc3339;
use super::output::visible;
use imgmount::{Difference, DifferenceKind, Field, FileType, Inode, escape};

/// If there are more changes than this, only the first level is open at first.
const OPEN_CHANGES: usize = 40;
/// A text difference longer than this, in bytes, is closed at first.
const OPEN_DIFF_BYTES: usize = 8 << 10;
/// Limit of the text differences in one page, in bytes. Browsers become slow only far above this,
/// readers sooner.
const MAX_DIFF_BYTES: usize = 16 << 20;

/// A name, with the changes at and below it.
#[derive(Default)]
struct Node<'a> {
    children: BTreeMap<&'a [u8], Node<'a>>,
    change: Option<&'a Difference>,
    counts: Counts,
}

/// Writes the section with all changes.
pub(crate) fn changes(pair: &Pair<'_>, differences: &[Difference], page: &mut String) -> Result<()> {
    let mut root = Node::default();
    for difference in differences {
        root.add(pair, difference);
    }
    page.push_str(
        "<section>\n<h2>Changes</h2>\n<fieldset class=\"kinds\" aria-label=\"Kinds of change to show\">\n",
    );
    for (id, name) in [("a", "added"), ("d", "deleted"), ("m", "modified")] {
        let mark = id.to_ascii_uppercase();
        writeln!(
            page,
            "<label><input type=\"checkbox\" id=\"show-{id}\" autocomplete=\"off\" checked> \
             <span class=\"mark {id}\" aria-hidden=\"true\">{mark}</span> {name}</label>"
        )?;
    }
    page.push_str("</fieldset>\n<ul class=\"tree\">\n");
    let all_open = differences.len() <= OPEN_CHANGES;
    let mut printer = Printer { pair, page, all_open, diff_bytes: 0, time: SearchTime::default() };
    if let Some(change) = root.change {
        printer.leaf(b"/", change)?;
    }
    for (name, node) in &root.children {
        printer.node(&[b"/", *name].concat(), node, 0)?;
    }
    page.push_str("</ul>\n</section>\n");
    Ok(())
}

impl<'a> Node<'a> {
    fn add(&mut self, pair: &Pair<'_>, difference: &'a Difference) {
        let mut at = self;
        for name in difference.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            at.counts.add(pair, difference);
            at = at.children.entry(name).or_default();
        }
        at.change = Some(difference);
        at.counts.add(pair, difference);
    }

    /// Returns the CSS classes that hide a node if it contains no change of a kind that is shown.
    fn kinds(&self) -> String {
        let Counts { added, deleted, modified } = self.counts;
        let kinds = [('a', added), ('d', deleted), ('m', modified)];
        let mut found = kinds.into_iter().filter(|(_, amount)| amount.paths > 0);
        match (found.next(), found.next()) {
            (Some((kind, _)), None) => format!(" class=\"is-{kind}\""),
            _ => String::new(),
        }
    }
}

struct Printer<'p, 'a> {
    pair: &'p Pair<'a>,
    page: &'p mut String,
    all_open: bool,
    /// The used part of [`MAX_DIFF_BYTES`].
    diff_bytes: usize,
    time: SearchTime,
}

impl Printer<'_, '_> {
    /// Writes a name and everything below it. The recursion depth is limited by the length of a path.
    fn node(&mut self, name: &[u8], node: &Node<'_>, depth: usize) -> Result<()> {
        let mut children = node.children.iter();
        match (node.change, children.next(), children.next()) {
            (Some(change), None, _) => return self.leaf(name, change),
            (None, Some((only, below)), None) if !below.children.is_empty() => {
                return self.node(&[name, b"/", *only].concat(), below, depth);
            }
            _ => {}
        }
        let open = if self.all_open || depth == 0 { " open" } else { "" };
        write!(self.page, "<li{}><details{open}><summary>", node.kinds())?;
        if let Some(change) = node.change {
            write!(self.page, "{} ", mark(change))?;
        }
        write!(self.page, "<span class=\"name\">{}/</span>", shown(name))?;
        let Counts { added, deleted, modified } = node.counts;
        self.page.push_str("<span class=\"counts\">");
        for (kind, amount) in [('a', added), ('d', deleted), ('m', modified)] {
            if amount.paths > 0 {
                let letter = kind.to_ascii_uppercase();
                write!(self.page, "<span class=\"mark {kind}\">{letter} {}</span> ", grouped(amount.paths))?;
            }
        }
        self.page.push_str("</span>");
        if let Some(change) = node.change {
            self.facts(change)?;
        }
        self.page.push_str("</summary>\n<ul>\n");
        for (name, below) in &node.children {
            self.node(name, below, depth + 1)?;
        }
        self.page.push_str("</ul></details></li>\n");
        Ok(())
    }

    /// Writes a name that has nothing below it.
    fn leaf(&mut self, name: &[u8], change: &Difference) -> Result<()> {
        let kind = letter(change);
        let line = format!("{} <span class=\"name\">{}</span>", mark(change), shown(name));
        let Some((a, b)) = self.pair.changed_files(change) else {
            write!(self.page, "<li class=\"is-{kind}\"><div class=\"leaf\">{line}")?;
            self.facts(change)?;
            self.page.push_str("</div></li>\n");
            return Ok(());
        };
        let diff = if self.diff_bytes > MAX_DIFF_BYTES {
            "<p class=\"note\">Not shown: the page would be too long.</p>".to_owned()
        } else {
            diff_block(&text_diff(a, b, &mut self.time)?)
        };
        self.diff_bytes += diff.len();
        let open = if self.all_open && diff.len() <= OPEN_DIFF_BYTES { " open" } else { "" };
        write!(self.page, "<li class=\"is-{kind}\"><details{open}><summary>{line}")?;
        self.facts(change)?;
        writeln!(self.page, "</summary>\n{diff}</details></li>")?;
        Ok(())
    }

    /// Writes the details of a change.
    fn facts(&mut self, change: &Difference) -> Result<()> {
        let (a, b) = self.pair.inodes(change);
        let facts: Vec<String> = match (&change.kind, &a, &b) {
            (DifferenceKind::Modified { fields, .. }, Some(a), Some(b)) => {
                fields.iter().map(|field| fact(*field, a, b)).collect()
            }
            (_, a, b) => a.iter().chain(b).map(describe).collect(),
        };
        self.page.push_str("<span class=\"facts\">");
        for fact in facts.iter().filter(|fact| !fact.is_empty()) {
            write!(self.page, "<span>{}</span>", html(fact))?;
        }
        self.page.push_str("</span>");
        Ok(())
    }
}

/// Returns the text difference of a file.
fn diff_block(diff: &TextDiff) -> String {
    let hunks = match diff {
        TextDiff::Binary => return "<p class=\"note\">Binary content differs.</p>".to_owned(),
        TextDiff::TooLarge => return "<p class=\"note\">Too large to compare by lines.</p>".to_owned(),
        TextDiff::Hunks(hunks) => hunks,
    };
    let mut block = String::from("<pre class=\"diff\" tabindex=\"0\">");
    for hunk in hunks {
        block.extend(["<span class=\"at\">", &hunk.header, "</span>"]);
        block.extend(hunk.lines.iter().map(diff_line));
    }
    block.push_str("</pre>");
    block
}

fn diff_line(line: &Line) -> String {
    let class = match line.sign {
        '+' => " class=\"add\"",
        '-' => " class=\"del\"",
        _ => "",
    };
    let (text, end) = match line.bytes.strip_suffix(b"\n") {
        Some(text) => (text, ""),
        None => (line.bytes.as_slice(), "<span class=\"at\">\\ No newline at end of file</span>"),
    };
    format!("<span{class}>{}{}</span>{end}", line.sign, html(&visible(text)))
}

fn letter(change: &Difference) -> char {
    match change.kind {
        DifferenceKind::Added(_) => 'a',
        DifferenceKind::Deleted(_) => 'd',
        DifferenceKind::Modified { .. } => 'm',
    }
}

fn mark(change: &Difference) -> String {
    let (kind, word) = match change.kind {
        DifferenceKind::Added(_) => ('a', "added"),
        DifferenceKind::Deleted(_) => ('d', "deleted"),
        DifferenceKind::Modified { .. } => ('m', "modified"),
    };
    let letter = kind.to_ascii_uppercase();
    format!("<abbr class=\"mark {kind}\" title=\"{word}\">{letter}</abbr>")
}

/// Returns a short description of an inode.
fn describe(inode: &Inode<'_>) -> String {
    match (inode.file_type(), inode.target()) {
        (FileType::File, _) => counted(inode.size(), "byte"),
        (_, Some(target)) => format!("→ {}", escape(target)),
        (FileType::Directory, _) => String::new(),
        (other, _) => other.name().to_owned(),
    }
}

/// Returns one field, before and after.
fn fact(field: Field, a: &Inode<'_>, b: &Inode<'_>) -> String {
    let change = |of: fn(&Inode<'_>) -> String| format!("{} {} → {}", field.name(), of(a), of(b));
    match field {
        Field::Content => format!("content {} → {}", grouped(a.size()), counted(b.size(), "byte")),
        Field::Links => change(|inode| inode.nlink().unwrap_or_default().to_string()),
        Field::Mode => change(|inode| format!("{:04o}", inode.mode())),
        Field::Owner => change(|inode| format!("{}:{}", inode.uid(), inode.gid())),
        Field::Rdev => change(|inode| {
            inode.device().map_or_else(String::new, |device| format!("{}:{}", device.major, device.minor))
        }),
        Field::Target => change(|inode| escape(inode.target().unwrap_or_default())),
        Field::Type => change(|inode| inode.file_type().name().to_owned()),
        Field::Xattr => format!("xattr {}", changed_xattrs(a, b).join(", ")),
        Field::Mtime => change(|inode| rfc3339(inode.mtime())),
        other => other.name().to_owned(),
    }
}

/// Returns the names of extended attributes that differ between both sides.
fn changed_xattrs(a: &Inode<'_>, b: &Inode<'_>) -> Vec<String> {
    let (a, b) = (a.xattrs(), b.xattrs());
    let mut names: Vec<&[u8]> = a.iter().chain(b.iter()).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().filter(|name| a.get(name) != b.get(name)).map(escape).collect()
}
