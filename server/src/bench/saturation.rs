//! When a load is more than the server can take: requests in flight and the time to the first
//! token both grow, significantly and by much.
//!
//! Neighbouring observations are alike, so a regression over all of them would see a trend in
//! every fluctuation. The recent part of the run is cut into bins, and the trend is one of their
//! means.

use super::sample::Sample;

/// Bins whose means are looked at.
const NUM_BINS: usize = 10;
/// Observations before anything is said.
const MIN_OBSERVATIONS: usize = 100;
/// Student's t of 8 degrees of freedom at 99 %, one side.
const MIN_T: f64 = 2.9;
/// Growth over the bins, as a share of their mean, below which nobody minds.
const MIN_GROWTH: f64 = 0.5;

/// Watches a run.
#[derive(Clone, Debug)]
pub struct Rule {
    min_seconds: f64,
    observations: Vec<Observation>,
    next_look: f64,
}

/// What is seen when a request ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Seconds from the start of the run.
    pub at: f64,
    /// Requests in flight.
    pub num_open: f64,
    /// Seconds to the first token, from the scheduled time.
    pub ttft: f64,
}

impl Observation {
    /// The end of `sample`, which leaves `num_open` others in flight.
    pub fn of(sample: &Sample, num_open: usize) -> Self {
        let ttft = sample.ttft_sched().unwrap_or_else(|| sample.e2el_sched());
        Self { at: sample.times.last, num_open: num_open as f64, ttft }
    }
}

impl Rule {
    /// A rule that says nothing in the first `min_seconds`.
    pub fn new(min_seconds: f64) -> Self {
        Self { min_seconds, observations: Vec::new(), next_look: min_seconds }
    }

    /// Takes one more observation; the reason to stop, if there is one now.
    pub fn observe(&mut self, observation: Observation) -> Option<String> {
        self.observations.push(observation);
        let now = observation.at;
        if now < self.next_look || self.observations.len() < MIN_OBSERVATIONS {
            return None;
        }
        self.next_look = now + 1.0;
        // The start of a run fills an empty server: that growth is no saturation.
        let begin = (now / 3.0).min(self.min_seconds);
        let open = self.growth(begin, now, |seen| seen.num_open)?;
        let ttft = self.growth(begin, now, |seen| seen.ttft)?;
        Some(format!(
            "over-saturated after {now:.0} s: requests in flight grew by {:.0} % and the time to \
             the first token by {:.0} % of their means over the last {:.0} s",
            100.0 * open,
            100.0 * ttft,
            now - begin
        ))
    }

    /// Growth over the bins as a share of their mean, if it is significant and much.
    fn growth(&self, begin: f64, now: f64, of: impl Fn(&Observation) -> f64) -> Option<f64> {
        let mut bins = [(0.0, 0u32); NUM_BINS];
        let width = (now - begin) / NUM_BINS as f64;
        for seen in self.observations.iter().filter(|seen| seen.at >= begin) {
            let bin = ((seen.at - begin) / width) as usize;
            let (sum, num) = &mut bins[bin.min(NUM_BINS - 1)];
            *sum += of(seen);
            *num += 1;
        }
        if bins.iter().any(|&(_, num)| num == 0) {
            return None;
        }
        let means = bins.map(|(sum, num)| sum / f64::from(num));
        let (slope, standard_error) = regression(&means);
        let mean = means.iter().sum::<f64>() / NUM_BINS as f64;
        let growth = slope * (NUM_BINS - 1) as f64 / mean.max(f64::MIN_POSITIVE);
        (slope > MIN_T * standard_error && growth > MIN_GROWTH).then_some(growth)
    }
}

/// Slope of the least-squares line through `values`, one apart, and its standard error.
fn regression(values: &[f64]) -> (f64, f64) {
    let num = values.len() as f64;
    let (middle, mean) = ((num - 1.0) / 2.0, values.iter().sum::<f64>() / num);
    let positions = (0..values.len()).map(|index| index as f64 - middle);
    let spread: f64 = positions.clone().map(|x| x * x).sum();
    let slope = positions.clone().zip(values).map(|(x, y)| x * (y - mean)).sum::<f64>() / spread;
    let residuals = positions.zip(values).map(|(x, y)| (y - mean - slope * x).powi(2));
    (slope, (residuals.sum::<f64>() / (num - 2.0) / spread).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(ttft: impl Fn(f64) -> f64, num_open: impl Fn(f64) -> f64) -> bool {
        let mut rule = Rule::new(30.0);
        (0..1200).any(|index| {
            let at = f64::from(index) * 0.1;
            let seen = Observation { at, num_open: num_open(at), ttft: ttft(at) };
            rule.observe(seen).is_some()
        })
    }

    #[test]
    fn only_growth_of_both_stops_a_run() {
        let wave = |at: f64| 1.0 + 0.3 * (at * 0.7).sin();
        assert!(stops(|at| 0.1 + 0.05 * at, |at| 4.0 + at));
        assert!(!stops(wave, wave), "a steady server");
        assert!(!stops(|at| 0.1 + 0.05 * at, wave), "longer prompts, perhaps");
        assert!(!stops(|at| at.min(5.0), |at| at.min(5.0)), "a server that fills");
    }
}
