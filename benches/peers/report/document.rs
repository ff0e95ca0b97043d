//! Formats the whole report as text, and as the generated part of a document.

use super::table::Table;
use super::{Case, Report};

/// The bench generates the part of the document between these lines.
pub(crate) const BEGIN: &str = "<!-- what follows is written by `make bench BENCH=--docs` -->";
pub(crate) const END: &str = "<!-- end of what the bench writes -->";

/// Formats the report for a terminal.
pub(crate) fn text(report: &Report) -> String {
    let mut out = format!("Machine\n\n{}", Table::of_machine(report).text());
    out.push_str(&format!("\nGoals\n\n{}", Table::of_goals(&report.goals).text()));
    for case in &report.cases {
        out.push_str(&format!("\n{} ({})\n", case.title, origin(case)));
        for group in &case.groups {
            out.push_str(&format!("\n  {}\n{}", group.title, Table::of_group(group).text()));
        }
        let notes = case.notes.iter().map(|note| format!("  * {note}\n")).collect::<String>();
        if !notes.is_empty() {
            out.push_str(&format!("\n{notes}"));
        }
    }
    out
}

/// Formats the report for a document that has the plots in `plots`.
pub(crate) fn markdown(report: &Report, plots: &str) -> String {
    let mut out = format!("## Goals\n\n{}", Table::of_goals(&report.goals).markdown());
    for case in &report.cases {
        out.push_str(&format!("\n## {}\n\n*{}*\n", case.title, origin(case)));
        for group in &case.groups {
            out.push_str(&format!("\n**{}**\n\n{}", group.title, Table::of_group(group).markdown()));
        }
        for plot in &case.plots {
            out.push_str(&format!("\n![{}]({plots}/{})\n", plot.title, plot.file));
        }
        let notes = case.notes.iter().map(|note| format!("- {note}\n")).collect::<String>();
        if !notes.is_empty() {
            out.push_str(&format!("\n{notes}"));
        }
    }
    out.push_str(&format!("\n## Machine\n\n{}", Table::of_machine(report).markdown()));
    out
}

/// Replaces the text between the two lines of `document`; `None` if it does not have both.
pub(crate) fn replace_generated(document: &str, generated: &str) -> Option<String> {
    let begin = document.find(BEGIN)? + BEGIN.len();
    let end = begin + document[begin..].find(END)?;
    Some(format!("{}\n\n{}\n{}", &document[..begin], generated, &document[end..]))
}

fn origin(case: &Case) -> String {
    let quick = if case.quick { ", a quick run: small inputs, few runs, for a first look only" } else { "" };
    format!("{}, commit {}{quick}", case.date, case.commit)
}
