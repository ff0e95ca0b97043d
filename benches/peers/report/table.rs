//! Formats tables in plain text and in Markdown.

use super::goals::Verdict;
use super::unit::{Unit, to_f64};
use super::{Group, Report, Row};

/// The name of imgmount among the contenders.
const OURS: &str = "imgmount";

/// Rows of cells below a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// Describes the machine and the programs that take part.
    pub(crate) fn of_machine(report: &Report) -> Self {
        let machine = &report.machine;
        let facts = [
            ("CPU", format!("{}, {} cores", machine.cpu, machine.cores)),
            ("memory", Unit::Bytes.show(to_f64(machine.memory_bytes))),
            ("kernel", machine.kernel.clone()),
            ("system", machine.system.clone()),
            ("inputs on", machine.inputs_on.clone()),
        ];
        let tools = report.tools.iter().map(|tool| {
            vec![tool.name.clone(), tool.version.clone().unwrap_or_else(|| "not installed".to_owned())]
        });
        let facts = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]);
        Table { head: vec![String::new(), String::new()], rows: facts.chain(tools).collect() }
    }

    /// Makes one line for each contender: its figures, the range of the first figure, and the comparison
    /// with the group's first contender.
    pub(crate) fn of_group(group: &Group) -> Self {
        let names = figure_names(group);
        let compares = compares(group);
        let mut head = vec![String::new()];
        for (i, name) in names.iter().enumerate() {
            head.push((*name).to_owned());
            if i == 0 {
                head.push("min..max".to_owned());
            }
        }
        if compares {
            head.push(format!("{} ÷ this", group.rows[0].contender));
        }
        let rows = group.rows.iter().map(|row| line(row, &names, compares.then(|| &group.rows[0]))).collect();
        Table { head, rows }
    }

    pub(crate) fn of_goals(verdicts: &[Verdict]) -> Self {
        let head = ["goal for", "figure", "against", "its figure", "ratio", "goal", ""];
        let rows = verdicts.iter().map(|verdict| {
            // Enough digits to show why a ratio of 0.253 does not meet 0.25.
            let shown = |value: Option<f64>| match (value, verdict.unit) {
                (None, _) => String::new(),
                (Some(value), Unit::Number) => format!("{value:.3}"),
                (Some(value), unit) => unit.show(value),
            };
            vec![
                verdict.what.clone(),
                shown(verdict.figure),
                verdict.against.clone().unwrap_or_default(),
                shown(verdict.reference),
                verdict.ratio.map_or(String::new(), |ratio| format!("{ratio:.3}")),
                verdict.goal_text(),
                verdict.outcome_text(),
            ]
        });
        Table { head: head.map(str::to_owned).to_vec(), rows: rows.collect() }
    }

    /// Aligns columns with spaces: the first to the left, the others to the right. The last column, and a
    /// cell that is alone in its line, may be a sentence.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.head).chain(&self.rows).collect();
        let last = self.head.len() - 1;
        let width = |column: usize| {
            let whole = lines.iter().filter(|line| line.len() > last);
            whole.map(|line| line[column].chars().count()).max().unwrap_or(0)
        };
        let first = lines.iter().map(|line| line[0].chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        for line in lines.iter().filter(|line| line.iter().any(|cell| !cell.is_empty())) {
            let mut shown = format!("    {:<first$}", line[0]);
            for (column, cell) in line.iter().enumerate().skip(1) {
                let free = column == last || column + 1 == line.len();
                let width = if free { 0 } else { width(column) };
                shown.push_str(&format!("  {cell:>width$}"));
            }
            out.push_str(shown.trim_end());
            out.push('\n');
        }
        out.replace("**", "")
    }

    /// Formats a table in GitHub's Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> =
            (0..self.head.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
        let rule = if self.head.len() == 2 { vec!["---".to_owned(); 2] } else { rule };
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.head) + &line(&rule) + &rows
    }
}

/// Returns the names of all figures in the group, in the order of their first occurrence.
fn figure_names(group: &Group) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in group.rows.iter().flat_map(|row| &row.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names
}

/// Whether the first row is imgmount, and another row can be compared with it.
fn compares(group: &Group) -> bool {
    let mut measured = group.rows.iter().filter(|row| row.skipped.is_none());
    measured.next().is_some_and(|row| row.contender == OURS)
        && measured.any(|row| !row.contender.starts_with(OURS))
}

fn line(row: &Row, names: &[&str], first: Option<&Row>) -> Vec<String> {
    let mut cells = vec![row.contender.clone()];
    if let Some(why) = &row.skipped {
        cells.push(why.clone());
        return cells;
    }
    for (i, name) in names.iter().enumerate() {
        let figure = row.figure(name);
        cells.push(figure.map_or(String::new(), |figure| figure.unit.show(figure.median)));
        if i == 0 {
            let several = figure.filter(|figure| figure.samples.len() > 1);
            cells
                .push(several.map_or(String::new(), |figure| figure.unit.show_range(figure.min, figure.max)));
        }
    }
    if let Some((ours, this)) = first.and_then(|first| first.figures.first()).zip(row.figures.first()) {
        cells.push(format!("{:.2}", ours.median / this.median));
    }
    cells
}
