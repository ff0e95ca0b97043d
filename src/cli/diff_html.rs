//! Writes the differences of two images as one HTML page.
//!
//! This module owns the page; [`tree`](super::diff_html_tree) owns the tree of changes in it. The page
//! is self-contained: it loads nothing, has no script, and has a policy that allows none. Text from an
//! image is escaped twice: first non-printable characters, then HTML.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::diff::{Pair, Side};
use super::diff_html_tree::changes;
use super::diff_stat::{Amount, Counts, Stat};
use super::file_output::{FileOutput, cannot_write};
use super::output::stdout;
use imgmount::{Difference, LayerInfo, LayerRange, escape};

const STYLE: &str = include_str!("diff_html.css");
/// Number of digits of a layer's digest that are shown; the tooltip has the whole digest.
const SHORT_DIGEST: usize = 12;

/// Writes the page to a file, as [`FileOutput`] does; `-` is standard output.
pub(crate) fn write(file: &Path, pair: &Pair<'_>, differences: &[Difference]) -> Result<()> {
    let page = page(pair, differences)?;
    if file.as_os_str() == "-" {
        let mut out = stdout();
        out.write_all(page.as_bytes())?;
        return Ok(out.flush()?);
    }
    let output = FileOutput::open(file)?;
    output.file().write_all(page.as_bytes()).with_context(|| cannot_write(file))?;
    output.finish()
}

fn page(pair: &Pair<'_>, differences: &[Difference]) -> Result<String> {
    let stat = Stat::of(pair, differences);
    let (a, b) = (name(pair.a), name(pair.b));
    let mut page = String::new();
    write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{a} to {b}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <h1><code>{a}</code> → <code>{b}</code></h1>\n"
    )?;
    let Counts { added, deleted, modified } = stat.all;
    let verdict = match stat.all.total().paths {
        0 => "No differences.".to_owned(),
        total => format!(
            "{} {}: {} added, {} deleted, {} modified.",
            counted(total, "path"),
            if total == 1 { "differs" } else { "differ" },
            grouped(added.paths),
            grouped(deleted.paths),
            grouped(modified.paths)
        ),
    };
    write!(page, "<p>{verdict}</p>\n</header>\n<main>\n")?;
    images(pair, &mut page)?;
    if !differences.is_empty() {
        summary(&stat, &mut page)?;
        changes(pair, differences, &mut page)?;
    }
    let version = env!("CARGO_PKG_VERSION");
    write!(
        page,
        "</main>\n<footer>Made by imgmount {version}. A is the first image, B the second.</footer>\n"
    )?;
    page.push_str("</body>\n</html>\n");
    Ok(page)
}

/// Escapes text for HTML elements and quoted attributes.
pub(crate) fn html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// Returns bytes of an image as printable text that is safe for HTML.
pub(crate) fn shown(bytes: &[u8]) -> String {
    html(&escape(bytes))
}

fn name(side: &Side) -> String {
    let text = shown(side.text.as_encoded_bytes());
    match side.range {
        LayerRange::Upto(layer) => format!("{text}, up to layer {layer}"),
        LayerRange::Only(layer) => format!("{text}, layer {layer} alone"),
        _ => text,
    }
}

/// Writes the descriptions of both images, side by side.
fn images(pair: &Pair<'_>, page: &mut String) -> Result<()> {
    page.push_str(
        "<section>\n<h2>Images</h2>\n<div class=\"wide\"><table class=\"images\">\n<thead><tr><th></th>\
         <th scope=\"col\">A</th><th scope=\"col\">B</th></tr></thead>\n<tbody>\n",
    );
    let mut row = |head: &str, fact: fn(&Side) -> String| {
        let (a, b) = (fact(pair.a), fact(pair.b));
        writeln!(page, "<tr><th scope=\"row\">{head}</th><td>{a}</td><td>{b}</td></tr>")
    };
    row("Image", |side| format!("<code>{}</code>", name(side)))?;
    row("Format", |side| html(side.image.format()))?;
    row("Names", |side| known(&side.image.info().names.join(", "), "none"))?;
    row("Platform", |side| {
        known(&side.image.info().platform.as_ref().map(ToString::to_string).unwrap_or_default(), "unknown")
    })?;
    row("Created", |side| known(side.image.info().config.created.as_deref().unwrap_or_default(), "unknown"))?;
    row("Manifest", |side| {
        let digest = side.image.info().manifest_digest.map(|digest| format!("<code>{digest}</code>"));
        digest.unwrap_or_else(|| "none".to_owned())
    })?;
    row("Config", |side| {
        let digest = side.image.info().config_digest;
        digest.map_or_else(|| "none".to_owned(), |digest| format!("<code>{digest}</code>"))
    })?;
    write!(
        page,
        "<tr class=\"layers\"><th scope=\"row\">Layers</th><td>{}</td><td>{}</td></tr>\n\
         </tbody>\n</table></div>\n</section>\n",
        layers(pair.a, pair.b),
        layers(pair.b, pair.a)
    )?;
    Ok(())
}

