//! What a bench run found, and how it is told: pure, so that the integration tests can hold it to its word.
//!
//! A report has cases, a case has groups, a group compares contenders by a row each. It is kept as JSON; the
//! text, the document and the plots are made from that alone. Nothing here runs or measures anything.

pub(crate) mod document;
pub(crate) mod goals;
pub(crate) mod plot;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod unit;

use serde::{Deserialize, Serialize};

use goals::Verdict;
use plot::Plot;
use stats::{max, median, min};
use unit::Unit;

/// Everything that was measured, perhaps in several runs of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) tools: Vec<Tool>,
    pub(crate) cases: Vec<Case>,
    pub(crate) goals: Vec<Verdict>,
}

/// Where it was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Name and version of the distribution.
    pub(crate) system: String,
    /// The file system that the inputs are on, and its device.
    pub(crate) inputs_on: String,
}

/// A program that takes part, or would if it were there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// None: not installed.
    pub(crate) version: Option<String>,
}

/// One topic, measured at one time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// What `--only` calls it.
    pub(crate) name: String,
    pub(crate) title: String,
    /// When, as YYYY-MM-DD.
    pub(crate) date: String,
    /// The commit that was measured, or `unknown`.
    pub(crate) commit: String,
    /// Whether the inputs were small and the runs few, so that figures say little.
    pub(crate) quick: bool,
    /// What a reader has to know to judge the figures.
    pub(crate) notes: Vec<String>,
    pub(crate) groups: Vec<Group>,
    pub(crate) plots: Vec<Plot>,
}

/// Contenders that did the same; the first is the one that the others are compared with.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// What one contender needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) contender: String,
    pub(crate) figures: Vec<Figure>,
    /// Why there are no figures: `not installed: X`, `needs root`, `failed: ...`.
    pub(crate) skipped: Option<String>,
}

/// One quantity over all runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// In the order of the runs.
    pub(crate) samples: Vec<f64>,
}

impl Report {
    /// A report with what an older one has, unless that is of another machine.
    pub(crate) fn after(older: Option<Report>, machine: Machine, tools: Vec<Tool>) -> Self {
        let same = older.filter(|older| older.machine == machine);
        Report { machine, tools, cases: same.map_or(Vec::new(), |older| older.cases), goals: Vec::new() }
    }

    /// Adds a case, in place of the one of that name, and judges anew. Cases stand in this `order`.
    pub(crate) fn put(&mut self, case: Case, order: &[&str]) {
        self.cases.retain(|old| old.name != case.name);
        self.cases.push(case);
        let place = |case: &Case| order.iter().position(|name| *name == case.name);
        self.cases.sort_by_key(|case| place(case).unwrap_or(usize::MAX));
        self.goals = goals::judge(self);
    }

    pub(crate) fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }
}

impl Case {
    pub(crate) fn group(&self, title: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.title == title)
    }
}

impl Group {
    pub(crate) fn row(&self, contender: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.contender == contender)
    }
}

impl Row {
    pub(crate) fn skipped(contender: impl Into<String>, why: impl Into<String>) -> Self {
        Row { contender: contender.into(), figures: Vec::new(), skipped: Some(why.into()) }
    }

    pub(crate) fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl Figure {
    /// None without samples.
    pub(crate) fn of(name: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Option<Self> {
        let (median, min, max) = (median(&samples)?, min(&samples)?, max(&samples)?);
        Some(Figure { name: name.into(), unit, median, min, max, samples })
    }
}
