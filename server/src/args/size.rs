//! Amounts of memory as people write them.

use std::str::FromStr;

/// A number of bytes, written plain or with a unit: `1048576`, `512MiB`, `2GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = UNITS.iter().find_map(|(unit, size)| {
            let number: u64 = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*size)
        });
        parsed.map(Self).ok_or_else(|| {
            "must be a whole number of bytes, KiB, MiB, GiB, KB, MB or GB".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_apart() {
        for (text, bytes) in [("0", 0), ("17", 17), ("2KiB", 2048), ("3 MB", 3_000_000)] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1TB", "99999999999GiB", "x"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }
}
