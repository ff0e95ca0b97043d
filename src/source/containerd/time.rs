//! Times as Go stores them in a database, written as RFC 3339.
//!
//! Source: Go, `time.Time.MarshalBinary`: version u8 | seconds since year 1 i64 | nanoseconds i32 | offset of
//! the zone in minutes i16, all big-endian. The offset does not change the instant, so it is not needed.

const NANOSECONDS_PER_SECOND: i32 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days in 400 years, after which the calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// Days from 1 March of year 0 to 1 January of year 1, where Go's seconds begin.
const DAYS_TO_YEAR_1: i64 = 306;

/// Returns the time in UTC, with as many digits after the second as are needed; `None` for bytes that are not
/// a time, and for times after the year 9999.
pub(super) fn rfc3339(bytes: &[u8]) -> Option<String> {
    let (1 | 2, rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else { return None };
    let seconds = i64::from_be_bytes(*rest.first_chunk()?);
    let nanoseconds = i32::from_be_bytes(*rest.get(8..)?.first_chunk()?);
    if !(0..NANOSECONDS_PER_SECOND).contains(&nanoseconds) {
        return None;
    }
    let days = seconds.div_euclid(SECONDS_PER_DAY);
    let (year, month, day) = date(days.checked_add(DAYS_TO_YEAR_1)?);
    if !(1..=9999).contains(&year) {
        return None;
    }
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = format!(".{nanoseconds:09}");
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// Returns year, month and day of the day `days` after 1 March of year 0. The year is counted from March, so
/// that the leap day is its last.
fn date(days: i64) -> (i64, i64, i64) {
    let (era, day_of_era) = (days.div_euclid(DAYS_PER_ERA), days.rem_euclid(DAYS_PER_ERA));
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let (month, next_year) =
        if month_from_march < 10 { (month_from_march + 3, 0) } else { (month_from_march - 9, 1) };
    (era * 400 + year_of_era + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(seconds: i64, nanoseconds: i32) -> Option<String> {
        let bytes =
            [&[1][..], &seconds.to_be_bytes(), &nanoseconds.to_be_bytes(), &(-1_i16).to_be_bytes()].concat();
        rfc3339(&bytes)
    }

    #[test]
    fn times_are_those_of_go() {
        const UNIX: i64 = 62_135_596_800;
        for (seconds, nanoseconds, expected) in [
            (0, 0, "0001-01-01T00:00:00Z"),
            (UNIX, 0, "1970-01-01T00:00:00Z"),
            (UNIX + 951_782_400, 500_000_000, "2000-02-29T00:00:00.5Z"),
            (UNIX + 1_704_067_199, 999_999_999, "2023-12-31T23:59:59.999999999Z"),
            (UNIX + 4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
        ] {
            assert_eq!(shown(seconds, nanoseconds).as_deref(), Some(expected));
        }
        assert_eq!([shown(i64::MAX, 0), shown(i64::MIN, 0), shown(-1, 0), shown(0, -1)], [const { None }; 4]);
        assert_eq!([rfc3339(b""), rfc3339(&[3; 15]), rfc3339(&[1; 5])], [const { None }; 3]);
        // As containerd 1.6 stored the time of an image.
        let stored = b"\x01\x00\x00\x00\x0e\xe2\x93\xed!\x00Xo\x8d\xff\xff";
        assert_eq!(rfc3339(stored).as_deref(), Some("2026-11-21T19:50:57.005795725Z"));
    }
}
