//! The second research seam: a planner makes the whole plan of a step itself, where a
//! [`Policy`] only proposes an order.
//!
//! For joint optimisation, such as SLOs-Serve (arXiv 2504.08784) and Andes (arXiv 2404.16283). The
//! core keeps what it keeps from a policy: budget, blocks, places, the share of encoder texts, the
//! rules of planning ahead, and that the oldest running sequence progresses. How a plan is carried
//! out is in `joint`.

use super::{
    Admit, Displacement, Limits, Policy, PolicyRequest, PreemptionMode, Rank, Refresh, SchedEvent,
    Victim, View,
};
use crate::types::SequenceId;

/// Decides everything about the decoder's sequences in each step. Encoder texts are planned by
/// the core, in order of arrival.
///
/// Waiting sequences are kept, and shown, in order of arrival. A plan in which the planner grants
/// nothing although something could be computed is overridden by the first-come-first-served one
/// and counted in [`Totals::num_overridden_plans`](super::Totals::num_overridden_plans).
pub trait Planner: Send {
    /// Name on the command line and in reports.
    fn name(&self) -> &str;

    /// Makes the plan of one step by calls on `plan`, which also shows the state: the view it
    /// gives has what the calls before have changed.
    fn plan(&mut self, plan: &mut dyn Plan);

    /// Told of everything that happens, for planners with a state. What comes of its own calls it
    /// is told once [`plan`](Self::plan) has returned, with the view as it is then.
    fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        let _ = (event, view);
    }
}

/// The plan of one step in the making. Each call is carried out at once and whole; one that is
/// refused changes nothing.
///
/// The configured limits hold: tokens of a step, prompt tokens of one sequence, sequences that
/// run, prompts that are partly computed. One token and its block are held back for the oldest
/// running sequence until it has its grant, and it gets them if the planner does not grant it any.
pub trait Plan {
    /// The state now.
    fn view(&self) -> View<'_>;

    /// Lets a running or waiting sequence compute up to `max_tokens` of its pending tokens, and
    /// tells how many it was granted: fewer where it has fewer, or a limit is lower. A waiting one
    /// starts to run, with what the prefix cache has of it and what preemption saved of it. One
    /// grant a sequence and step.
    fn grant(&mut self, id: SequenceId, max_tokens: u32) -> Result<u32, Refused>;

    /// Takes the blocks of a running sequence and puts it back among the waiting. Not the oldest,
    /// none that is in this plan, and none while a step is in flight or once something saved was
    /// brought back in this plan: preempt before granting.
    fn preempt(&mut self, id: SequenceId, mode: PreemptionMode) -> Result<(), Refused>;

    /// Brings back what a preemption saved of a waiting sequence, ahead of its next grant; it runs
    /// from now on. False, and nothing happens, where nothing is saved, it does not fit, or a step
    /// is in flight.
    fn prefetch(&mut self, id: SequenceId) -> bool;

    /// Ends a waiting sequence as refused.
    fn reject(&mut self, id: SequenceId) -> Result<(), Refused>;

    /// Tokens that may still be granted in this step, the one held back for the oldest not counted.
    fn budget_left(&self) -> u32;

    /// Blocks that may still be handed out, those held back for the oldest not counted.
    fn free_blocks(&self) -> u32;
}

/// Why a call changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Blocks are missing.
    #[error("{short} blocks are missing")]
    NoBlocks {
        /// How many more would have to be free.
        short: u32,
    },
    /// The step's tokens, the places among the running, or those of partly computed prompts are
    /// taken.
    #[error("the limits of the step are reached")]
    NoBudget,
    /// Not this sequence, or not now: it has ended, is in the plan already, is an encoder text,
    /// waits for a sibling or for its latest token, or a running sequence is about to compute the
    /// prompt that it shares.
    #[error("it cannot be planned so now")]
    NotPlannable,
}

/// What decides the order of service: a policy under the core's own loop, or a planner.
pub enum Decider {
    /// Proposes an order, limits, admissions and victims.
    Ranked(Box<dyn Policy>),
    /// Makes the plan.
    Joint(Box<dyn Planner>),
}

impl From<Box<dyn Policy>> for Decider {
    fn from(policy: Box<dyn Policy>) -> Self {
        Self::Ranked(policy)
    }
}

impl<P: Policy + 'static> From<Box<P>> for Decider {
    fn from(policy: Box<P>) -> Self {
        Self::Ranked(policy)
    }
}

impl From<Box<dyn Planner>> for Decider {
    fn from(planner: Box<dyn Planner>) -> Self {
        Self::Joint(planner)
    }
}

impl std::fmt::Debug for Decider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Self::Ranked(_) => "Ranked",
            Self::Joint(_) => "Joint",
        };
        f.debug_tuple(kind).field(&self.name()).finish()
    }
}

/// What the core asks of either: a planner's sequences keep the order of arrival.
impl Decider {
    /// Name on the command line and in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Ranked(policy) => policy.name(),
            Self::Joint(planner) => planner.name(),
        }
    }

    #[inline]
    pub(super) fn rank(&mut self, request: PolicyRequest<'_>, view: &View<'_>) -> Rank {
        match self {
            Self::Ranked(policy) => policy.rank(&request, view),
            Self::Joint(_) => Rank::default(),
        }
    }

    #[inline]
    pub(super) fn refresh(&self) -> Refresh {
        match self {
            Self::Ranked(policy) => policy.refresh(),
            Self::Joint(_) => Refresh::OnArrival,
        }
    }

    #[inline]
    pub(super) fn displacement(&self) -> Displacement {
        match self {
            Self::Ranked(policy) => policy.displacement(),
            Self::Joint(_) => Displacement::Never,
        }
    }

    #[inline]
    pub(super) fn limits(&mut self, view: &View<'_>) -> Limits {
        match self {
            Self::Ranked(policy) => policy.limits(view),
            Self::Joint(_) => view.defaults(),
        }
    }

    #[inline]
    pub(super) fn admit(&mut self, request: PolicyRequest<'_>, view: &View<'_>) -> Admit {
        match self {
            Self::Ranked(policy) => policy.admit(&request, view),
            Self::Joint(_) => Admit::Now { reserve_tokens: 0 },
        }
    }

    pub(super) fn victim(&mut self, candidates: &[SequenceId], view: &View<'_>) -> Option<Victim> {
        match self {
            Self::Ranked(policy) => policy.victim(candidates, view),
            Self::Joint(_) => None,
        }
    }

    #[inline]
    pub(super) fn observe(&mut self, event: &SchedEvent, view: &View<'_>) {
        match self {
            Self::Ranked(policy) => policy.observe(event, view),
            Self::Joint(planner) => planner.observe(event, view),
        }
    }
}
