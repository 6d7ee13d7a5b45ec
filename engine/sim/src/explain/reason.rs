//! Why a sequence waits.

use folio_engine::sched::decisions::{Call, Decision, Obstacle};
use folio_engine::types::{ModelId, SequenceId};

use crate::history::History;

/// Kinds of reasons to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Reason {
    /// No plan has been made since it came.
    Step,
    /// As many run as may.
    MaxRunning,
    /// The step's tokens are granted.
    TokenBudget,
    /// As many prompts are partly computed as may be.
    PartialPrefills,
    /// Too few blocks are free.
    Blocks,
    /// The policy takes nobody in, or not it.
    Policy,
    /// Another computes its prefix.
    Held,
    /// A sibling computes its prompt.
    Sibling,
    /// Blocks ran out among those that run, so nobody is taken in.
    Preemption,
    /// The step in flight must end first.
    PutOff,
    /// The log does not say.
    Unknown,
}

impl Reason {
    pub(super) const ALL: [Self; 11] = [
        Self::Step,
        Self::MaxRunning,
        Self::TokenBudget,
        Self::PartialPrefills,
        Self::Blocks,
        Self::Policy,
        Self::Held,
        Self::Sibling,
        Self::Preemption,
        Self::PutOff,
        Self::Unknown,
    ];

    /// In a few words, without numbers.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Step => "the step in progress had to end",
            Self::MaxRunning => {
                "as many sequences ran as may (max_num_seqs, or the policy's limit)"
            }
            Self::TokenBudget => "the tokens of each step went to others (max_num_batched_tokens)",
            Self::PartialPrefills => {
                "as many prompts were partly computed as may be (max_num_partial_prefills)"
            }
            Self::Blocks => "too few KV blocks were free",
            Self::Policy => "the policy did not want it yet",
            Self::Held => "another request was computing the same prefix",
            Self::Sibling => "a sibling was computing the prompt that they share",
            Self::Preemption => "blocks ran out among the running, so nobody was taken in",
            Self::PutOff => "what it would take is in a step in flight",
            Self::Unknown => "the log does not say why",
        }
    }

    /// In a word, for tables.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Step => "step in progress",
            Self::MaxRunning => "max_num_seqs",
            Self::TokenBudget => "token budget",
            Self::PartialPrefills => "partial prefills",
            Self::Blocks => "KV blocks",
            Self::Policy => "policy",
            Self::Held => "shared prefix",
            Self::Sibling => "sibling's prompt",
            Self::Preemption => "preemption",
            Self::PutOff => "step in flight",
            Self::Unknown => "not known",
        }
    }

    pub(super) fn of(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::MaxRunning { .. } => Self::MaxRunning,
            Obstacle::TokenBudget => Self::TokenBudget,
            Obstacle::PartialPrefills => Self::PartialPrefills,
            Obstacle::Blocks { .. } => Self::Blocks,
            Obstacle::Policy => Self::Policy,
        }
    }
}

/// Why sequences of a model wait after a plan, unless they have a reason of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Closed {
    pub(super) reason: Reason,
    /// In front of whom the queue was closed, and why.
    pub(super) before: Option<(SequenceId, Obstacle)>,
}

/// What `plan` tells about those of `model` that it left waiting. `None`: nothing.
pub(super) fn closed(plan: &Call, model: ModelId, history: &History) -> Option<Closed> {
    let mut closed = None;
    for decision in &plan.decisions {
        match decision {
            Decision::Blocked { id, obstacle } => {
                let is_same = history.member(*id).is_some_and(|member| member.model == model);
                if is_same {
                    let before = Some((*id, *obstacle));
                    closed = Some(Closed { reason: Reason::of(*obstacle), before });
                }
            }
            Decision::PutOff => closed = Some(Closed { reason: Reason::PutOff, before: None }),
            Decision::Preempted(_) if closed.is_none() => {
                closed = Some(Closed { reason: Reason::Preemption, before: None });
            }
            _ => {}
        }
    }
    closed
}
