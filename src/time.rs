//! Times as text, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now as RFC 3339 in UTC, with `digits` (at most 9) of the second's fraction.
pub fn now_rfc3339(digits: usize) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(now.as_secs(), now.subsec_nanos(), digits)
}

/// A time in seconds and nanoseconds since 1970 as RFC 3339 in UTC, with `digits` (at most 9)
/// of the second's fraction.
pub fn rfc3339(seconds: u64, nanoseconds: u32, digits: usize) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if digits > 0 {
        let fraction = format!(".{nanoseconds:09}");
        text.push_str(fraction.get(..=digits.min(9)).unwrap_or(&fraction));
    }
    text.push('Z');
    text
}

/// Year, month and day of a number of days since 1970-01-01 in the Gregorian
/// calendar. The year is counted from March, so that the leap day is its last.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468; // from 0000-03-01
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_date_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_795_503_600, "2026-11-24T07:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds, 0, 0), text);
        }
        assert_eq!(rfc3339(0, 1_234_567, 9), "1970-01-01T00:00:00.001234567Z");
    }
}