fn known(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { shown(text.as_bytes()) }
}

/// Returns the list of one image's layers, with a mark on each layer that the other image has, too.
fn layers(side: &Side, other: &Side) -> String {
    let item = |layer: &LayerInfo| {
        let digest = layer.diff_id.map_or_else(|| "unknown".to_owned(), |digest| digest.to_string());
        let hex = layer.diff_id.map_or_else(|| "unknown".to_owned(), |digest| digest.hex());
        let short: String = hex.chars().take(SHORT_DIGEST).collect();
        let note = if is_in(layer, other) { " in both" } else { "" };
        let command = shown(layer.created_by.as_deref().unwrap_or("unknown command").as_bytes());
        format!("<li><code title=\"{digest}\">{short}</code>{note}<span class=\"cmd\">{command}</span></li>")
    };
    let first = match side.range {
        LayerRange::Only(layer) => layer,
        _ => 0,
    };
    let layers = side.image.layers();
    let shared = layers.iter().filter(|layer| is_in(layer, other)).count();
    let items: String = layers.iter().map(item).collect();
    format!(
        "<details><summary>{}, {shared} in both</summary><ol start=\"{first}\">{items}</ol></details>",
        counted(layers.len() as u64, "layer")
    )
}

fn is_in(layer: &LayerInfo, side: &Side) -> bool {
    side.image.layers().iter().any(|one| one.diff_id.is_some() && one.diff_id == layer.diff_id)
}

fn summary(stat: &Stat, page: &mut String) -> Result<()> {
    page.push_str(
        "<section>\n<h2>Summary</h2>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">Change</th>\
         <th scope=\"col\" class=\"num\">Paths</th><th scope=\"col\" class=\"num\">Bytes in A</th>\
         <th scope=\"col\" class=\"num\">Bytes in B</th></tr></thead>\n<tbody>\n",
    );
    let numbers = |amount: Amount| {
        [amount.paths, amount.a_size, amount.b_size]
            .map(|n| format!("<td class=\"num\">{}</td>", grouped(n)))
            .concat()
    };
    let Counts { added, deleted, modified } = stat.all;
    for (mark, name, amount) in
        [('a', "Added", added), ('d', "Deleted", deleted), ('m', "Modified", modified)]
    {
        let letter = mark.to_ascii_uppercase();
        let mark = format!("<span class=\"mark {mark}\" aria-hidden=\"true\">{letter}</span>");
        writeln!(page, "<tr><th scope=\"row\">{mark} {name}</th>{}</tr>", numbers(amount))?;
    }
    write!(
        page,
        "</tbody>\n<tfoot><tr><th scope=\"row\">Total</th>{}</tr></tfoot>\n</table></div>\n\
         <h2>By directory</h2>\n<div class=\"wide\"><table>\n<thead><tr><th scope=\"col\">Directory</th>\
         <th scope=\"col\" class=\"num\">Added</th><th scope=\"col\" class=\"num\">Deleted</th>\
         <th scope=\"col\" class=\"num\">Modified</th><th scope=\"col\" class=\"num\">Bytes in A</th>\
         <th scope=\"col\" class=\"num\">Bytes in B</th></tr></thead>\n<tbody>\n",
        numbers(stat.all.total())
    )?;
    for directory in &stat.directories {
        let Counts { added, deleted, modified } = directory.counts;
        let Amount { a_size, b_size, .. } = directory.counts.total();
        let cells = [added.paths, deleted.paths, modified.paths, a_size, b_size]
            .map(|n| format!("<td class=\"num\">{}</td>", grouped(n)))
            .concat();
        writeln!(page, "<tr><th scope=\"row\"><code>{}</code></th>{cells}</tr>", shown(&directory.bytes))?;
    }
    page.push_str("</tbody>\n</table></div>\n</section>\n");
    Ok(())
}

/// Returns a number with its noun.
pub(crate) fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// Returns a number with thin spaces between groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_image_can_be_markup() {
        let hostile = b"<script>\"'&\x1b]\xff";
        assert_eq!(shown(hostile), "&lt;script&gt;&quot;&#39;&amp;\\x1b]\\xff");
    }

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (1_234_567, "1 234 567")] {
            assert_eq!(grouped(number).replace('\u{202f}', " "), text);
        }
    }
}
