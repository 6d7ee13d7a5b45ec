//! Where to cut the ranking of a row: top-k and top-p without sorting it.
//!
//! Tokens rank by logit, the smaller id first among equals. Both filters keep the shortest
//! prefix of that ranking whose measure reaches a target; they differ in the measure, which is
//! 1 a token or its mass, an integer either way: no rounding, so the prefix is the one a sort
//! would find. A histogram of the logits, made from the blocks that reach into its
//! range, tells the bucket in which the target is reached; only tokens of that bucket are looked
//! at one by one, and sorted once they are few.

use std::cmp::Ordering;
use std::ops::Range;

use super::blocks::{BLOCK, BlockMaxima, LANES, fold_lanes, padded, range_of};
use super::mass::mass_of;
use crate::types::TokenId;

/// Buckets of a histogram; a power of two.
const NUM_BUCKETS: usize = 1024;
/// Tokens of a bucket that are sorted rather than spread over another histogram.
const MAX_SORTED: usize = 512;

/// The last token of the ranking that is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    /// Its logit.
    pub(super) value: f32,
    /// Its id: of the tokens with that logit, those up to it are kept.
    pub(super) id: TokenId,
}

impl Cut {
    /// Keeps everything.
    pub(super) const NONE: Self = Self { value: f32::NEG_INFINITY, id: TokenId::MAX };

    /// Whether the token ranks at or before the cut.
    pub(super) fn keeps(self, logit: f32, id: TokenId) -> bool {
        logit > self.value || (logit >= self.value && id <= self.id)
    }

    /// The one that keeps fewer.
    pub(super) fn tighter(self, other: Self) -> Self {
        if self.keeps(other.value, other.id) { other } else { self }
    }
}

/// A token in the ranking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Its logit.
    pub(super) logit: f32,
    /// Its id.
    pub(super) id: TokenId,
    measure: u64,
}

/// What a token counts for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure<'a> {
    /// 1.
    One,
    /// The mass of its weight; `[V]`, valid in blocks that reach the search's floor.
    Mass(&'a [f32]),
}

/// A row to be cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranking<'a> {
    /// Logits `[V]`.
    pub(super) row: &'a [f32],
    /// Their block maxima.
    pub(super) maxima: &'a BlockMaxima,
    /// What the target is measured in.
    pub(super) measure: Measure<'a>,
}

impl Ranking<'_> {
    /// The shortest prefix whose measure is `target`, at least 1, or more.
    ///
    /// `None` when all tokens at or above `expected.start` together measure less. The end is a
    /// guess that only speed depends on: what is above it shares a bucket.
    pub(super) fn find(
        &self,
        target: u64,
        expected: Range<f32>,
        candidates: &mut Vec<Candidate>,
    ) -> Option<Cut> {
        let floor = expected.start.max(f32::MIN);
        let spread = Spread::over(floor, expected.end.max(floor));
        let mut histogram = Histogram::default();
        self.fill(&mut histogram, floor, spread);
        let (bucket, mut above) = histogram.crossing(0, target)?;
        let is_in_bucket = |logit: f32| spread.bucket(logit) == bucket;
        self.collect(floor, is_in_bucket, candidates);
        while candidates.len() > MAX_SORTED {
            let num_before = candidates.len();
            above = narrow(candidates, above, target);
            // Equals, or so close together that no histogram tells them apart.
            if candidates.len() == num_before {
                break;
            }
        }
        sort(candidates);
        last_needed(candidates, above, target)
    }

    /// Puts the tokens of at least `floor` whose logit `is_wanted` into `candidates`, by id.
    pub(super) fn collect(
        &self,
        floor: f32,
        is_wanted: impl Fn(f32) -> bool,
        candidates: &mut Vec<Candidate>,
    ) {
        let is_wanted = |logit: f32| u32::from(logit >= floor) & u32::from(is_wanted(logit));
        candidates.clear();
        for block in self.maxima.reaching(floor) {
            let logits = &self.row[range_of(block, self.row.len())];
            for (chunk, logits) in logits.chunks(LANES).enumerate() {
                // Without a jump a token, chunks with nothing wanted pass quickly.
                if logits.iter().fold(0, |any, &x| any | is_wanted(x)) == 0 {
                    continue;
                }
                let start = block * BLOCK + chunk * LANES;
                let tokens = (start..).zip(logits);
                let wanted = tokens.filter(|&(_, &logit)| is_wanted(logit) != 0);
                candidates.extend(wanted.map(|(token, &logit)| self.candidate(token, logit)));
            }
        }
    }

    fn candidate(&self, token: usize, logit: f32) -> Candidate {
        Candidate {
            logit,
            id: token as TokenId,
            measure: match self.measure {
                Measure::One => 1,
                Measure::Mass(weights) => mass_of(weights[token]),
            },
        }
    }

    /// Adds all tokens of at least `floor`, the low end of `spread`.
    fn fill(&self, histogram: &mut Histogram, floor: f32, spread: Spread) {
        let mut buckets = [0u32; BLOCK];
        let mut measures = [0u64; BLOCK];
        for block in self.maxima.reaching(floor) {
            let range = range_of(block, self.row.len());
            let logits = &self.row[range.clone()];
            // Elementwise work apart from the additions: it becomes vector code. What is below
            // the floor adds 0, each to another bucket: additions to one wait for each other.
            for ((bucket, &logit), unused) in buckets.iter_mut().zip(logits).zip(0..) {
                *bucket = if logit >= floor { spread.bucket(logit) } else { unused };
            }
            match self.measure {
                Measure::One => measures.fill(1),
                Measure::Mass(weights) => {
                    for (measure, &weight) in measures.iter_mut().zip(&weights[range]) {
                        *measure = mass_of(weight);
                    }
                }
            }
            for (measure, &logit) in measures.iter_mut().zip(logits) {
                *measure = if logit >= floor { *measure } else { 0 };
            }
            for (&bucket, &measure) in buckets.iter().zip(&measures[..logits.len()]) {
                histogram.add(bucket, measure);
            }
        }
    }
}

