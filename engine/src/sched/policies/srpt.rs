//! Shortest remaining processing time, preemptive, with ageing.
//!
//! A better-ranked waiting request displaces a running one where there is no room for both, but,
//! by the rule of TRAIL (arXiv 2410.01035), only while the running one has generated less than `c`
//! of what was predicted for it at first: later, too much computed would be thrown away for too
//! little gain. What is computed again counts as work, so that equals do not displace each other.
//!
//! Guarantee: as for `sjf`, a request with work s left is overtaken only by those that arrive
//! within s / ageing seconds after it.

use std::collections::HashMap;

use super::Work;
use crate::sched::PolicyOptions;
use crate::sched::{
    Displacement, HistogramPredictor, Phase, Policy, PolicyContext, PolicyError, PolicyRequest,
    Rank, Refresh, SchedEvent, View,
};
use crate::types::SequenceId;

/// Serves first what will be done first.
#[derive(Debug)]
pub struct Srpt {
    /// What is left of a request. Without a predictor, prompts alone.
    pub work: Work,
    /// Share of its first prediction up to which a running request may be displaced; 0 for never.
    pub c: f64,
    /// Tokens of work that a second since the arrival makes up for.
    pub ageing: f64,
    /// What was predicted for each live sequence when it was first seen, in tokens.
    first_predicted: HashMap<SequenceId, f64>,
}

impl Srpt {
    /// TRAIL's `c`.
    pub const C: f64 = 0.8;
    /// Default ageing, in tokens a second.
    pub const AGEING: f64 = 50.0;

    /// A policy over `work`.
    #[must_use]
    pub fn new(work: Work, c: f64, ageing: f64) -> Self {
        Self { work, c, ageing, first_predicted: HashMap::new() }
    }

    /// The keys `c`, `ageing`, and those of [`Work`]; the predictor is a histogram unless another
    /// is asked for.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let mut work = Work::from_options(options, context)?;
        work.predictor.get_or_insert_with(|| Box::new(HistogramPredictor::default()));
        let c = options.number("c", 0.0..=1.0, Self::C)?;
        Ok(Self::new(work, c, options.number("ageing", 0.0..=1e9, Self::AGEING)?))
    }

    /// Whether a running request is too far on to be displaced.
    fn is_protected(&mut self, request: PolicyRequest<'_>) -> bool {
        let Some(predictor) = &self.work.predictor else { return false };
        let first = self.first_predicted.entry(request.id());
        let predicted = *first.or_insert_with(|| predictor.predict(&request).mean);
        let is_late = f64::from(request.num_generated()) >= self.c * predicted;
        is_late && request.phase() == Phase::Running
    }
}

impl Policy for Srpt {
    fn name(&self) -> &'static str {
        "srpt"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let class = if self.is_protected(*request) { 0.0 } else { 1.0 };
        let left = self.work.remaining(request, view);
        Rank(class, left + self.ageing * request.arrival().as_secs_f64())
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn displacement(&self) -> Displacement {
        Displacement::ByRank
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        self.work.observe(event);
        if let SchedEvent::Finished { id, .. } = event {
            self.first_predicted.remove(id);
        }
    }
}
