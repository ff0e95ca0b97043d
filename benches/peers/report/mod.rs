//! The results of the bench, and their formats. Pure, so that the integration tests can check it.
//!
//! A report has cases, a case has groups, and a group compares contenders with one row each. It is
//! stored as JSON; text, document and plots are made from the JSON alone. This module runs and measures
//! nothing.

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

/// All figures, possibly from several runs of the bench.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) tools: Vec<Tool>,
    pub(crate) cases: Vec<Case>,
    pub(crate) goals: Vec<Verdict>,
}

/// The machine of the measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Name and version of the distribution.
    pub(crate) system: String,
    /// The file system of the inputs, and its device.
    pub(crate) inputs_on: String,
}

/// A program that takes part if it is installed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// `None` if it is not installed.
    pub(crate) version: Option<String>,
}

/// One topic, measured at one time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Its name in `--only`.
    pub(crate) name: String,
    pub(crate) title: String,
    /// The date, as YYYY-MM-DD.
    pub(crate) date: String,
    /// The commit that was measured, or `unknown`.
    pub(crate) commit: String,
    /// Whether inputs were small and runs few, so that the figures say little.
    pub(crate) quick: bool,
    /// Facts that a reader needs to interpret the figures.
    pub(crate) notes: Vec<String>,
    pub(crate) groups: Vec<Group>,
    pub(crate) plots: Vec<Plot>,
}

/// Contenders that did the same work; the others are compared with the first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
}

/// The figures of one contender.
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
    /// The samples in the order of the runs.
    pub(crate) samples: Vec<f64>,
}

impl Report {
    /// Starts a report with the cases of an older one, unless that is from another machine.
    pub(crate) fn after(older: Option<Report>, machine: Machine, tools: Vec<Tool>) -> Self {
        let same = older.filter(|older| older.machine == machine);
        Report { machine, tools, cases: same.map_or(Vec::new(), |older| older.cases), goals: Vec::new() }
    }

    /// Adds a case, replaces an earlier case of its name, and checks the goals anew. Cases are sorted in
    /// this `order`.
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
    /// Returns `None` without samples.
    pub(crate) fn of(name: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Option<Self> {
        let (median, min, max) = (median(&samples)?, min(&samples)?, max(&samples)?);
        Some(Figure { name: name.into(), unit, median, min, max, samples })
    }
}
