//! From samples to the series of a figure.

use super::{Layer, Scale, Shape};
use crate::statistics::percentile;

/// Points of a distribution's curve: enough for every bend that a figure can show.
const NUM_CURVE_POINTS: u32 = 120;

/// The share of `samples` (any order, non-finite ones ignored) at or below each value: (value,
/// share), from the least to the most.
pub fn cumulative(samples: &[f64]) -> Vec<(f64, f64)> {
    let sorted = sorted(samples);
    let point = |index: u32| {
        let share = f64::from(index) / f64::from(NUM_CURVE_POINTS);
        percentile(&sorted, 100.0 * share).map(|value| (value, share))
    };
    (0..=NUM_CURVE_POINTS).filter_map(point).collect()
}

/// The share of `samples` above each value: (value, share), down to one sample; for logarithmic
/// axes.
pub fn tail(samples: &[f64]) -> Vec<(f64, f64)> {
    let sorted = sorted(samples);
    let decades = (sorted.len().max(1) as f64).log10();
    let point = |index: u32| {
        let share = 10_f64.powf(-decades * f64::from(index) / f64::from(NUM_CURVE_POINTS));
        percentile(&sorted, 100.0 * (1.0 - share)).map(|value| (value, share))
    };
    (0..=NUM_CURVE_POINTS).filter_map(point).collect()
}

/// Counts of `samples` in `num_bins` bins, of equal widths or (logarithmic) of equal factors:
/// (from, to, count). Samples that the scale cannot show are ignored.
pub fn histogram(samples: &[f64], scale: &Scale, num_bins: u32) -> Vec<(f64, f64, f64)> {
    let is_log = *scale == Scale::Log;
    let mut sorted = sorted(samples);
    if is_log {
        sorted.retain(|value| *value > 0.0);
        for value in &mut sorted {
            *value = value.ln();
        }
    }
    let (Some(&low), Some(&high)) = (sorted.first(), sorted.last()) else { return Vec::new() };
    let num_bins = if high > low { num_bins.max(1) } else { 1 };
    let (low, high) = if high > low { (low, high) } else { (low - 0.05, high + 0.05) };
    let edge = |index: u32| low + (high - low) * f64::from(index) / f64::from(num_bins);
    let shown = |value: f64| if is_log { value.exp() } else { value };
    let below = |value: f64| sorted.partition_point(|sample| *sample < value);
    let bin = |index: u32| {
        let upper = if index + 1 == num_bins { sorted.len() } else { below(edge(index + 1)) };
        let count = upper - below(edge(index));
        (shown(edge(index)), shown(edge(index + 1)), count as f64)
    };
    (0..num_bins).map(bin).collect()
}

/// A series and what it is called.
pub type Named = (String, Vec<(f64, f64)>);

/// Series over the same x, one upon the other: the first at the bottom. Missing points count as
/// zero.
pub fn stacked(series: &[Named]) -> Vec<Layer> {
    let longest = series.iter().map(|(_, points)| points.len()).max().unwrap_or(0);
    let mut floor = vec![0.0; longest];
    let layer = |(colour, (name, points)): (usize, &Named)| {
        let band = points.iter().zip(&mut floor).map(|(&(x, y), floor)| {
            let low = *floor;
            *floor += y.max(0.0);
            (x, low, *floor)
        });
        Layer::new(name.clone(), colour, Shape::Area(band.collect()))
    };
    series.iter().enumerate().map(layer).collect()
}

/// Where a rising curve of latency over load bends: the x furthest below the straight line from
/// its first point to its last, with the logarithm of y ("kneedle", Satopää et al., 2011). `None`
/// of fewer than four points, or where nothing bends by a tenth of the whole.
pub fn knee(points: &[(f64, f64)]) -> Option<f64> {
    let mut points: Vec<(f64, f64)> = points
        .iter()
        .filter(|(x, y)| x.is_finite() && *y > 0.0)
        .map(|&(x, y)| (x, y.ln()))
        .collect();
    points.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (&(first_x, first_y), &(last_x, last_y)) = (points.first()?, points.last()?);
    if points.len() < 4 || last_x <= first_x || last_y <= first_y {
        return None;
    }
    let below = |&(x, y): &(f64, f64)| {
        (x - first_x) / (last_x - first_x) - (y - first_y) / (last_y - first_y)
    };
    let furthest = points.iter().max_by(|left, right| below(left).total_cmp(&below(right)))?;
    (below(furthest) > 0.1).then_some(furthest.0)
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted: Vec<f64> = samples.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}
