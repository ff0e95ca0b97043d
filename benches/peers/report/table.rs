//! Tables, in plain text and in Markdown.

use super::goals::Verdict;
use super::{Group, Report, Row};

/// Rows of cells below a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The machine, and what takes part.
    pub(crate) fn of_machine(report: &Report) -> Self {
        let machine = &report.machine;
        let facts = [
            ("CPU", format!("{}, {} cores", machine.cpu, machine.cores)),
            ("memory", super::unit::Unit::Bytes.show(bytes(machine.memory_bytes))),
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

    /// One line a contender: its figures, the spread of the first, and how the group's first compares.
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
            let shown = |value: Option<f64>| value.map_or(String::new(), |value| verdict.unit.show(value));
            vec![
                verdict.what.clone(),
                shown(verdict.figure),
                verdict.against.clone().unwrap_or_default(),
                shown(verdict.reference),
                verdict.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
                verdict.goal_text(),
                verdict.outcome_text(),
            ]
        });
        Table { head: head.map(str::to_owned).to_vec(), rows: rows.collect() }
    }

    /// Columns aligned by spaces: the first to the left, the others to the right.
    pub(crate) fn text(&self) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.head).chain(&self.rows).collect();
        let columns = lines.iter().map(|line| line.len()).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for line in lines.iter().filter(|line| line.iter().any(|cell| !cell.is_empty())) {
            let mut shown = String::new();
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                // The last column may be a sentence.
                match column {
                    0 => shown.push_str(&format!("{cell:<width$}")),
                    _ if column + 1 == columns && columns > 2 => shown.push_str(&format!("  {cell}")),
                    _ if columns == 2 => shown.push_str(&format!("  {cell}")),
                    _ => shown.push_str(&format!("  {cell:>width$}")),
                }
            }
            out.push_str("    ");
            out.push_str(shown.trim_end());
            out.push('\n');
        }
        out.replace("**", "")
    }

    /// A table of GitHub's Markdown.
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

/// Names of all figures in the group, in the order they come up.
fn figure_names(group: &Group) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in group.rows.iter().flat_map(|row| &row.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    names
}

/// Whether the first row is this program, and another can be compared with it.
fn compares(group: &Group) -> bool {
    let measured = group.rows.iter().filter(|row| row.skipped.is_none()).count();
    let ours = group.rows.first().is_some_and(|row| row.contender == "imgmount" && row.skipped.is_none());
    ours && measured > 1
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
            let spread = |figure: &super::Figure| {
                format!("{}..{}", figure.unit.show(figure.min), figure.unit.show(figure.max))
            };
            cells.push(figure.filter(|figure| figure.samples.len() > 1).map_or(String::new(), spread));
        }
    }
    if let Some((ours, this)) = first.and_then(|first| first.figures.first()).zip(row.figures.first()) {
        cells.push(format!("{:.2}", ours.median / this.median));
    }
    cells
}

#[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 bytes of memory")]
fn bytes(count: u64) -> f64 {
    count as f64
}
