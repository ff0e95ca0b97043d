//! Parses values of options: sizes and durations.
//!
//! Pure: returns values, or an error message about the text.

use std::time::Duration;

/// Parses a number of bytes with an optional suffix K, M, G or T (powers of 1024), such as `256M`.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size; use bytes, or a suffix as in 256M");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "m" | "MiB" => 1 << 20,
        "G" | "g" | "GiB" => 1 << 30,
        "T" | "t" | "TiB" => 1 << 40,
        _ => return Err(bad()),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(factor).ok_or_else(|| format!("'{text}' is too large"))
}

/// Parses a duration in seconds, or with the suffix s, m, h or d, such as `5m`. Zero is an error.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a duration; use seconds, or a unit as in 30s, 5m, 1h or 7d");
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text.strip_prefix(digits).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err(bad()),
    };
    let seconds = digits.parse::<u64>().map_err(|_| bad())?.checked_mul(factor).ok_or_else(bad)?;
    if seconds == 0 { Err(bad()) } else { Ok(Duration::from_secs(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_a_binary_suffix() {
        let table =
            [("0", 0), ("4096", 4096), ("1K", 1024), ("256M", 256 << 20), ("2GiB", 2 << 30), ("1T", 1 << 40)];
        for (text, expected) in table {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "1.5G", "1X", "M1", "16777216T", "99999999999999999999"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_take_a_unit() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("90", 90)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "0", "0s", "s", "-1", "1w", "1.5h", "9999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
