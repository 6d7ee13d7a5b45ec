//! One row from raw logits to a token, as a function of the row and its context.

use super::blocks::BlockMaxima;
use super::cut::{Candidate, Cut, Measure, Ranking, smallest_finite, sort};
use super::edit;
use super::mass;
use super::weights::Weights;
use crate::exec::random::RandomStream;
use crate::sched::Sequence;
use crate::types::{PromptLogprob, SampledToken, Sampling, SamplingParams, TokenId, TokenLogprobs};

/// All that the choice of a token depends on, besides the logits.
#[derive(Clone, Copy, Debug)]
pub struct RowContext<'a> {
    /// How to choose.
    pub params: &'a SamplingParams,
    /// Each token seen with how often it was generated, 0 for those in the prompt only. In any
    /// order, no token twice; empty when no penalty is on.
    pub counts: &'a [(TokenId, u32)],
    /// Tokens generated so far.
    pub num_generated: u32,
    /// Which choice of its request the row belongs to.
    pub choice_index: u32,
    /// Index that the new token will have in its sequence, the prompt counted.
    pub position: u32,
}

impl<'a> RowContext<'a> {
    /// The context of a sequence's next token. Fails for an embedding.
    pub(super) fn of(
        sequence: &'a Sequence,
        counts: &'a [(TokenId, u32)],
    ) -> Result<Self, Unsampleable> {
        Ok(Self {
            params: sequence.sampling().ok_or(Unsampleable::Embedding)?,
            counts,
            num_generated: sequence.num_generated(),
            choice_index: sequence.choice_index(),
            position: sequence.num_known(),
        })
    }
}

/// Why a row has no next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsampleable {
    /// The model, or a logits processor, computed nonsense.
    #[error("the logit of token {token} is not a number")]
    NotANumber {
        /// The first such token.
        token: TokenId,
    },
    /// The model overflowed, or a logits processor wrote it. To force a token, a processor sets
    /// the others to −∞.
    #[error("the logit of token {token} is infinite")]
    Infinite {
        /// The first such token.
        token: TokenId,
    },
    /// Processors, the grammar, `min_tokens` or the model itself left nothing.
    #[error(
        "no token can be sampled: every logit is -infinity after bias, min_tokens, processors and \
         grammar"
    )]
    AllBanned,
    /// The sequence embeds.
    #[error("a token was asked of an embedding")]
    Embedding,
}

impl Unsampleable {
    /// What is wrong with a row that holds NaN or +∞; NaN is named first.
    pub(super) fn of_broken(row: &[f32]) -> Self {
        let first = |is_broken: fn(f32) -> bool| row.iter().position(|&logit| is_broken(logit));
        if let Some(token) = first(f32::is_nan) {
            return Self::NotANumber { token: token as TokenId };
        }
        Self::Infinite { token: first(|logit| logit == f32::INFINITY).unwrap_or(0) as TokenId }
    }
}

/// What [`RowScratch::prepare`] hands to [`RowScratch::choose`] of the same row.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    raw: Option<RawLogprobs>,
}

/// Log-softmax of the raw logits, as far as it is reported.
#[derive(Debug)]
struct RawLogprobs {
    max: f32,
    /// Logarithm of the sum of e^(logit − max).
    log_sum: f64,
    top: Vec<(TokenId, f32)>,
}

impl RawLogprobs {
    fn logprob(&self, logit: f32) -> f32 {
        (f64::from(logit) - f64::from(self.max) - self.log_sum) as f32
    }
}

/// Working memory for one row at a time. Grows to V once; holds nothing between rows.
#[derive(Debug, Default)]
pub struct RowScratch {
    maxima: BlockMaxima,
    weights: Weights,
    candidates: Vec<Candidate>,
    /// The raw logits `[V]`, when the chosen token's log-probability must be known later.
    raw: Vec<f32>,
}

