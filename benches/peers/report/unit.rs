//! Units, and figures as a reader wants them.

use serde::{Deserialize, Serialize};

const MIB: f64 = 1_048_576.0;

/// What a figure counts. JSON has it in this unit, unscaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    BytesPerEntry,
    BytesPerSecond,
    /// A plain number: a ratio, cores, a count.
    Number,
}

impl Unit {
    /// `value` with the unit, scaled so that about three digits tell it.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Unit::Seconds if value >= 1.0 => format!("{} s", digits(value)),
            Unit::Seconds if value >= 0.001 => format!("{} ms", digits(value * 1e3)),
            Unit::Seconds => format!("{} µs", digits(value * 1e6)),
            Unit::Bytes if value.abs() >= 1024.0 * MIB => format!("{} GiB", digits(value / 1024.0 / MIB)),
            Unit::Bytes => format!("{} MiB", digits(value / MIB)),
            Unit::BytesPerEntry => format!("{} B", digits(value)),
            Unit::BytesPerSecond => format!("{} MiB/s", digits(value / MIB)),
            Unit::Number => digits(value),
        }
    }

    /// What an axis counts in.
    pub(crate) fn scale(self) -> f64 {
        match self {
            Unit::Bytes | Unit::BytesPerSecond => MIB,
            Unit::Seconds | Unit::BytesPerEntry | Unit::Number => 1.0,
        }
    }

    /// Both ends, with the unit once where it is the same.
    pub(crate) fn show_range(self, low: f64, high: f64) -> String {
        let (low, high) = (self.show(low), self.show(high));
        match (low.split_once(' '), high.split_once(' ')) {
            (Some((number, unit)), Some((_, same))) if unit == same => format!("{number}..{high}"),
            _ => format!("{low}..{high}"),
        }
    }
}

/// Three digits or all before the point.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// A count as what is computed with.
#[expect(clippy::cast_precision_loss, reason = "nothing here comes to 2^53: not bytes, not entries")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}
