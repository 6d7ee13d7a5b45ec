//! The documented pipeline, written plainly: full sorts, f64, no state.

use super::*;

/// The final logits, in f64.
pub(super) fn edited(row: &[f32], context: &RowContext<'_>) -> Vec<f64> {
    let Penalties { frequency, presence, repetition, logit_bias } = &context.params.penalties;
    let mut row: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
    for &(token, count) in context.counts {
        let logit = &mut row[token as usize];
        *logit -= f64::from(count) * f64::from(*frequency);
        *logit -= if count > 0 { f64::from(*presence) } else { 0.0 };
        *logit = if *logit > 0.0 {
            *logit / f64::from(*repetition)
        } else {
            *logit * f64::from(*repetition)
        };
    }
    for &(token, bias) in logit_bias {
        row[token as usize] += f64::from(bias);
    }
    if context.num_generated < context.params.stop.min_tokens {
        for &token in &context.params.stop.token_ids {
            row[token as usize] = f64::NEG_INFINITY;
        }
    }
    row
}

/// Ids by logit, the largest first, the smaller id first among equals.
pub(super) fn ranking(row: &[f64]) -> Vec<usize> {
    let mut ranking: Vec<usize> = (0..row.len()).collect();
    ranking.sort_by(|&a, &b| row[b].partial_cmp(&row[a]).unwrap().then(a.cmp(&b)));
    ranking
}

/// Softmax of `row` over `ids`, 0 elsewhere.
pub(super) fn softmax(row: &[f64], ids: &[usize], temperature: f64) -> Vec<f64> {
    let max = ids.iter().map(|&id| row[id]).fold(f64::MIN, f64::max);
    let weight = |id: usize| ((row[id] - max) / temperature).exp();
    let total: f64 = ids.iter().map(|&id| weight(id)).sum();
    let mut probabilities = vec![0.0; row.len()];
    for &id in ids {
        probabilities[id] = weight(id) / total;
    }
    probabilities
}

/// The distribution that a token is drawn from: final logits `row` `[V]` to probabilities `[V]`.
/// The temperature is above 0.
pub(super) fn distribution(row: &[f64], sampling: &Sampling) -> Vec<f64> {
    let limits = Limits { top_p: f64::from(sampling.top_p), min_p: f64::from(sampling.min_p) };
    let kept = kept(row, sampling, &limits);
    softmax(row, &kept, f64::from(sampling.temperature))
}

/// The thresholds that rounding can move a token across.
pub(super) struct Limits {
    pub(super) top_p: f64,
    pub(super) min_p: f64,
}

/// The tokens that can be drawn.
pub(super) fn kept(row: &[f64], sampling: &Sampling, limits: &Limits) -> Vec<usize> {
    let mut kept = ranking(row);
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    let probabilities = softmax(row, &kept, f64::from(sampling.temperature));
    let likeliest = probabilities[kept[0]];
    if sampling.top_p < 1.0 {
        let mut mass = 0.0;
        let below = kept.iter().take_while(|&&id| {
            let is_needed = mass < limits.top_p;
            mass += probabilities[id];
            is_needed
        });
        let num_kept = below.count().max(1);
        kept.truncate(num_kept);
    }
    kept.retain(|&id| probabilities[id] >= limits.min_p * likeliest && probabilities[id] > 0.0);
    kept
}

/// Log-softmax of the raw logits.
pub(super) fn logprobs(row: &[f32]) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
    let max = row.iter().copied().fold(f64::MIN, f64::max);
    let log_sum = row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    row.iter().map(|x| x - max - log_sum).collect()
}
