//! Shortest job first, with ageing.
//!
//! Size is what is left to compute: the uncached prompt (SGLang's shortest-prefill-first), plus the
//! predicted answer where there is a predictor (SSJF, arXiv 2404.08509). Ageing as in SGLang's pull
//! request 30806: a request gains `ageing` tokens of rank for each second it waits.
//!
//! Guarantee: `size - ageing * waited` orders requests at any moment as `size + ageing * arrival`
//! does, so a request of size s is overtaken only by those that arrive within s / ageing seconds
//! after it. Without ageing (0) a stream of small requests starves a large one for ever.

use super::Work;
use crate::sched::PolicyOptions;
use crate::sched::{
    Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh, SchedEvent, View,
};

/// Serves what is shortest first. Nothing that runs is displaced for it.
#[derive(Debug)]
pub struct Sjf {
    /// The size of a request.
    pub work: Work,
    /// Tokens of size that a second of waiting makes up for.
    pub ageing: f64,
}

impl Default for Sjf {
    fn default() -> Self {
        Self { work: Work::default(), ageing: Self::AGEING }
    }
}

impl Sjf {
    /// Default ageing, in tokens a second: a prompt of 4,000 tokens is overtaken for 20 seconds.
    pub const AGEING: f64 = 200.0;

    /// The keys `ageing`, and those of [`Work`].
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let work = Work::from_options(options, context)?;
        Ok(Self { work, ageing: options.number("ageing", 0.0..=1e9, Self::AGEING)? })
    }
}

impl Policy for Sjf {
    fn name(&self) -> &'static str {
        "sjf"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let size = self.work.remaining(request, view);
        Rank(size + self.ageing * request.arrival().as_secs_f64(), 0.0)
    }

    /// What is cached changes all the time.
    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        self.work.observe(event);
    }
}
