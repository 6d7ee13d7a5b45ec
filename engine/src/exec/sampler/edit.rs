//! Changes to single logits: penalties, bias, the ban on stopping too early, and bit masks.
//!
//! [`apply`] touches only tokens that were seen, biased or are stop tokens; each step is
//! independent for each token, so the order of the lists does not matter. Ids at or beyond V are
//! skipped: the front end refuses them by name, and a row must not end the engine.

use super::RowContext;
use crate::types::{Penalties, TokenId};

/// Applies, in this order, frequency and presence penalty, repetition penalty, bias, and the
/// mask of `min_tokens`.
pub(super) fn apply(row: &mut [f32], context: &RowContext<'_>) {
    let penalties = &context.params.penalties;
    for &(token, count) in context.counts {
        update(row, token, |logit| penalised(logit, count, penalties));
    }
    for &(token, bias) in &penalties.logit_bias {
        update(row, token, |logit| logit + bias);
    }
    let stop = &context.params.stop;
    if context.num_generated < stop.min_tokens {
        for &token in &stop.token_ids {
            update(row, token, |_| f32::NEG_INFINITY);
        }
    }
}

/// Rules out every token whose bit in `mask` is not set, those beyond its end included.
pub(super) fn keep(row: &mut [f32], mask: &[u32]) {
    let mut words = mask.iter();
    for tokens in row.chunks_mut(32) {
        match words.next().copied().unwrap_or(0) {
            u32::MAX => {}
            0 => tokens.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in tokens.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn update(row: &mut [f32], token: TokenId, change: impl FnOnce(f32) -> f32) {
    if let Some(logit) = row.get_mut(token as usize) {
        *logit = change(*logit);
    }
}

/// A finite logit stays below infinity, which would read as a broken model later on.
fn penalised(logit: f32, count: u32, penalties: &Penalties) -> f32 {
    let mut changed = logit;
    if count > 0 {
        changed -= count as f32 * penalties.frequency + penalties.presence;
    }
    if penalties.repetition_is_on() {
        changed = if changed > 0.0 {
            changed / penalties.repetition
        } else {
            changed * penalties.repetition
        };
    }
    if logit < f32::INFINITY && changed > f32::MAX {
        return f32::MAX;
    }
    changed
}
