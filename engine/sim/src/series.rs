//! What is counted while the virtual time passes: samples of the state, tokens and arrivals a
//! second. Memory does not grow with the length of the run.

use folio_engine::sched::Gauges;
use folio_engine::types::{Nanos, StepReport};

use crate::outcome::{Burstiness, Sample};

/// Samples that are kept at the most: when there are more, every second one is dropped and the
/// time between them doubles.
pub const MAX_SAMPLES: usize = 2048;

/// Time between the first samples.
const FIRST_INTERVAL: Nanos = Nanos(100_000_000);

const SECOND: u64 = 1_000_000_000;

/// Samples of the state over time.
#[derive(Debug)]
pub(crate) struct Series {
    samples: Vec<Sample>,
    interval: Nanos,
    next_at: Nanos,
    /// Steps and tokens since the latest sample.
    num_steps: u64,
    num_tokens: u64,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            samples: Vec::new(),
            interval: FIRST_INTERVAL,
            next_at: Nanos(0),
            num_steps: 0,
            num_tokens: 0,
        }
    }
}

impl Series {
    /// Counts a step; tells whether it is time for a [sample](Self::sample).
    pub(crate) fn count(&mut self, num_tokens: u32, now: Nanos) -> bool {
        self.num_steps += 1;
        self.num_tokens += u64::from(num_tokens);
        now >= self.next_at
    }

    /// Takes a sample of the engines' state.
    pub(crate) fn sample(&mut self, engines: impl Iterator<Item = Gauges>, now: Nanos) {
        let mut sample = Sample { at: now, ..Sample::default() };
        let (mut num_used, mut num_blocks) = (0, 0);
        for gauges in engines {
            num_used += gauges.num_used_blocks;
            num_blocks += gauges.num_blocks;
            sample.num_running += gauges.num_running;
            sample.num_waiting += gauges.num_waiting;
            sample.num_preemptions += gauges.totals.num_preemptions;
            sample.num_generated += gauges.totals.num_generated_tokens;
            sample.num_prefill += gauges.totals.num_prefill_tokens;
            sample.num_steps += gauges.totals.num_steps;
        }
        sample.kv_use = f64::from(num_used) / f64::from(num_blocks.max(1));
        sample.tokens_per_step = self.num_tokens as f64 / self.num_steps.max(1) as f64;
        (self.num_steps, self.num_tokens) = (0, 0);
        self.samples.push(sample);
        if self.samples.len() > MAX_SAMPLES {
            self.thin_out();
        }
        self.next_at = now + self.interval;
    }

    fn thin_out(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.interval = self.interval + self.interval;
    }

    /// The samples, in the order of time.
    pub(crate) fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

/// Counts things by the second, in the order of time, and remembers only sums over the seconds.
#[derive(Debug, Default)]
pub(crate) struct PerSecond {
    /// Where the first second starts.
    origin: Option<Nanos>,
    second: u64,
    in_second: u64,
    max: u64,
    sum: u64,
    sum_of_squares: f64,
}

impl PerSecond {
    /// Seconds are counted from `origin` on.
    pub(crate) fn start(&mut self, origin: Nanos) {
        self.origin.get_or_insert(origin);
    }

    /// Counts `num` at `now`, which is no earlier than the time before.
    pub(crate) fn add(&mut self, num: u64, now: Nanos) {
        let since = now.since(self.origin.unwrap_or_default());
        let second = since.0 / SECOND;
        if second > self.second {
            self.settle();
            self.second = second;
        }
        self.in_second += num;
    }

    fn settle(&mut self) {
        let num = std::mem::take(&mut self.in_second);
        self.max = self.max.max(num);
        self.sum += num;
        self.sum_of_squares += num as f64 * num as f64;
    }

    /// The most in one second.
    pub(crate) fn max(&mut self) -> u64 {
        self.settle();
        self.max
    }

    /// Variance over mean of the numbers in the seconds, the empty ones included.
    pub(crate) fn burstiness(&mut self) -> Burstiness {
        self.settle();
        let num_seconds = self.second + 1;
        let mean = self.sum as f64 / num_seconds as f64;
        if num_seconds < 2 || self.sum == 0 {
            return Burstiness { num_seconds, index_of_dispersion: 0.0 };
        }
        let variance = self.sum_of_squares / num_seconds as f64 - mean * mean;
        Burstiness { num_seconds, index_of_dispersion: variance.max(0.0) / mean }
    }
}

/// Tokens that a step computed.
pub(crate) fn num_tokens(report: &StepReport) -> u32 {
    report.num_prefill_tokens + report.num_decode_tokens + report.num_wasted_tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_thin_out_and_keep_their_order() {
        let mut series = Series::default();
        let mut now = Nanos(0);
        for _ in 0..100_000 {
            now = now + Nanos(SECOND / 20);
            if series.count(3, now) {
                series.sample(std::iter::empty(), now);
            }
        }
        let samples = series.into_samples();
        assert!(samples.len() > MAX_SAMPLES / 3 && samples.len() <= MAX_SAMPLES);
        assert!(samples.is_sorted_by_key(|sample| sample.at));
        assert!(samples.iter().all(|sample| (sample.tokens_per_step - 3.0).abs() < 1e-12));
    }

    /// Worked out by hand: 2, 0, 4 in three seconds: mean 2, variance 8/3.
    #[test]
    fn seconds_without_arrivals_count() {
        let mut seconds = PerSecond::default();
        seconds.start(Nanos(5 * SECOND));
        for (num, at) in [(1, 5 * SECOND), (1, 6 * SECOND - 1), (4, 7 * SECOND + 7)] {
            seconds.add(num, Nanos(at));
        }
        let Burstiness { num_seconds, index_of_dispersion } = seconds.burstiness();
        assert_eq!(num_seconds, 3);
        assert!((index_of_dispersion - 8.0 / 6.0).abs() < 1e-12);
        assert_eq!(seconds.max(), 4);
    }
}
