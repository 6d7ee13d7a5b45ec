//! How much work a request still is, in tokens, for policies that order by size.

use crate::sched::PolicyOptions;
use crate::sched::{
    FinishedLength, LengthPredictor, PolicyContext, PolicyError, PolicyRequest, SchedEvent, View,
};

/// The price of a request's remaining tokens: those of its prompt that are not cached, and those
/// that it is expected to generate.
#[derive(Debug)]
pub struct Work {
    /// Price of a token to compute for the prompt, or again after a preemption.
    pub prefill: f64,
    /// Price of a token to generate. Without a predictor these do not count.
    pub decode: f64,
    /// Who says how many there will be.
    pub predictor: Option<Box<dyn LengthPredictor>>,
}

impl Default for Work {
    /// Uncached prompt tokens alone.
    fn default() -> Self {
        Self { prefill: 1.0, decode: 1.0, predictor: None }
    }
}

impl Work {
    /// The keys `prefill`, `decode` and `predictor`.
    pub(super) fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        let default = Self::default();
        Ok(Self {
            prefill: options.number("prefill", 0.0..=1000.0, default.prefill)?,
            decode: options.number("decode", 0.0..=1000.0, default.decode)?,
            predictor: super::predictor(options, context)?,
        })
    }

    /// What is left of `request`.
    #[must_use]
    pub fn remaining(&self, request: &PolicyRequest<'_>, view: &View<'_>) -> f64 {
        let prompt = f64::from(view.num_uncached_tokens(request));
        let output = self.predictor.as_ref().map_or(0.0, |predictor| {
            let left = predictor.predict(request).mean - f64::from(request.num_generated());
            left.max(0.0)
        });
        self.prefill * prompt + self.decode * output
    }

    /// Lets the predictor learn.
    pub fn observe(&mut self, event: &SchedEvent) {
        if let Some(predictor) = &mut self.predictor {
            learn(predictor.as_mut(), event);
        }
    }
}

/// Tells `predictor` of answers that have ended.
pub(super) fn learn(predictor: &mut dyn LengthPredictor, event: &SchedEvent) {
    if let SchedEvent::Finished { tenant, prompt_len, num_generated: output_len, .. } = *event {
        predictor.observe_finished(FinishedLength { tenant, prompt_len, output_len });
    }
}