/// Puts candidates in the order of the ranking.
pub(super) fn sort(candidates: &mut [Candidate]) {
    candidates.sort_unstable_by(|a, b| {
        // Not `total_cmp`: the two zeros are equal logits.
        let by_logit = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
        by_logit.then(a.id.cmp(&b.id))
    });
}

/// The smallest logit above −∞, as a floor where there is no better one.
pub(super) fn smallest_finite(row: &[f32]) -> f32 {
    let smaller = |a: f32, b: f32| if b < a { b } else { a };
    let or_infinity = |x: f32| {
        if x > f32::NEG_INFINITY { x } else { f32::INFINITY }
    };
    let mut min = [f32::INFINITY; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    let last = padded(rest, f32::INFINITY);
    for chunk in chunks.iter().chain([&last]) {
        for lane in 0..LANES {
            min[lane] = smaller(min[lane], or_infinity(chunk[lane]));
        }
    }
    fold_lanes(min, smaller)
}

/// Keeps the candidates of the bucket in which the target is reached, in their order. `above` is
/// the measure of the tokens that rank before all of them; returns the new one.
fn narrow(candidates: &mut Vec<Candidate>, above: u64, target: u64) -> u64 {
    let logits = candidates.iter().map(|candidate| candidate.logit);
    let (low, high) = logits.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), logit| {
        (low.min(logit), high.max(logit))
    });
    let spread = Spread::over(low, high);
    let mut histogram = Histogram::default();
    for candidate in candidates.iter() {
        histogram.add(spread.bucket(candidate.logit), candidate.measure);
    }
    let Some((bucket, above)) = histogram.crossing(above, target) else {
        return above;
    };
    candidates.retain(|candidate| spread.bucket(candidate.logit) == bucket);
    above
}

/// The cut at the candidate with which the sum, started at `above`, reaches `target`.
fn last_needed(candidates: &[Candidate], above: u64, target: u64) -> Option<Cut> {
    let mut sum = above;
    let last = candidates.iter().find(|candidate| {
        sum += candidate.measure;
        sum >= target
    });
    last.map(|last| Cut { value: last.logit, id: last.id })
}

/// Spreads a range of logits evenly over the buckets; monotone.
#[derive(Clone, Copy, Debug)]
struct Spread {
    low: f32,
    scale: f32,
}

impl Spread {
    fn over(low: f32, high: f32) -> Self {
        let width = f64::from(high) - f64::from(low);
        Self { low, scale: ((NUM_BUCKETS - 1) as f64 / width).min(f64::from(f32::MAX)) as f32 }
    }

    /// Logits outside the range go into the first or the last. No branch and no cast that could
    /// saturate, so that a loop becomes vector code.
    #[inline]
    fn bucket(self, logit: f32) -> u32 {
        /// 2²³: adding it leaves the nearest integer in the low bits.
        const ROUND: f32 = 8_388_608.0;
        const LAST: f32 = (NUM_BUCKETS - 1) as f32;
        let place = (logit - self.low) * self.scale;
        let place = if place > 0.0 { place } else { 0.0 };
        let place = if place < LAST { place } else { LAST };
        (place + ROUND).to_bits() - ROUND.to_bits()
    }
}

/// Measure of the tokens in each bucket.
#[derive(Debug)]
struct Histogram {
    sums: [u64; NUM_BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sums: [0; NUM_BUCKETS] }
    }
}

impl Histogram {
    #[inline]
    fn add(&mut self, bucket: u32, measure: u64) {
        self.sums[bucket as usize % NUM_BUCKETS] += measure;
    }

    /// The bucket, from the highest down, with which the sum, started at `above`, reaches
    /// `target`; and the sum before it.
    fn crossing(&self, above: u64, target: u64) -> Option<(u32, u64)> {
        let mut sum = above;
        for (bucket, &measure) in self.sums.iter().enumerate().rev() {
            if sum + measure >= target {
                return Some((bucket as u32, sum));
            }
            sum += measure;
        }
        None
    }
}
