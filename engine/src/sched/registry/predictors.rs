//! Predictors of lengths by name.

use super::{PolicyContext, PolicyError, SpecText};
use crate::sched::{HistogramPredictor, LengthPredictor, NoisyOracle, Oracle};

/// What a predictor may be.
const LIMIT: &str = "none, histogram, oracle or noisy:SIGMA with SIGMA from 0 to 5";

/// Most noise of an oracle: a factor of 150 for one request in three.
const MAX_SIGMA: f64 = 5.0;

/// The predictor that `text` names, or nothing for `none`. The oracles are for simulations, which
/// know the lengths.
pub fn predictor(
    text: SpecText<'_>,
    context: &PolicyContext,
) -> Result<Option<Box<dyn LengthPredictor>>, PolicyError> {
    let name = text.text();
    let oracle = || {
        let unknown = || {
            let message = format!("predictor {name:?} knows lengths in a simulation only");
            text.error_at(0, message)
        };
        context.lengths.clone().map(Oracle::new).ok_or_else(unknown)
    };
    match name {
        "none" => Ok(None),
        "histogram" => Ok(Some(Box::new(HistogramPredictor::default()))),
        "oracle" => Ok(Some(Box::new(oracle()?))),
        _ => {
            let sigma = name.strip_prefix("noisy:").and_then(|sigma| sigma.parse::<f64>().ok());
            let Some(sigma) = sigma.filter(|sigma| (0.0..=MAX_SIGMA).contains(sigma)) else {
                let message = format!("predictor is {name:?} and must be {LIMIT}");
                return Err(text.error_at(0, message));
            };
            Ok(Some(Box::new(NoisyOracle::new(oracle()?, sigma, context.seed))))
        }
    }
}
