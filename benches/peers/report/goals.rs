//! The goals of imgmount, and the comparison of a report with them.

use serde::{Deserialize, Serialize};

use super::Report;
use super::unit::Unit;

const MIB: f64 = 1_048_576.0;
/// The default of `--cache-size`, in bytes.
const CACHE_BUDGET: f64 = 256.0 * MIB;

/// A group of the topic `registry`.
const FIRST_FILE: &str = "cat /etc/os-release, nothing downloaded";

/// The position of a figure in a report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) case: &'static str,
    pub(crate) group: &'static str,
    pub(crate) contender: &'static str,
    pub(crate) figure: &'static str,
}

/// An upper limit, for a figure or for its ratio to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) figure: Place,
    /// The place of the figure that `figure` is divided by, if the goal is a ratio.
    pub(crate) reference: Option<Place>,
    /// The unit of the limit, unless the goal is a ratio.
    pub(crate) unit: Unit,
    pub(crate) at_most: f64,
}

/// The result of comparing a report with a goal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    /// The figure, in `unit`.
    pub(crate) figure: Option<f64>,
    pub(crate) unit: Unit,
    /// The contender that imgmount is compared with; none for a goal about a single figure.
    pub(crate) against: Option<String>,
    pub(crate) reference: Option<f64>,
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: f64,
    pub(crate) outcome: Outcome,
    /// Whether the figures are from a quick run and thus say little.
    pub(crate) quick: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Met,
    NotMet,
    /// A required figure is missing; with its description.
    NotMeasured(String),
}

/// Makes a goal from `case / group / contender / figure` of imgmount, and the contender that it is
/// compared with.
const fn ratio(what: &'static str, figure: Place, reference: &'static str, at_most: f64) -> Goal {
    let reference = Place { contender: reference, ..figure };
    Goal { what, figure, reference: Some(reference), unit: Unit::Seconds, at_most }
}

const fn limit(what: &'static str, figure: Place, at_most: f64, unit: Unit) -> Goal {
    Goal { what, figure, reference: None, unit, at_most }
}

const fn at(case: &'static str, group: &'static str, contender: &'static str, figure: &'static str) -> Place {
    Place { case, group, contender, figure }
}

const fn wall(case: &'static str, group: &'static str) -> Place {
    at(case, group, "imgmount", "wall")
}

const fn steepest(what: &'static str, group: &'static str, figure: &'static str) -> Goal {
    limit(what, at("growth", group, "steepest over a tenfold", figure), 1.1, Unit::Number)
}

/// All goals, in the order of the report.
pub(crate) const GOALS: &[Goal] = &[
    ratio("first mount, gzip OCI", wall("first-mount", "gzip OCI layout"), "igzip -dc", 1.1),
    ratio("first mount, gzip OCI", wall("first-mount", "gzip OCI layout"), "gzip -dc | tar t", 0.25),
    ratio("first mount, docker-archive", wall("first-mount", "docker-archive"), "openssl dgst -sha256", 1.0),
    limit(
        "first mount, --verify off",
        wall("first-mount", "docker-archive, --verify off"),
        0.25,
        Unit::Seconds,
    ),
    ratio("first mount, zstd OCI", wall("first-mount", "zstd OCI layout"), "zstd -dc", 2.0),
    limit("remount, real image", wall("remount", "real image"), 0.030, Unit::Seconds),
    limit("remount, many files", wall("remount", "many small files"), 0.150, Unit::Seconds),
    ratio("walk, cold", wall("walk", "find -ls, cold"), "erofs", 1.0),
    ratio("walk, warm", wall("walk", "find -ls, warm"), "unpacked tree", 1.15),
    ratio("read, cold", wall("read", "tar, cold"), "erofs", 1.3),
    ratio("read, cold", wall("read", "tar, cold"), "squashfs", 0.6),
    ratio("read, warm", wall("read", "tar, warm"), "erofs", 1.2),
    limit(
        "random read, p50",
        at("random-read", "4 KiB at random, cold", "imgmount", "read p50"),
        0.0025,
        Unit::Seconds,
    ),
    limit(
        "random read, p99",
        at("random-read", "4 KiB at random, cold", "imgmount", "read p99"),
        0.012,
        Unit::Seconds,
    ),
    ratio("extract to disk", wall("extract", "to disk"), "umoci unpack", 0.35),
    ratio("extract to disk", wall("extract", "to disk"), "tar x", 1.0),
    ratio("extract to tmpfs", wall("extract", "to tmpfs"), "umoci unpack", 0.35),
    ratio("extract to tmpfs", wall("extract", "to tmpfs"), "tar x", 1.0),
    ratio("diff, shared layers", wall("diff", "two versions of the real image"), "diff -rq", 0.1),
    ratio("first mount from a registry", wall("registry", "first mount"), "curl", 1.05),
    ratio("tar of a lazy mount", wall("registry", "tar, nothing downloaded"), "curl", 1.15),
    limit("remount from a registry", wall("registry", "remount"), 0.020, Unit::Seconds),
    limit("first file of a lazy mount", wall("registry", FIRST_FILE), 1.2, Unit::Seconds),
    limit(
        "requests for the first file",
        at("registry", FIRST_FILE, "imgmount", "requests"),
        3.0,
        Unit::Number,
    ),
    limit(
        "peak memory, first mount and read",
        at("memory", "real image", "after first mount and reading all", "VmHWM"),
        64.0 * MIB + CACHE_BUDGET,
        Unit::Bytes,
    ),
    limit(
        "memory an entry, first mount",
        at("memory", "many small files", "first mount", "VmHWM an entry"),
        200.0,
        Unit::BytesPerEntry,
    ),
    limit(
        "memory an entry, remount",
        at("memory", "many small files", "remount", "VmHWM an entry"),
        200.0,
        Unit::BytesPerEntry,
    ),
    limit(
        "memory an entry, after a walk",
        at("memory", "many small files", "remount and walk", "VmHWM an entry"),
        200.0,
        Unit::BytesPerEntry,
    ),
    limit(
        "growth of memory, second half of random reads",
        at("soak", "random reads", "end", "VmRSS since the middle"),
        // Tolerance: one span buffer more or less.
        4.0 * MIB,
        Unit::Bytes,
    ),
    steepest("growth with files, first mount", "files in one layer", "e (first mount)"),
    steepest("growth with files, remount", "files in one layer", "e (remount)"),
    steepest("growth with files, memory", "files in one layer", "e (VmHWM)"),
    steepest("growth with files, walk", "files in one layer", "e (walk)"),
    steepest("growth with layers, first mount", "layers of 1000 files", "e (first mount)"),
    steepest("growth with layers, remount", "layers of 1000 files", "e (remount)"),
    steepest("growth with layers, memory", "layers of 1000 files", "e (VmHWM)"),
    steepest("growth with layers, walk", "layers of 1000 files", "e (walk)"),
];

