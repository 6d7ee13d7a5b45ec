//! Calls into bytes.

use super::wire::{
    Item, Memory, ResultKind, Run, SparseTokens, WireCall, WireDecision, WireInput, WirePlan,
    WireResults,
};
use crate::sched::decisions::{Call, Decision, Input, Planned, Row, RowResult};
use crate::types::TokenId;

/// Expected rows that are looked at to find one again, after some that have left.
const MAX_SKIPPED: usize = 16;

/// Remembers what makes the next call short.
#[derive(Debug, Default)]
pub(super) struct Encoder(Memory);

impl Encoder {
    /// What is written of `call`.
    pub(super) fn call(&mut self, call: Call) -> Item {
        let after = call.at.0.wrapping_sub(self.0.at.0) as i64;
        self.0.at = call.at;
        let input = match call.input {
            Input::Plan => WireInput::Plan,
            Input::Commit { device_time, results } => {
                WireInput::Commit { device_time, results: runs_of(results) }
            }
            Input::Arrival(mut arrival) => {
                let prompt = sparse(&std::mem::take(&mut arrival.prompt));
                WireInput::Arrival(arrival, prompt)
            }
            other => WireInput::Other(other),
        };
        let decisions = call.decisions.into_iter().map(|decision| match decision {
            Decision::Planned(planned) => WireDecision::Planned(self.plan(planned)),
            other => WireDecision::Other(other),
        });
        Item::Call(WireCall { after, input, decisions: decisions.collect() })
    }

    fn plan(&mut self, planned: Planned) -> WirePlan {
        let expected = self.0.expected();
        let (runs, rows) = compare(&expected, &planned.rows);
        let Planned { moves, digest, levels, .. } = planned;
        self.0.rows = planned.rows;
        WirePlan { runs, rows, moves, digest, levels }
    }
}

/// `rows` as runs of expected ones and others, and the others.
fn compare(expected: &[Row], rows: &[Row]) -> (Vec<Run>, Vec<Row>) {
    let (mut runs, mut others): (Vec<Run>, _) = (Vec::new(), Vec::new());
    let mut cursor = 0;
    for row in rows {
        let window = expected[cursor..].iter().take(MAX_SKIPPED + 1);
        let found = window.enumerate().find(|(_, expected)| *expected == row);
        if let Some((num_skipped, _)) = found {
            cursor += num_skipped + 1;
            match runs.last_mut() {
                Some(run) if num_skipped == 0 && run.others == 0 => run.expected += 1,
                _ => runs.push(Run { skipped: num_skipped as u32, expected: 1, others: 0 }),
            }
            continue;
        }
        others.push(*row);
        match runs.last_mut() {
            Some(run) => run.others += 1,
            None => runs.push(Run { others: 1, ..Run::default() }),
        }
    }
    (runs, others)
}

fn runs_of(results: Vec<RowResult>) -> WireResults {
    let mut wire = WireResults::default();
    for result in results {
        let kind = match result {
            RowResult::Computed => ResultKind::Computed,
            RowResult::Pooled => ResultKind::Pooled,
            RowResult::Token(0) => ResultKind::ZeroToken,
            RowResult::Token(token) => {
                wire.tokens.push(token);
                ResultKind::OtherToken
            }
            RowResult::Failed(message) => {
                wire.messages.push(message);
                ResultKind::Failed
            }
        };
        match wire.runs.last_mut() {
            Some((last, num)) if *last == kind => *num += 1,
            _ => wire.runs.push((kind, 1)),
        }
    }
    wire
}

fn sparse(tokens: &[TokenId]) -> SparseTokens {
    let mut sparse = SparseTokens::default();
    for &token in tokens {
        if token == 0 {
            sparse.num_zeros_after += 1;
        } else {
            sparse.others.push((std::mem::take(&mut sparse.num_zeros_after), token));
        }
    }
    sparse
}