/// Chooses the next token of a row without logits processors.
///
/// `row` `[V]` holds the raw logits and is overwritten. The result depends on the arguments' values
/// only, not on what the scratch was used for.
pub fn sample_row(
    row: &mut [f32],
    context: &RowContext<'_>,
    scratch: &mut RowScratch,
) -> Result<SampledToken, Unsampleable> {
    let prepared = scratch.prepare(row, context)?;
    scratch.choose(row, context, prepared)
}

impl RowScratch {
    /// What comes before the logits processors: notes the log-probabilities of the raw logits
    /// `row` `[V]` if they are asked for, then applies penalties, bias and the `min_tokens` mask.
    pub fn prepare(
        &mut self,
        row: &mut [f32],
        context: &RowContext<'_>,
    ) -> Result<Prepared, Unsampleable> {
        let raw = match context.params.logprobs {
            Some(num_top) => Some(self.raw_logprobs(row, num_top)?),
            None => None,
        };
        edit::apply(row, context);
        Ok(Prepared { raw })
    }

    /// What comes after the logits processors: chooses a token from the final logits `row` `[V]`.
    ///
    /// A temperature that is not above 0 takes the largest logit, the smallest id among equals.
    /// Otherwise:
    /// 1. top-k keeps exactly `top_k` tokens, by logit, the smaller id first among equals;
    ///    0 and numbers from V up keep all;
    /// 2. weights are e^(logit / temperature), normalised over what is left;
    /// 3. top-p keeps the shortest prefix, in the same order, whose probabilities sum to
    ///    `top_p` or more, and never less than one token; from 1 up it keeps all;
    /// 4. min-p keeps tokens at least `min_p` times as likely as the likeliest, which stays;
    /// 5. the draw takes the first token, by id, at which the running sum of weights exceeds the
    ///    uniform number of this seed, choice and position times their total.
    ///
    /// Sums are of weights to the nearest 2⁻⁴⁰ of the largest: what is lighter than half of that
    /// is not drawn.
    pub fn choose(
        &mut self,
        row: &[f32],
        context: &RowContext<'_>,
        prepared: Prepared,
    ) -> Result<SampledToken, Unsampleable> {
        self.maxima.scan(row)?;
        let sampling = &context.params.sampling;
        let id = if sampling.temperature > 0.0 {
            self.truncate(row, sampling);
            let stream = RandomStream::new(sampling.seed, context.choice_index);
            self.weights.draw(stream.numerator(context.position))
        } else {
            self.maxima.argmax(row)
        };
        let logprobs = prepared.raw.map(|raw| {
            Box::new(TokenLogprobs { logprob: raw.logprob(self.raw[id as usize]), top: raw.top })
        });
        Ok(SampledToken { id, logprobs })
    }

    /// Weighs the tokens of the scanned `row` and takes the weight of those that are dropped.
    fn truncate(&mut self, row: &[f32], sampling: &Sampling) {
        let top_k = sampling.top_k as usize;
        let mut cut = Cut::NONE;
        if top_k > 0 && top_k < row.len() {
            cut = self.top_k(row, top_k);
        }
        let temperature = sampling.temperature;
        self.weights.weigh(row, &self.maxima, temperature, cut);
        if sampling.top_p < 1.0 {
            cut = cut.tighter(self.top_p(row, sampling, cut));
        }
        if sampling.top_p < 1.0 || sampling.min_p > 0.0 {
            let min_weight = sampling.min_p.clamp(0.0, 1.0);
            self.weights.keep(row, &self.maxima, cut, min_weight);
        }
    }

    /// The cut that keeps the `k` likeliest tokens of the scanned `row`; 1 ≤ `k` < V.
    fn top_k(&mut self, row: &[f32], k: usize) -> Cut {
        let mut floor = self.maxima.kth_largest(k);
        if floor == f32::NEG_INFINITY {
            floor = smallest_finite(row);
        }
        let ceiling = self.maxima.below_outliers();
        let ranking = Ranking { row, maxima: &self.maxima, measure: Measure::One };
        // Where fewer than `k` tokens are not banned, all stay.
        ranking.find(k as u64, floor..ceiling, &mut self.candidates).unwrap_or(Cut::NONE)
    }

