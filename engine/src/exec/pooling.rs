//! From an encoder's hidden states to one vector a text; a cross-encoder's become one score a
//! pair.

use crate::model::{Model, Normalization, Pooling, PoolingConfig};
use crate::sched::Sequence;
use crate::types::{SeqResult, Task, TokenId};

/// Below this length a vector is divided by this instead, as the reference does.
const MIN_LENGTH: f64 = 1e-12;

/// The vector of one text from its hidden states `rows`, `[tokens, H]`, or `None` when a number in
/// it is not finite. Sums are in double precision, in token order.
#[must_use]
pub fn pool(rows: &[f32], hidden_size: usize, config: PoolingConfig) -> Option<Vec<f32>> {
    assert!(
        !rows.is_empty() && rows.len().is_multiple_of(hidden_size),
        "{} numbers are not rows of {hidden_size}",
        rows.len()
    );
    let mut vector = match config.pooling {
        Pooling::Cls => widened(&rows[..hidden_size]),
        Pooling::Last => widened(&rows[rows.len() - hidden_size..]),
        Pooling::Mean => mean(rows, hidden_size),
    };
    if config.normalization == Normalization::L2 {
        let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
        let length = length.max(MIN_LENGTH);
        for x in &mut vector {
            *x /= length;
        }
    }
    let narrowed = vector.into_iter().map(|x| x as f32).collect::<Vec<_>>();
    narrowed.iter().all(|x| x.is_finite()).then_some(narrowed)
}

/// What a text came to: its vector, or the score that `model` makes of it.
pub(super) fn result(vector: Vec<f32>, model: &dyn Model) -> SeqResult {
    let Some(head) = model.score_head() else {
        return SeqResult::Embedding(vector);
    };
    let score = head.score(&vector);
    if score.is_finite() {
        SeqResult::Embedding(vec![score])
    } else {
        SeqResult::Failed("the score is not finite".into())
    }
}

/// The tokens of a pair as `model` looks them up, where it tells types apart: those of the second
/// type are rows further on.
pub(super) fn typed_tokens(sequence: &Sequence, model: &dyn Model) -> Option<Vec<TokenId>> {
    let Task::Score { second_start } = sequence.request().task else {
        return None;
    };
    let offset = model.second_type_offset()?;
    let mut tokens = sequence.tokens().to_vec();
    for token in tokens.iter_mut().skip(second_start as usize) {
        *token += offset;
    }
    Some(tokens)
}

fn widened(row: &[f32]) -> Vec<f64> {
    row.iter().copied().map(f64::from).collect()
}

fn mean(rows: &[f32], hidden_size: usize) -> Vec<f64> {
    let mut sums = vec![0.0; hidden_size];
    for row in rows.chunks_exact(hidden_size) {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += f64::from(*x);
        }
    }
    let num_rows = (rows.len() / hidden_size) as f64;
    for sum in &mut sums {
        *sum /= num_rows;
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 6] = [1.0, 2.0, 3.0, 4.0, 5.0, 9.0];

    fn pooled(pooling: Pooling, normalization: Normalization) -> Vec<f32> {
        let config = PoolingConfig { pooling, normalization };
        pool(&ROWS, 2, config).unwrap()
    }

    #[test]
    fn each_kind_takes_its_tokens() {
        assert_eq!(pooled(Pooling::Mean, Normalization::None), [3.0, 5.0]);
        assert_eq!(pooled(Pooling::Cls, Normalization::None), [1.0, 2.0]);
        assert_eq!(pooled(Pooling::Last, Normalization::None), [5.0, 9.0]);
        let unit = pooled(Pooling::Cls, Normalization::L2);
        assert!((f64::from(unit[0]) - 0.2f64.sqrt()).abs() < 1e-7, "{unit:?}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_reported_and_zeros_are_not() {
        let config = PoolingConfig { pooling: Pooling::Mean, normalization: Normalization::L2 };
        assert_eq!(pool(&[1.0, f32::NAN], 2, config), None);
        assert_eq!(pool(&[1.0, f32::INFINITY], 2, config), None);
        assert_eq!(pool(&[0.0, 0.0], 2, config), Some(vec![0.0, 0.0]));
    }
}
