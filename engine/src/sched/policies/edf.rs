//! Earliest deadline first.
//!
//! A request's deadline is the earliest of what its client says: when to give it up, the time to
//! its first token, the time to its end. One that says nothing is due `default` after its arrival.
//!
//! Guarantee: a request due d seconds after its arrival is overtaken only by those that arrive
//! before it is due. There is no other ageing: a deadline that nears is one.

use crate::sched::PolicyOptions;
use crate::sched::{Policy, PolicyContext, PolicyError, PolicyRequest, Rank, View};
use crate::types::Nanos;

/// Serves first what is due first.
#[derive(Clone, Copy, Debug)]
pub struct Edf {
    /// Time after its arrival at which a request is due that does not say when.
    pub default: Nanos,
}

impl Default for Edf {
    fn default() -> Self {
        Self { default: Nanos(10_000_000_000) }
    }
}

impl Edf {
    /// The key `default`.
    pub fn from_options(
        options: &mut PolicyOptions<'_>,
        _: &PolicyContext,
    ) -> Result<Self, PolicyError> {
        Ok(Self { default: options.duration("default")?.unwrap_or(Self::default().default) })
    }

    /// When `request` is due.
    #[must_use]
    pub fn due(&self, request: &PolicyRequest<'_>) -> Nanos {
        let (arrival, slo) = (request.arrival(), request.slo());
        let first_token = slo.ttft.filter(|_| request.first_token().is_none());
        let within = [first_token, slo.e2el].into_iter().flatten().map(|time| arrival + time);
        let due = within.chain(request.deadline()).min();
        due.unwrap_or(arrival + self.default)
    }
}

impl Policy for Edf {
    fn name(&self) -> &'static str {
        "edf"
    }

    fn rank(&mut self, request: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank(self.due(request).as_secs_f64(), 0.0)
    }
}
