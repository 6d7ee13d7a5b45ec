//! Calls out of bytes. Nothing is believed that would take memory beyond reason.

use super::wire::{
    MAX_COUNT, Memory, ResultKind, SparseTokens, WireCall, WireDecision, WireInput, WirePlan,
    WireResults,
};
use crate::sched::decisions::{Call, Decision, Input, Planned, RowResult};
use crate::types::{Nanos, TokenId};

/// Remembers what the next call is told against.
#[derive(Debug, Default)]
pub(super) struct Decoder(Memory);

/// What is wrong with a call.
pub(super) type Malformed = &'static str;

impl Decoder {
    /// The call that was written.
    pub(super) fn call(&mut self, wire: WireCall) -> Result<Call, Malformed> {
        let at = Nanos(self.0.at.0.wrapping_add(wire.after as u64));
        self.0.at = at;
        let input = match wire.input {
            WireInput::Plan => Input::Plan,
            WireInput::Commit { device_time, results } => {
                Input::Commit { device_time, results: results_of(results)? }
            }
            WireInput::Arrival(mut arrival, prompt) => {
                arrival.prompt = tokens_of(prompt)?;
                Input::Arrival(arrival)
            }
            WireInput::Other(input) => input,
        };
        let decisions = wire.decisions.into_iter().map(|decision| match decision {
            WireDecision::Planned(plan) => self.plan(plan).map(Decision::Planned),
            WireDecision::Other(decision) => Ok(decision),
        });
        Ok(Call { at, input, decisions: decisions.collect::<Result<_, _>>()? })
    }

    fn plan(&mut self, wire: WirePlan) -> Result<Planned, Malformed> {
        let mut expected = self.0.expected().into_iter();
        let mut others = wire.rows.into_iter();
        let mut rows = Vec::new();
        for run in wire.runs {
            if run.skipped as usize + run.expected as usize > expected.len()
                || run.others as usize > others.len()
            {
                return Err("a step with more rows than there are");
            }
            expected.by_ref().take(run.skipped as usize).for_each(drop);
            rows.extend(expected.by_ref().take(run.expected as usize));
            rows.extend(others.by_ref().take(run.others as usize));
        }
        self.0.rows.clone_from(&rows);
        Ok(Planned { rows, moves: wire.moves, digest: wire.digest, levels: wire.levels })
    }
}

fn results_of(wire: WireResults) -> Result<Vec<RowResult>, Malformed> {
    let total: u64 = wire.runs.iter().map(|&(_, num)| u64::from(num)).sum();
    if total > MAX_COUNT {
        return Err("a step with more results than a step can have");
    }
    let mut results = Vec::with_capacity(total as usize);
    let (mut tokens, mut messages) = (wire.tokens.into_iter(), wire.messages.into_iter());
    for (kind, num) in wire.runs {
        for _ in 0..num {
            results.push(match kind {
                ResultKind::Computed => RowResult::Computed,
                ResultKind::Pooled => RowResult::Pooled,
                ResultKind::ZeroToken => RowResult::Token(0),
                ResultKind::OtherToken => {
                    RowResult::Token(tokens.next().ok_or("a token is missing")?)
                }
                ResultKind::Failed => {
                    RowResult::Failed(messages.next().ok_or("a message is missing")?)
                }
            });
        }
    }
    Ok(results)
}

fn tokens_of(sparse: SparseTokens) -> Result<Vec<TokenId>, Malformed> {
    let zeros = sparse.others.iter().map(|&(num, _)| u64::from(num) + 1);
    let total = zeros.sum::<u64>() + u64::from(sparse.num_zeros_after);
    if total > MAX_COUNT {
        return Err("a prompt longer than a prompt can be");
    }
    let mut tokens = Vec::with_capacity(total as usize);
    for (num_zeros, token) in sparse.others {
        tokens.resize(tokens.len() + num_zeros as usize, 0);
        tokens.push(token);
    }
    tokens.resize(total as usize, 0);
    Ok(tokens)
}
