//! Numbers and ends as people read them.

use folio_engine::sched::decisions::{Check, Ending};
use folio_engine::types::Nanos;

/// A length of time, in the unit that suits it.
pub(crate) fn duration(time: Nanos) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0 s".to_owned(),
        ..0.001 => format!("{:.0} µs", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        ..120.0 => format!("{seconds:.2} s"),
        ..7200.0 => format!("{} min {} s", time.0 / 60_000_000_000, time.0 / 1_000_000_000 % 60),
        _ => {
            let minutes = time.0 / 60_000_000_000;
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
    }
}

/// A number with its thousands apart and its noun: `1,024 tokens`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    let plural = if number == 1 || noun.is_empty() { "" } else { "s" };
    let space = if noun.is_empty() { "" } else { " " };
    format!("{text}{space}{noun}{plural}")
}

/// A share of a whole.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { "0 %".to_owned() }
}

/// How a sequence ended.
pub(crate) fn ending(end: &Ending) -> String {
    match end {
        Ending::Stop => "a stop token".to_owned(),
        Ending::Complete => "its grammar is complete".to_owned(),
        Ending::Length => "as many tokens as it may have".to_owned(),
        Ending::Embedded => "its vector or score".to_owned(),
        Ending::Deadline => "its deadline passed".to_owned(),
        Ending::Rejected => "the policy rejected it".to_owned(),
        Ending::Failed(message) => format!("it failed: {message}"),
        Ending::StepFailed => "a failure of the engine".to_owned(),
        Ending::Cancelled(Check::Delivery) => {
            "its client went away, found when a token was to be delivered".to_owned()
        }
        Ending::Cancelled(_) => "its client went away".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let shown = [1, 999_400, 12_340_000, 1_500_000_000, 200_000_000_000, 8_000_000_000_000];
        let shown = shown.map(|nanos| duration(Nanos(nanos)));
        let expected = ["0 µs", "999 µs", "12.3 ms", "1.50 s", "3 min 20 s", "2 h 13 min"];
        assert_eq!(shown, expected);
        assert_eq!(count(1, "token"), "1 token");
        assert_eq!(count(1_234_567, "token"), "1,234,567 tokens");
        assert_eq!(count(123, ""), "123");
        assert_eq!(percent(1.0, 3.0), "33 %");
    }
}
