//! Units, and the formatting of figures.

use serde::{Deserialize, Serialize};

const MIB: f64 = 1_048_576.0;

/// The unit of a figure. JSON has figures in this unit, unscaled.
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
    /// Formats `value` with the unit, scaled to about three digits.
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

    /// Returns the divisor for the labels of an axis.
    pub(crate) fn scale(self) -> f64 {
        match self {
            Unit::Bytes | Unit::BytesPerSecond => MIB,
            Unit::Seconds | Unit::BytesPerEntry | Unit::Number => 1.0,
        }
    }

    /// Formats a range; the unit appears once if both ends have the same.
    pub(crate) fn show_range(self, low: f64, high: f64) -> String {
        let (low, high) = (self.show(low), self.show(high));
        match (low.split_once(' '), high.split_once(' ')) {
            (Some((number, unit)), Some((_, same))) if unit == same => format!("{number}..{high}"),
            _ => format!("{low}..{high}"),
        }
    }
}

/// Formats three digits, or all digits before the point if there are more.
fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Converts a count to a number for computations.
#[expect(clippy::cast_precision_loss, reason = "nothing here comes to 2^53: not bytes, not entries")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}
