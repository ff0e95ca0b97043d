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