    /// The cut that keeps mass `top_p` of the tokens within `cut`, which have been weighed.
    fn top_p(&mut self, row: &[f32], sampling: &Sampling, cut: Cut) -> Cut {
        let total = self.weights.total();
        let top_p = f64::from(sampling.top_p);
        let target = ((top_p * total as f64).ceil() as u64).clamp(1, total);
        // All tokens lighter than this share of the total weigh less than half of what may be
        // dropped; half of that, to be clear of rounding.
        let lightest = 0.25 * (1.0 - top_p) * mass::to_f64(total) / row.len() as f64;
        let depth = lightest.ln() * f64::from(sampling.temperature);
        let floor = (f64::from(self.maxima.max()) + depth) as f32;
        let lowest = if cut == Cut::NONE { smallest_finite(row) } else { cut.value };
        let ceiling = self.maxima.below_outliers();
        let measure = Measure::Mass(self.weights.values());
        let ranking = Ranking { row, maxima: &self.maxima, measure };
        let mut find = |floor| ranking.find(target, floor..ceiling, &mut self.candidates);
        // The second search is for temperatures so extreme that the depth is wrong.
        find(floor.max(lowest)).or_else(|| find(lowest)).unwrap_or(Cut::NONE)
    }

    /// How likely `token` is by the raw logits `row` `[V]`, with the `num_top` likeliest tokens.
    pub fn score(
        &mut self,
        row: &[f32],
        token: TokenId,
        num_top: u32,
    ) -> Result<PromptLogprob, Unsampleable> {
        let raw = self.raw_logprobs(row, num_top)?;
        let logit = row[token as usize];
        let num_likelier = row.iter().filter(|&&other| other > logit).count() as u32;
        let logprobs = TokenLogprobs { logprob: raw.logprob(logit), top: raw.top };
        Ok(PromptLogprob { logprobs, rank: num_likelier + 1 })
    }

    /// Log-softmax of the raw logits `row` `[V]` and its `num_top` likeliest tokens; tokens that
    /// the model itself rules out (−∞) are not listed.
    fn raw_logprobs(&mut self, row: &[f32], num_top: u32) -> Result<RawLogprobs, Unsampleable> {
        self.maxima.scan(row)?;
        self.raw.clear();
        self.raw.extend_from_slice(row);
        self.weights.weigh(row, &self.maxima, 1.0, Cut::NONE);
        let mut raw = RawLogprobs {
            max: self.maxima.max(),
            log_sum: mass::to_f64(self.weights.total()).ln(),
            top: Vec::new(),
        };
        if num_top == 0 {
            return Ok(raw);
        }
        let cut = match num_top as usize {
            k if k < row.len() => self.top_k(row, k),
            _ => Cut::NONE,
        };
        let ranking = Ranking { row, maxima: &self.maxima, measure: Measure::One };
        let lowest = cut.value.max(f32::MIN);
        ranking.collect(lowest, |_| true, &mut self.candidates);
        sort(&mut self.candidates);
        let kept = self.candidates.iter().filter(|c| cut.keeps(c.logit, c.id));
        let top = kept.map(|c| (c.id, raw.logprob(c.logit))).collect();
        raw.top = top;
        Ok(raw)
    }

    /// The tokens that can be drawn from the final logits `row` `[V]`, with their probabilities.
    #[cfg(test)]
    pub(super) fn drawable(
        &mut self,
        row: &[f32],
        sampling: &Sampling,
    ) -> Result<Vec<(TokenId, f64)>, Unsampleable> {
        self.maxima.scan(row)?;
        self.truncate(row, sampling);
        Ok(self.weights.drawable())
    }
}