/// Compares the report's figures with every goal.
pub(crate) fn judge(report: &Report) -> Vec<Verdict> {
    GOALS.iter().map(|goal| verdict(goal, report)).collect()
}

fn verdict(goal: &Goal, report: &Report) -> Verdict {
    let figure = find(report, goal.figure);
    let reference = goal.reference.map(|place| find(report, place));
    let figure_value = figure.as_ref().ok().copied();
    let reference_value = reference.as_ref().and_then(|found| found.as_ref().ok().copied());
    let ratio = figure_value.zip(reference_value).map(|(figure, reference)| figure / reference);
    let judged = if goal.reference.is_some() { ratio } else { figure_value };
    let missing = figure.as_ref().err().or_else(|| reference.as_ref().and_then(|found| found.as_ref().err()));
    Verdict {
        what: goal.what.to_owned(),
        figure: figure_value,
        unit: goal.unit,
        against: goal.reference.map(|place| place.contender.to_owned()),
        reference: reference_value,
        ratio,
        goal: goal.at_most,
        outcome: match (judged, missing) {
            (Some(value), _) if value <= goal.at_most => Outcome::Met,
            (Some(_), _) => Outcome::NotMet,
            (None, missing) => Outcome::NotMeasured(missing.cloned().unwrap_or_default()),
        },
        quick: report.case(goal.figure.case).is_some_and(|case| case.quick),
    }
}

/// Returns the median at `place`, or the reason why it is missing.
fn find(report: &Report, place: Place) -> Result<f64, String> {
    let case = report.case(place.case).ok_or(format!("case {} was not run", place.case))?;
    let group = case.group(place.group).ok_or(format!("no '{}' in {}", place.group, place.case))?;
    let row = group.row(place.contender).ok_or(format!("no '{}' in '{}'", place.contender, place.group))?;
    if let Some(why) = &row.skipped {
        return Err(format!("{}: {why}", place.contender));
    }
    let figure = row.figure(place.figure).ok_or(format!("no {} of '{}'", place.figure, place.contender))?;
    Ok(figure.median)
}

impl Verdict {
    /// Returns the outcome in one or two words, for a table.
    pub(crate) fn outcome_text(&self) -> String {
        let quick = if self.quick { " (quick)" } else { "" };
        match &self.outcome {
            Outcome::Met => format!("met{quick}"),
            Outcome::NotMet => format!("**not met**{quick}"),
            Outcome::NotMeasured(why) => format!("not measured: {why}"),
        }
    }

    /// Returns the goal with its unit.
    pub(crate) fn goal_text(&self) -> String {
        let unit = if self.against.is_some() { Unit::Number } else { self.unit };
        format!("≤ {}", unit.show(self.goal))
    }
}
