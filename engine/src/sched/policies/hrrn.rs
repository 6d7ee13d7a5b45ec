//! Highest response ratio next (Brinch Hansen, 1971), with tokens as time as in SGLang.
//!
//! A request's ratio is `(waited + work) / work`, where it has waited for as many tokens as the
//! engine has computed since it arrived. Short ones go first, but every ratio grows without bound.
//!
//! Guarantee: who is overtaken by a request of work r, and has work s itself, has waited at most
//! s / r times as long as that one. As long as short requests wait a bounded time, so do long ones.

use std::collections::HashMap;

use super::Work;
use crate::sched::PolicyOptions;
use crate::sched::{
    Policy, PolicyContext, PolicyError, PolicyRequest, Rank, Refresh, SchedEvent, View,
};
use crate::types::SequenceId;

/// Serves first who has waited longest for what it wants.
#[derive(Debug, Default)]
pub struct Hrrn {
    /// The work of a request.
    pub work: Work,
    /// Tokens granted since the start.
    num_granted: u64,
    /// The count above when each live sequence arrived.
    at_arrival: HashMap<SequenceId, u64>,
}

impl Hrrn {
    /// The keys of [`Work`].
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        context: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        Ok(Self { work: Work::from_options(options, context)?, ..Self::default() })
    }
}

impl Policy for Hrrn {
    fn name(&self) -> &'static str {
        "hrrn"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, view: &View<'_>) -> Rank {
        let since = *self.at_arrival.entry(request.id()).or_insert(self.num_granted);
        let waited = (self.num_granted - since) as f64;
        // At least one token is left of whatever waits; what runs may have none.
        let work = self.work.remaining(request, view).max(f64::MIN_POSITIVE);
        Rank(-(waited / work), 0.0)
    }

    fn refresh(&self) -> Refresh {
        Refresh::EveryStep
    }

    fn observe(&mut self, event: &SchedEvent, _: &View<'_>) {
        self.work.observe(event);
        match *event {
            SchedEvent::Arrived(id) => {
                self.at_arrival.insert(id, self.num_granted);
            }
            SchedEvent::Granted { num_tokens, .. } => self.num_granted += u64::from(num_tokens),
            SchedEvent::Finished { id, .. } => {
                self.at_arrival.remove(&id);
            }
            _ => {}
        }
    }
}
