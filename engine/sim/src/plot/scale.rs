//! Axes: what they are called, which values they hold, where their ticks are.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged};

/// An axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures, with the unit, as `TTFT (ms)`.
    pub label: String,
    /// How values become places.
    pub scale: Scale,
    /// Lowest and highest value; from the data where it is `None`.
    pub range: Option<(f64, f64)>,
}

impl Axis {
    /// An axis with equal steps, from the data.
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, range: None }
    }

    /// An axis with equal factors, from the data that is positive.
    pub fn log(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Log, range: None }
    }

    /// An axis of names: the value 0 is the first.
    pub fn names(label: &str, names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        let range = Some((-0.5, names.len().max(1) as f64 - 0.5));
        Self { label: label.to_owned(), scale: Scale::Names(names), range }
    }

    /// The same with this lowest and highest value.
    #[must_use]
    pub fn over(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }
}

/// How values become places.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal steps.
    Linear,
    /// Equal factors; positive values only.
    Log,
    /// One name for each whole number from 0.
    Names(Vec<String>),
}

/// An axis whose ends and ticks are settled: what the drawing library asks for places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    is_log: bool,
    low: f64,
    high: f64,
    /// Where ticks are, and what is written there.
    pub(super) ticks: Vec<(f64, String)>,
}

/// Pixels between the texts of ticks.
const TICK_GAP: i32 = 8;
/// Ticks are not shortened below this many letters, which every number fits in.
const MIN_TICK_CHARS: usize = 8;

/// Whether an axis begins and ends at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Extended to the next tick.
    Ticks,
    /// Where the data does.
    Data,
}

impl Place {
    /// Settles `axis` for `values`; those that it cannot show are ignored.
    pub(super) fn new(axis: &Axis, values: impl Iterator<Item = f64>, ends: Ends) -> Self {
        let is_log = axis.scale == Scale::Log;
        let shown = |value: &f64| value.is_finite() && (!is_log || *value > 0.0);
        let found = values.filter(shown).fold(None, |range: Option<(f64, f64)>, value| {
            let (low, high) = range.unwrap_or((value, value));
            Some((low.min(value), high.max(value)))
        });
        let fallback = if is_log { (1.0, 10.0) } else { (0.0, 1.0) };
        let (low, high) = axis.range.or(found).unwrap_or(fallback);
        let ends = if axis.range.is_some() { Ends::Data } else { ends };
        match &axis.scale {
            Scale::Linear => Self::linear(low, high, ends),
            Scale::Log => Self::log(low, high, ends),
            Scale::Names(names) => {
                let named = names.iter().enumerate();
                let ticks = named.map(|(index, name)| (index as f64, name.clone())).collect();
                Self { is_log, low, high, ticks }
            }
        }
    }

    fn linear(mut low: f64, mut high: f64, ends: Ends) -> Self {
        // Counts and times are read from zero unless they vary little around something.
        if ends == Ends::Ticks && low > 0.0 && low < 0.6 * high {
            low = 0.0;
        }
        if high - low <= f64::EPSILON * high.abs().max(1e-300) {
            let around = if high == 0.0 { 1.0 } else { 0.1 * high.abs() };
            (low, high) = (low - around, high + around);
        }
        let step = nice_step((high - low) / 5.0);
        if ends == Ends::Ticks {
            low = (low / step + 1e-9).floor() * step;
            high = (high / step - 1e-9).ceil() * step;
        }
        let (first, last) =
            ((low / step - 1e-6).ceil() as i64, (high / step + 1e-6).floor() as i64);
        let tick = |index: i64| (index as f64 * step, number(index as f64 * step));
        Self { is_log: false, low, high, ticks: (first..=last).map(tick).collect() }
    }

    fn log(low: f64, high: f64, ends: Ends) -> Self {
        let high = if high <= low * 1.000_001 { low * 10.0 } else { high };
        let decades = (high / low).log10();
        let steps: &[f64] = match decades {
            ..2.5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let stride = (decades / 8.0).ceil().max(1.0) as i32;
        let exponents = low.log10().floor() as i32 - 1..=high.log10().ceil() as i32 + 1;
        let all: Vec<f64> = exponents
            .filter(|exponent| exponent % stride == 0)
            .flat_map(|exponent| steps.iter().map(move |step| step * 10_f64.powi(exponent)))
            .collect();
        let (mut low, mut high) = (low, high);
        if ends == Ends::Ticks {
            low = all.iter().copied().filter(|&tick| tick <= low * 1.001).fold(low, f64::max);
            low = all.iter().copied().rfind(|&tick| tick <= low * 1.001).unwrap_or(low);
            high = all.iter().copied().find(|&tick| tick >= high * 0.999).unwrap_or(high);
        }
        let within = |tick: &f64| *tick >= low * 0.999 && *tick <= high * 1.001;
        let ticks = all.into_iter().filter(within).map(|tick| (tick, number(tick))).collect();
        Self { is_log: true, low, high, ticks }
    }

    /// Letters of a tick that fit beside its neighbours', on an axis of this many pixels.
    pub(super) fn max_tick_chars(&self, pixels: i32) -> usize {
        let each = pixels / self.ticks.len().max(1) as i32 - TICK_GAP;
        super::style::max_chars(each, super::style::TEXT).max(MIN_TICK_CHARS)
    }

    /// Whether a value has a place.
    pub(super) fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.is_log || value > 0.0)
    }

    /// The lowest value.
    pub(super) fn low(&self) -> f64 {
        self.low
    }

    /// How far along the axis `value` is: 0 at its low end, 1 at its high one; cut to them.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_log {
            (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }
}

impl Ranged for Place {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        limit.0 + (f64::from(limit.1 - limit.0) * self.share(*value)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(value, _)| *value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * 0.999);
    factor.unwrap_or(10.0) * power
}

/// `value` in at most four digits, thousands grouped, millions as `M`, as ticks and tables show it.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        1e9.. => format!("{}G", trimmed(value / 1e9, 2)),
        1e6.. => format!("{}M", trimmed(value / 1e6, 2)),
        1e3.. => grouped(value.round() as i64),
        100.0.. => trimmed(value, 1),
        1.0.. => trimmed(value, 2),
        1e-4.. => trimmed(value, (3 - size.log10().ceil() as i32).max(0) as usize),
        _ if size.is_finite() => format!("{value:.1e}"),
        _ => "–".to_owned(),
    }
}

fn trimmed(value: f64, num_decimals: usize) -> String {
    let text = format!("{value:.num_decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn grouped(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = if value < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
