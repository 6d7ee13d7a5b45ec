//! Workloads made of others: faster, shorter, longer, or with other times of arrival.

use std::sync::Arc;

use folio_engine::types::Nanos;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Gamma};

use crate::prompt::mix;
use crate::workload::{After, ReadTally, Record, TraceError, Workload};

/// A workload whose arrivals are `factor` times as fast. Users think as long as ever.
#[derive(Debug)]
pub struct Rescaled<W> {
    inner: W,
    factor: f64,
}

impl<W: Workload> Rescaled<W> {
    /// `factor` is above 0: 2 is twice as fast.
    pub fn new(inner: W, factor: f64) -> Self {
        Self { inner, factor }
    }
}

impl<W: Workload> Workload for Rescaled<W> {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        let record = self.inner.next()?;
        Some(record.map(|record| {
            let arrival = Nanos((record.arrival.0 as f64 / self.factor) as u64);
            Record { arrival, ..record }
        }))
    }

    fn tally(&self) -> ReadTally {
        self.inner.tally()
    }
}

/// How arrivals are drawn: the gaps between them have a gamma distribution, as vLLM's `bench serve`
/// draws them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Arrivals a second, on average; above 0. Infinite: all at once.
    pub rate: f64,
    /// Shape of the gaps, above 0: 1 for a Poisson process, less for bursts, more for regularity.
    /// Their coefficient of variation is one over its square root.
    pub burstiness: f64,
}

/// Draws times of arrival.
#[derive(Debug)]
pub(crate) struct Drawn {
    gaps: Option<Gamma<f64>>,
    random: ChaCha8Rng,
    seconds: f64,
}

impl Drawn {
    /// The first arrival is at 0.
    pub(crate) fn new(pace: Pace, seed: u64) -> Self {
        let is_finite = pace.rate.is_finite() && pace.rate > 0.0;
        let scale = 1.0 / (pace.rate * pace.burstiness);
        let gaps = if is_finite { Gamma::new(pace.burstiness, scale).ok() } else { None };
        Self { gaps, random: ChaCha8Rng::seed_from_u64(seed), seconds: 0.0 }
    }

    /// The next time of arrival.
    pub(crate) fn next(&mut self) -> Nanos {
        let now = Nanos::from_secs_f64(self.seconds);
        self.seconds += self.gaps.map_or(0.0, |gaps| gaps.sample(&mut self.random));
        now
    }
}

/// A workload with drawn times of arrival. What waits for another request still does.
#[derive(Debug)]
pub struct Arrivals<W> {
    inner: W,
    drawn: Drawn,
}

impl<W: Workload> Arrivals<W> {
    /// Arrivals of `inner` at this pace, whatever its own times are.
    pub fn new(inner: W, pace: Pace, seed: u64) -> Self {
        Self { inner, drawn: Drawn::new(pace, seed) }
    }
}

impl<W: Workload> Workload for Arrivals<W> {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        let record = self.inner.next()?;
        Some(record.map(|record| match record.after {
            Some(_) => record,
            None => Record { arrival: self.drawn.next(), ..record },
        }))
    }

    fn tally(&self) -> ReadTally {
        self.inner.tally()
    }
}

/// The first records of a workload.
#[derive(Debug)]
pub struct Limited<W> {
    inner: W,
    num_left: u64,
}

impl<W: Workload> Limited<W> {
    /// No more than `num` records of `inner`.
    pub fn new(inner: W, num: u64) -> Self {
        Self { inner, num_left: num }
    }
}

impl<W: Workload> Workload for Limited<W> {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        self.num_left = self.num_left.checked_sub(1)?;
        self.inner.next()
    }

    fn tally(&self) -> ReadTally {
        self.inner.tally()
    }
}

/// A trace over and over, as long as records are wanted.
///
/// The pattern of arrivals is that of the trace each time, one mean gap after the last arrival of
/// the time before. What is asked for is shuffled among the arrivals from the second time on, so
/// that lengths and arrivals do not come in the same order again; the trace's own distribution
/// of lengths stays exactly as it is. Where requests share prefixes or follow each other, the order
/// is part of what the trace says and stays, and ids of prefixes are new each time.
#[derive(Debug)]
pub struct Repeated {
    rows: Arc<[Record]>,
    /// Which row asks at each place of the order of arrival.
    order: Vec<u32>,
    /// Times that the trace was gone through, and how far it is now.
    round: u64,
    position: usize,
    /// Time from the first arrival of a round to that of the next.
    period: Nanos,
    seed: u64,
    is_fixed: bool,
    read: ReadTally,
}

impl Repeated {
    /// The `rows` of a trace over and over; `read` is what is told of them.
    #[must_use]
    pub fn new(rows: Arc<[Record]>, seed: u64, read: ReadTally) -> Self {
        let arrivals = rows.iter().filter(|row| row.after.is_none()).map(|row| row.arrival);
        let (num, last) = (arrivals.clone().count() as u64, arrivals.max().unwrap_or_default());
        let mean_gap = last.0 / num.saturating_sub(1).max(1);
        Self {
            order: (0..rows.len() as u32).collect(),
            round: 0,
            position: 0,
            period: last + Nanos(mean_gap),
            seed,
            is_fixed: rows.iter().any(|row| row.after.is_some() || !row.prefix.is_empty()),
            rows,
            read,
        }
    }

    fn start_round(&mut self) {
        self.round += 1;
        self.position = 0;
        if !self.is_fixed {
            let mut random = ChaCha8Rng::seed_from_u64(mix(self.seed ^ mix(self.round)));
            self.order.shuffle(&mut random);
        }
    }
}

impl Workload for Repeated {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        if self.position == self.rows.len() {
            self.start_round();
        }
        let place = self.rows.get(self.position)?;
        let mut record = self.rows[*self.order.get(self.position)? as usize].clone();
        self.position += 1;
        let (round, num_rows) = (self.round, self.rows.len() as u64);
        record.arrival = Nanos(place.arrival.0 + self.period.0 * round);
        if round > 0 {
            record.prefix = record.prefix.iter().map(|&id| mix(id ^ mix(round))).collect();
            record.session = record.session.map(|session| session + round * num_rows);
            let shifted = |after: After| After { record: after.record + round * num_rows, ..after };
            record.after = record.after.map(shifted);
        }
        Some(Ok(record))
    }

    fn tally(&self) -> ReadTally {
        self.read.clone()
    }
}

/// Requests of a workload a second, from the first arrival to the last; `None` where that says
/// nothing. Reads the workload to its end.
pub fn offered_rate(workload: &mut dyn Workload) -> Result<Option<f64>, TraceError> {
    let (mut num, mut first, mut last) = (0_u64, None, Nanos(0));
    while let Some(record) = workload.next() {
        let record = record?;
        if record.after.is_none() {
            num += 1;
            last = record.arrival;
            first.get_or_insert(record.arrival);
        }
    }
    let span = last.since(first.unwrap_or_default()).as_secs_f64();
    Ok((num > 1 && span > 0.0).then(|| (num - 1) as f64 / span))
}

impl<W: Workload + ?Sized> Workload for Box<W> {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        (**self).next()
    }

    fn tally(&self) -> ReadTally {
        (**self).tally()
    }
}
