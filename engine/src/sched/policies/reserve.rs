//! Admission with blocks reserved for what is still to come.
//!
//! A request is taken in only where its answer, and the rest of all that run, would find blocks.
//! Reserving the whole of `max_tokens` never preempts and wastes most of the pool (Orca); reserving
//! nothing preempts under pressure (vLLM); between them lie a ratio that adapts (SGLang) and
//! predicted lengths (S3, NeurIPS 2023). When nothing runs, the core takes one in whatever is
//! reserved.

use crate::sched::PolicyOptions;
use crate::sched::{
    Admit, HistogramPredictor, LengthPredictor, Phase, PolicyContext, PolicyError, PolicyRequest,
    SchedEvent, View,
};

/// How many tokens are reserved for an answer.
#[derive(Debug)]
pub enum Reserve {
    /// A share of what `max_tokens` leaves, 4,096 tokens of it at the most: at first this share.
    /// It decays to a seventh of it over 600 steps, and is raised by each preemption.
    Ratio(f64),
    /// What nine in ten such requests generate, says this predictor.
    Predicted(Box<dyn LengthPredictor>),
    /// All of `max_tokens`.
    Max,
}

impl Reserve {
    /// SGLang's first ratio.
    pub const RATIO: f64 = 0.7;

    /// The key `reserve`.
    pub(super) fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Option<Self>, PolicyError> {
        let Some(text) = options.text("reserve") else { return Ok(None) };
        match text.text().split_once(':').unwrap_or((text.text(), "")) {
            ("none", "") => Ok(None),
            ("max", "") => Ok(Some(Self::Max)),
            ("ratio", "") => Ok(Some(Self::Ratio(Self::RATIO))),
            ("ratio", ratio) => match ratio.parse() {
                Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(Some(Self::Ratio(ratio))),
                _ => Err(options.refused("reserve", "ratio:R with R from 0 to 1")),
            },
            ("oracle", "") => match &context.lengths {
                Some(lengths) => {
                    let oracle = crate::sched::Oracle::new(std::sync::Arc::clone(lengths));
                    Ok(Some(Self::Predicted(Box::new(oracle))))
                }
                None => Err(options.refused(
                    "reserve",
                    "something else here: true lengths are known in a simulation only",
                )),
            },
            ("predicted", "") => {
                let predictor = super::predictor(options, context)?;
                let histogram = || Box::new(HistogramPredictor::default()) as Box<_>;
                Ok(Some(Self::Predicted(predictor.unwrap_or_else(histogram))))
            }
            _ => Err(options.refused("reserve", "none, ratio, ratio:R, predicted, oracle or max")),
        }
    }
}

/// Keeps the account of what is reserved.
#[derive(Debug)]
pub(super) struct Reservation {
    reserve: Reserve,
    /// The ratio now.
    ratio: f64,
    /// The blocks that what runs will still take, and the cycle for which this was counted.
    growth: Option<(u64, u64)>,
}

/// Most tokens of an answer that a ratio is taken of.
const MAX_RATIO_TOKENS: u32 = 4096;
/// Steps in which the ratio decays, and the share of the first at which it stays.
const DECAY_STEPS: f64 = 600.0;
const MIN_SHARE: f64 = 0.14;
/// Tokens that each running request should be able to generate after a preemption.
const TOKENS_AFTER_PREEMPTION: f64 = 20.0;

impl Reservation {
    pub(super) fn new(reserve: Reserve) -> Self {
        let ratio = match reserve {
            Reserve::Ratio(first) => first,
            Reserve::Predicted(_) | Reserve::Max => 1.0,
        };
        Self { reserve, ratio, growth: None }
    }

    /// Tokens that `request` is expected to generate from now on.
    fn expected(&self, request: PolicyRequest<'_>) -> u32 {
        let left = request.max_tokens().saturating_sub(request.num_generated());
        match &self.reserve {
            Reserve::Max => left,
            Reserve::Ratio(_) => (f64::from(left.min(MAX_RATIO_TOKENS)) * self.ratio).ceil() as u32,
            Reserve::Predicted(predictor) => {
                let total = predictor.predict(&request).p90.ceil() as u32;
                total.saturating_sub(request.num_generated()).min(left)
            }
        }
    }

    /// Blocks that what runs will still take.
    fn growth(&mut self, view: &View<'_>) -> u64 {
        if let Some((cycle, blocks)) = self.growth
            && cycle == view.cycle()
        {
            return blocks;
        }
        let size = view.kv().block_size;
        let running = view.running().filter_map(|id| view.request(id));
        let missing = running.map(|request| {
            let end = request.num_known().saturating_add(self.expected(request));
            u64::from(end.div_ceil(size).saturating_sub(request.num_blocks()))
        });
        let blocks = missing.sum();
        self.growth = Some((view.cycle(), blocks));
        blocks
    }

    /// The policy's `answer` with what must be free besides.
    pub(super) fn admit(
        &mut self,
        answer: Admit,
        request: PolicyRequest<'_>,
        view: &View<'_>,
    ) -> Admit {
        let Admit::Now { reserve_tokens } = answer else { return answer };
        if request.max_tokens() == 0 || request.phase() != Phase::Waiting {
            return answer;
        }
        let limits = view.defaults();
        let in_first_step = limits.chunk.min(limits.token_budget);
        let rest_of_prompt = view.num_uncached_tokens(&request).saturating_sub(in_first_step);
        let others = self.growth(view).saturating_mul(u64::from(view.kv().block_size));
        let others = u32::try_from(others).unwrap_or(u32::MAX);
        let own = rest_of_prompt.saturating_add(self.expected(request));
        let reserve_tokens = reserve_tokens.saturating_add(own).saturating_add(others);
        Admit::Now { reserve_tokens }
    }

    pub(super) fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        if let Reserve::Predicted(predictor) = &mut self.reserve {
            super::work::learn(predictor.as_mut(), event);
        }
        match *event {
            SchedEvent::Admitted { .. } => self.growth = None,
            SchedEvent::Preempted(_) => {
                self.growth = None;
                self.raise(view);
            }
            SchedEvent::Stepped { .. } => self.decay(),
            _ => {}
        }
    }

    /// A preemption shows that the ratio was too low: it becomes that of what running requests
    /// have generated, and a little more, to what they may.
    fn raise(&mut self, view: &View<'_>) {
        let running = view.running().filter_map(|id| view.request(id));
        let (mut wanted, mut most) = (0.0, 1.0);
        for request in running {
            wanted += f64::from(request.num_generated()) + TOKENS_AFTER_PREEMPTION;
            most += f64::from(request.max_tokens());
        }
        self.ratio = self.ratio.max(wanted / most).min(1.0);
    }

    fn decay(&mut self) {
        if let Reserve::Ratio(first) = self.reserve {
            let step = first * (1.0 - MIN_SHARE) / DECAY_STEPS;
            self.ratio = (self.ratio - step).max(first * MIN_SHARE);
        }
    }
}
