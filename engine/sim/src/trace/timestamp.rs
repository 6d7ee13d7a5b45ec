//! Dates as traces write them, in nanoseconds since 1970.

use folio_engine::types::Nanos;

/// `2023-11-16 18:15:46.6805900`, with `T` for the space and up to nine digits of a second
/// allowed; without a time zone, which would change nothing within a trace. From 1970 to 2500.
pub(super) fn parse(text: &str) -> Option<Nanos> {
    let (date, time) = text.trim().split_once([' ', 'T'])?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_valid = (1970..=2500).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && fraction.len() <= 9
        && fraction.bytes().all(|digit| digit.is_ascii_digit());
    if !is_valid {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(Nanos(seconds * 1_000_000_000 + nanos))
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Days from the first of January 1970, by the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let past = year - 1;
    let leap_days = |until: u64| until / 4 - until / 100 + until / 400;
    let this_leap = u64::from(month > 2 && is_leap(year));
    (year - 1970) * 365 + leap_days(past) - leap_days(1969)
        + BEFORE[month as usize - 1]
        + this_leap
        + day
        - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds from `date -u -d '...' +%s`.
    #[test]
    fn dates_are_counted_as_the_calendar_does() {
        for (text, seconds, nanos) in [
            ("1970-01-01 00:00:00", 0, 0),
            ("2023-11-16 18:15:46.6805900", 1_700_158_546, 680_590_000),
            ("2024-02-29T23:59:59.000000001", 1_709_251_199, 1),
            ("2024-03-01 00:00:00.5", 1_709_251_200, 500_000_000),
            ("2100-03-01 00:00:00", 4_107_542_400, 0),
        ] {
            assert_eq!(parse(text), Some(Nanos(seconds * 1_000_000_000 + nanos)), "{text}");
        }
        for text in [
            "",
            "2023-11-16",
            "18:15:46",
            "2023-13-01 00:00:00",
            "2023-11-16 24:00:00",
            "2023-11-16 18:15",
            "2023-11-16 18:15:46.1234567890",
            "1700158546",
            "2023-1a-16 1:1:1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
