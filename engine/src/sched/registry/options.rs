//! The parameters of a policy: `key=value ...`.

use std::ops::RangeInclusive;
use std::str::FromStr;

use super::error::{PolicyError, SpecText, suggestion};
use super::{PolicyContext, predictor};
use crate::sched::LengthPredictor;
use crate::types::Nanos;

/// The parameters that a spec gives. A policy takes those it knows; any other is refused.
#[derive(Debug)]
pub struct PolicyOptions<'a> {
    policy: &'a str,
    pairs: Vec<Pair<'a>>,
    /// Keys that were asked for, given or not.
    known: Vec<&'static str>,
}

#[derive(Debug)]
struct Pair<'a> {
    key: &'a str,
    value: SpecText<'a>,
    /// The whole `key=value`.
    word: SpecText<'a>,
}

impl<'a> PolicyOptions<'a> {
    /// Reads what follows the name of `policy`.
    pub(super) fn read(policy: &'a str, text: SpecText<'a>) -> Result<Self, PolicyError> {
        let mut pairs: Vec<Pair<'a>> = Vec::new();
        let mut rest = text;
        loop {
            let skipped = rest.text().len() - rest.text().trim_start().len();
            rest = rest.after(skipped);
            if rest.text().is_empty() {
                return Ok(Self { policy, pairs, known: Vec::new() });
            }
            let end = rest.text().find(char::is_whitespace).unwrap_or(rest.text().len());
            let word = rest.part(0, end);
            rest = rest.after(end);
            let Some((key, _)) = word.text().split_once('=') else {
                let message = format!("{:?} must read key=value", word.text());
                return Err(word.error_at(0, message));
            };
            if pairs.iter().any(|pair| pair.key == key) {
                return Err(word.error_at(0, format!("{key} is given twice")));
            }
            pairs.push(Pair { key, value: word.after(key.len() + 1), word });
        }
    }

    /// The text of a parameter, where it is given. Also says what is wrong with it.
    pub fn text(&mut self, key: &'static str) -> Option<SpecText<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.pairs.iter().find(|pair| pair.key == key).map(|pair| pair.value)
    }

    /// A parameter that `read` understands; `limit` says what it may be, for the error.
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        limit: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, PolicyError> {
        let Some(value) = self.text(key) else { return Ok(None) };
        match read(value.text()) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.refused(key, limit)),
        }
    }

    /// A number within `range`, or `default` where none is given.
    pub fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<f64>,
        default: f64,
    ) -> Result<f64, PolicyError> {
        let limit = format!("a number from {} to {}", range.start(), range.end());
        let value = self.parsed(key, &limit, |text| in_range(text, &range))?;
        Ok(value.unwrap_or(default))
    }

    /// A whole number within `range`, or `default` where none is given.
    pub fn count(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Result<u32, PolicyError> {
        let limit = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.parsed(key, &limit, |text| in_range(text, &range))?;
        Ok(value.unwrap_or(default))
    }

    /// A length of time, such as `30ms` or `1.5s`, above 0 and at most an hour.
    pub fn duration(&mut self, key: &'static str) -> Result<Option<Nanos>, PolicyError> {
        let limit = "a time above 0 and at most 1h, such as 500us, 30ms or 1.5s";
        self.parsed(key, limit, parse_duration)
    }

    /// One of `choices`, or `default` where none is given.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
        default: T,
    ) -> Result<T, PolicyError> {
        let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
        let limit = format!("one of {}", names.join(", "));
        let find = |text: &str| choices.iter().find(|&&(name, _)| name == text).map(|&(_, c)| c);
        Ok(self.parsed(key, &limit, find)?.unwrap_or(default))
    }

    /// The predictor that `predictor=` names, where it is given.
    pub fn predictor(
        &mut self,
        context: &PolicyContext,
    ) -> Result<Option<Box<dyn LengthPredictor>>, PolicyError> {
        match self.text("predictor") {
            Some(text) => predictor(text, context),
            None => Ok(None),
        }
    }

    /// That the value of `key` must be `limit`. `key` must be given.
    #[must_use]
    pub fn refused(&self, key: &str, limit: &str) -> PolicyError {
        match self.pairs.iter().find(|pair| pair.key == key) {
            Some(Pair { value, .. }) => {
                let message = format!("{key} is {:?} and must be {limit}", value.text());
                value.error_at(0, message)
            }
            None => SpecText::of(self.policy).error_at(0, format!("{key} must be {limit}")),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn check_all_used(&self) -> Result<(), PolicyError> {
        let is_unknown = |pair: &&Pair<'_>| !self.known.contains(&pair.key);
        let Some(Pair { key, word, .. }) = self.pairs.iter().find(is_unknown) else {
            return Ok(());
        };
        let hint = suggestion(key, &self.known);
        let known = match self.known.as_slice() {
            [] => "it has none".to_owned(),
            known => format!("it has {}", known.join(", ")),
        };
        let message = format!("{key} is not a parameter of {}{hint}; {known}", self.policy);
        Err(word.error_at(0, message))
    }
}

fn in_range<T: FromStr + PartialOrd>(text: &str, range: &RangeInclusive<T>) -> Option<T> {
    text.parse().ok().filter(|value| range.contains(value))
}

/// `30ms`: a number and one of us, ms, s, above 0 and at most an hour.
pub(crate) fn parse_duration(text: &str) -> Option<Nanos> {
    const UNITS: [(&str, f64); 4] = [("us", 1e3), ("ms", 1e6), ("s", 1e9), ("h", 3600e9)];
    let (number, unit) = UNITS.iter().find_map(|(name, nanos)| {
        let number = text.strip_suffix(name)?;
        number.ends_with(|c: char| c.is_ascii_digit() || c == '.').then_some((number, nanos))
    })?;
    let nanos = number.parse::<f64>().ok()? * unit;
    ((1.0..=3600e9).contains(&nanos)).then_some(Nanos(nanos as u64))
}
