//! What can happen to a sequence, and how it is told.

use std::fmt::Write as _;

use folio_engine::sched::decisions::{ComputedFate, Preemption, PreemptionCause};
use folio_engine::types::Nanos;

use super::wait::Wait;
use crate::history::{count, duration};

/// Chunks of a prompt that are shown one by one.
const NUM_CHUNKS: usize = 6;

/// Something worth telling.
pub(super) enum Beat {
    Arrived { num_ahead: usize },
    Carried,
    Waited(Wait),
    Started { num_cached: u32, is_first: bool },
    Prompt { chunks: Vec<u32>, took: Nanos },
    FirstToken,
    Decoded(Tokens),
    Preempted(Preemption, String),
    Failure(String),
    Lost(u64),
    Ended(String),
}

/// Tokens since it last started.
#[derive(Clone, Default)]
pub(super) struct Tokens {
    pub(super) num: u64,
    pub(super) num_before: u64,
    pub(super) first: Nanos,
    pub(super) last: Nanos,
    pub(super) longest: Nanos,
    pub(super) longest_at: Nanos,
}

impl Tokens {
    pub(super) fn add(&mut self, at: Nanos) {
        if self.num == 0 {
            self.first = at;
        } else if at.since(self.last) > self.longest {
            (self.longest, self.longest_at) = (at.since(self.last), self.last);
        }
        self.last = at;
        self.num += 1;
    }
}

impl Beat {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Arrived { num_ahead: 0 } => "arrived; nobody waited before it".to_owned(),
            Self::Arrived { num_ahead } => {
                format!("arrived; {} waited before it", count(*num_ahead as u64, "sequence"))
            }
            Self::Carried => "arrived before this file of the log began".to_owned(),
            Self::Waited(wait) => wait.words(),
            Self::Started { num_cached, is_first } => {
                let verb = if *is_first { "started" } else { "went on" };
                match num_cached {
                    0 => format!("{verb}, with nothing of it computed"),
                    num => {
                        let tokens = count(u64::from(*num), "token");
                        format!("{verb}; {tokens} need not be computed (again)")
                    }
                }
            }
            Self::Prompt { chunks, took } => {
                let total: u64 = chunks.iter().map(|&chunk| u64::from(chunk)).sum();
                let tokens = count(total, "token");
                match chunks.as_slice() {
                    [_] => format!("computed {tokens} in one step of {}", duration(*took)),
                    chunks => {
                        let sizes: Vec<_> =
                            chunks.iter().take(NUM_CHUNKS).map(ToString::to_string).collect();
                        let rest = if chunks.len() > NUM_CHUNKS { " + …" } else { "" };
                        let (num, sizes) = (chunks.len(), sizes.join(" + "));
                        format!(
                            "computed {tokens} in {num} steps ({sizes}{rest}), {}",
                            duration(*took)
                        )
                    }
                }
            }
            Self::FirstToken => "first token".to_owned(),
            Self::Decoded(tokens) => tokens.words(),
            Self::Preempted(preemption, whom) => {
                let why = match preemption.cause {
                    PreemptionCause::OutOfBlocks => {
                        format!("{whom} needed a block and none was free")
                    }
                    PreemptionCause::Displaced => {
                        format!("{whom} ranks better and took its place")
                    }
                    PreemptionCause::Planned => "the policy's plan says so".to_owned(),
                };
                let fate = match preemption.fate {
                    ComputedFate::Dropped => "dropped, to be computed again",
                    ComputedFate::Saved => "saved in host memory",
                };
                let num = count(u64::from(preemption.num_computed), "computed token");
                format!("preempted: {why}; {num} {fate}")
            }
            Self::Failure(message) => format!("the engine started anew after a failure: {message}"),
            Self::Lost(num) => format!("{} are missing in the log here", count(*num, "call")),
            Self::Ended(how) => format!("ended: {how}"),
        }
    }
}

impl Tokens {
    fn words(&self) -> String {
        let tokens = count(self.num, "token");
        if self.num < 2 {
            return format!("generated {tokens}");
        }
        let took = self.last.since(self.first);
        let each = Nanos(took.0 / (self.num - 1));
        let mut text = format!("generated {tokens} in {}, {} each", duration(took), duration(each));
        if self.longest.0 > 3 * each.0 {
            let longest = duration(self.longest);
            let _ = write!(text, "; the longest pause was {longest}");
        }
        text
    }
}
