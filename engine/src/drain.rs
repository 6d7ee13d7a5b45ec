//! How fast the queue drains: measured while something waits, for saying how long a wait will be.
//!
//! What passes through an empty queue says nothing about its rate, so the clock of a
//! [`DrainMeter`] runs only while something waits. The engine thread measures; whoever submits
//! reads the [`DrainRate`] that it publishes.

use std::collections::VecDeque;

use crate::types::Nanos;

/// Measured time after which a sample no longer counts, if enough newer ones do.
const WINDOW: Nanos = Nanos(30_000_000_000);
/// Samples that count however old they are.
const MIN_SAMPLES: usize = 32;
/// Samples that count at most.
const MAX_SAMPLES: usize = 4096;

/// Work in the queue, or out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Choices.
    pub num_choices: u64,
    /// Their tokens; of a prompt that choices share, once.
    pub num_tokens: u64,
}

impl Work {
    /// What is left of `self` after `other` is taken away.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self {
            num_choices: self.num_choices.saturating_sub(other.num_choices),
            num_tokens: self.num_tokens.saturating_sub(other.num_tokens),
        }
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.num_choices += other.num_choices;
        self.num_tokens += other.num_tokens;
    }
}

/// Measures how fast the queue drains.
#[derive(Debug, Default)]
pub struct DrainMeter {
    samples: VecDeque<Sample>,
    /// What all samples drained.
    drained: Work,
    /// Measured time before the first sample.
    base: Nanos,
    /// Time measured in all.
    measured: Nanos,
    /// What had been started when it was told last, and when that was.
    started: Work,
    updated: Nanos,
    is_waiting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// On the clock of the meter.
    at: Nanos,
    drained: Work,
}

impl DrainMeter {
    /// At `now`, `started` has left the queue since the beginning, and `is_waiting` says whether
    /// something is still in it. To be told after every plan.
    pub fn update(&mut self, started: Work, is_waiting: bool, now: Nanos) {
        let drained = started.less(self.started);
        if self.is_waiting {
            self.measured = self.measured + now.since(self.updated);
            if drained != Work::default() {
                self.enter(drained);
            }
        }
        self.started = started;
        self.updated = now;
        self.is_waiting = is_waiting;
    }

    fn enter(&mut self, drained: Work) {
        let at = self.measured;
        match self.samples.back_mut() {
            Some(last) if last.at == at => last.drained += drained,
            _ => self.samples.push_back(Sample { at, drained }),
        }
        self.drained += drained;
        while let Some(first) = self.samples.front().copied() {
            let is_old = at.since(first.at) > WINDOW && self.samples.len() > MIN_SAMPLES;
            if !is_old && self.samples.len() <= MAX_SAMPLES {
                break;
            }
            self.samples.pop_front();
            self.drained = self.drained.less(first.drained);
            self.base = first.at;
        }
    }

    /// What was measured so far.
    #[must_use]
    pub fn rate(&self) -> DrainRate {
        DrainRate {
            drained: self.drained,
            within: self.measured.since(self.base),
            updated: self.updated,
            is_waiting: self.is_waiting,
        }
    }
}

/// How fast the queue drained lately. Goes on to fall while nothing leaves the queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct DrainRate {
    drained: Work,
    within: Nanos,
    updated: Nanos,
    is_waiting: bool,
}

impl DrainRate {
    /// How long work of `work` takes to leave the queue: what the slower of its choices and its
    /// tokens takes. `None` when nothing was measured.
    #[must_use]
    pub fn time_for(&self, work: Work, now: Nanos) -> Option<Nanos> {
        let (by_choices, by_tokens) = self.times_for(work, now)?;
        Some(by_choices.max(by_tokens))
    }

    /// How long a choice that comes after `ahead` is expected to wait: the mean of what the number
    /// of choices and the number of tokens ahead of it say, since either may be what limits.
    /// Nothing, when nothing was measured.
    #[must_use]
    pub fn expected_wait(&self, ahead: Work, now: Nanos) -> Nanos {
        self.times_for(ahead, now).map_or(Nanos(0), |(by_choices, by_tokens)| {
            Nanos(u64::midpoint(by_choices.0, by_tokens.0))
        })
    }

    fn times_for(&self, work: Work, now: Nanos) -> Option<(Nanos, Nanos)> {
        let going_on = if self.is_waiting { now.since(self.updated) } else { Nanos(0) };
        let within = self.within + going_on;
        if within == Nanos(0) {
            return None;
        }
        let time = |num: u64, num_drained: u64| match (num, num_drained) {
            (0, _) => Nanos(0),
            // Nothing has left yet: it will take as long again, at the least.
            (_, 0) => within,
            _ => Nanos((within.0 as f64 * num as f64 / num_drained as f64) as u64),
        };
        let by_choices = time(work.num_choices, self.drained.num_choices);
        Some((by_choices, time(work.num_tokens, self.drained.num_tokens)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn work(num_choices: u64, num_tokens: u64) -> Work {
        Work { num_choices, num_tokens }
    }

    #[test]
    fn what_passes_an_empty_queue_is_not_measured() {
        let mut meter = DrainMeter::default();
        for second in 1..100 {
            meter.update(work(second, 10 * second), false, Nanos(second * SECOND));
        }
        assert_eq!(meter.rate().time_for(work(1, 1), Nanos(200 * SECOND)), None);
        assert_eq!(meter.rate().expected_wait(work(1, 1), Nanos(200 * SECOND)), Nanos(0));
    }

    #[test]
    fn the_rate_is_that_of_the_time_in_which_something_waited() {
        let mut meter = DrainMeter::default();
        let mut started = work(500, 90_000);
        meter.update(started, true, Nanos(0));
        for second in 1..=60 {
            started += work(2, 100);
            meter.update(started, true, Nanos(second * SECOND));
        }
        let (rate, now) = (meter.rate(), Nanos(60 * SECOND));
        assert_eq!(rate.time_for(work(10, 0), now), Some(Nanos(5 * SECOND)));
        assert_eq!(rate.time_for(work(10, 2000), now), Some(Nanos(20 * SECOND)));
        assert_eq!(rate.expected_wait(work(20, 2000), now), Nanos(15 * SECOND));
        // A standstill of as long as was measured halves the rate.
        let later = rate.time_for(work(10, 0), Nanos((60 + 32) * SECOND)).unwrap();
        assert!(later.0.abs_diff(10 * SECOND) < SECOND, "{later:?}");
    }

    #[test]
    fn a_change_of_rate_is_followed() {
        let mut meter = DrainMeter::default();
        let (mut started, mut now) = (Work::default(), 0);
        meter.update(started, true, Nanos(0));
        for step in 0..800 {
            now += SECOND / 10;
            started += if step < 400 { work(8, 800) } else { work(1, 100) };
            meter.update(started, true, Nanos(now));
        }
        let time = meter.rate().time_for(work(10, 0), Nanos(now)).unwrap();
        assert!(time.0.abs_diff(SECOND) < SECOND / 100, "{time:?}");
    }
}
