//! The head of a cross-encoder: from the hidden state of a pair's first token to one score.
//!
//! Two small products a text: they are computed on the host, in double precision, in a fixed order,
//! whatever the encoder ran on.

use super::fields::Fields;
use super::weights::WeightSource;
use crate::types::Result;

/// What becomes of the number that the head computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreActivation {
    /// 1 / (1 + e^−x): a score from 0 to 1.
    Sigmoid,
    /// Nothing.
    Identity,
}

/// Where a checkpoint has the head's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScoreHeadNames {
    /// The square matrix with its bias.
    pub(crate) dense: &'static str,
    /// The last row with its bias.
    pub(crate) output: &'static str,
}

/// A head as the configuration describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScoreHeadConfig {
    pub(crate) names: ScoreHeadNames,
    pub(crate) activation: ScoreActivation,
}

impl ScoreHeadConfig {
    /// Reads what a classifier's configuration says. Only one label is a score.
    pub(crate) fn read(config: &Fields, names: ScoreHeadNames) -> Result<Self> {
        const DEFAULT_LABELS: usize = 2;
        let of_map = config.object("id2label")?.map(|labels| labels.names().count());
        let num_labels = match config.optional_size("num_labels")? {
            Some(num) => num as usize,
            None => of_map.unwrap_or(DEFAULT_LABELS),
        };
        if num_labels != 1 {
            let field = if of_map.is_some() { "id2label" } else { "num_labels" };
            return Err(config.unsupported(field, "only classifiers of one label are implemented"));
        }
        Ok(Self { names, activation: read_activation(config)? })
    }
}

/// The function that sentence-transformers applies, by the end of its name; sigmoid where the
/// files name none, as there.
fn read_activation(config: &Fields) -> Result<ScoreActivation> {
    const OLDER: &str = "sbert_ce_default_activation_function";
    let newer = config.object("sentence_transformers")?;
    let (fields, field) = match &newer {
        Some(newer) if newer.get("activation_fn").is_some() => (newer, "activation_fn"),
        _ => (config, OLDER),
    };
    let name = fields.optional_text(field)?;
    match name.as_deref().and_then(|name| name.rsplit('.').next()) {
        None | Some("Sigmoid") => Ok(ScoreActivation::Sigmoid),
        Some("Identity") => Ok(ScoreActivation::Identity),
        Some(_) => Err(fields.unsupported(field, "Sigmoid or Identity of torch.nn")),
    }
}

/// A loaded head.
#[derive(Debug)]
pub struct ScoreHead {
    /// `[H, H]`, row-major.
    dense: Vec<f32>,
    /// `[H]`.
    dense_bias: Vec<f32>,
    /// `[H]`.
    output: Vec<f32>,
    output_bias: f32,
    activation: ScoreActivation,
}

impl ScoreHead {
    /// Takes the weights of a head over hidden states of `hidden_size`.
    pub(crate) fn build(
        weights: &mut dyn WeightSource,
        prefix: &str,
        hidden_size: usize,
        config: ScoreHeadConfig,
    ) -> Result<Self> {
        let ScoreHeadNames { dense, output } = config.names;
        // A pooler belongs to the encoder and has its prefix; a classifier has none.
        let dense =
            if dense.starts_with("pooler") { format!("{prefix}{dense}") } else { dense.to_owned() };
        let mut read = |name: String, shape: &[usize]| weights.numbers(&name, shape);
        Ok(Self {
            dense: read(format!("{dense}.weight"), &[hidden_size, hidden_size])?,
            dense_bias: read(format!("{dense}.bias"), &[hidden_size])?,
            output: read(format!("{output}.weight"), &[1, hidden_size])?,
            output_bias: read(format!("{output}.bias"), &[1])?.first().copied().unwrap_or(0.0),
            activation: config.activation,
        })
    }

    /// The score of a pair from the hidden state `[H]` of its first token; not finite if that is
    /// not.
    #[must_use]
    pub fn score(&self, hidden: &[f32]) -> f32 {
        let rows = self.dense.chunks_exact(hidden.len()).zip(&self.dense_bias);
        let inner = rows.map(|(row, &bias)| (dot(row, hidden) + f64::from(bias)).tanh());
        let weighed = inner.zip(&self.output).map(|(x, &weight)| x * f64::from(weight));
        let logit = weighed.sum::<f64>() + f64::from(self.output_bias);
        match self.activation {
            ScoreActivation::Sigmoid => (1.0 / (1.0 + (-logit).exp())) as f32,
            ScoreActivation::Identity => logit as f32,
        }
    }
}

/// The sum of products in double precision: eight running sums, added up in order.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const NUM_SUMS: usize = 8;
    let mut sums = [0.0f64; NUM_SUMS];
    let (a_parts, a_rest) = a.as_chunks::<NUM_SUMS>();
    let (b_parts, b_rest) = b.as_chunks::<NUM_SUMS>();
    for (a, b) in a_parts.iter().zip(b_parts) {
        for (sum, (&a, &b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| f64::from(a) * f64::from(b));
    sums.into_iter().sum::<f64>() + rest.sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: ScoreHeadNames = ScoreHeadNames { dense: "classifier.dense", output: "out" };

    #[test]
    fn the_files_say_how_a_score_is_made() {
        let read = |text: &str| ScoreHeadConfig::read(&Fields::of(text), NAMES);
        let activation = |text: &str| read(text).unwrap().activation;
        assert_eq!(activation(r#"{"id2label": {"0": "x"}}"#), ScoreActivation::Sigmoid);
        let identity = r#"{"num_labels": 1,
            "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}"#;
        assert_eq!(activation(identity), ScoreActivation::Identity);
        let newer = r#"{"num_labels": 1, "sentence_transformers":
            {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}"#;
        assert_eq!(activation(newer), ScoreActivation::Sigmoid);
        for refused in [
            "{}",
            r#"{"id2label": {"0": "a", "1": "b", "2": "c"}}"#,
            r#"{"num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.Tanh"}"#,
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_score_by_hand() {
        let head = |activation| ScoreHead {
            dense: vec![1.0, 0.0, 0.0, 2.0],
            dense_bias: vec![0.5, 0.0],
            output: vec![2.0, -1.0],
            output_bias: 0.25,
            activation,
        };
        let logit = 2.0 * 0.75f64.tanh() - 1.0f64.tanh() + 0.25;
        let found = head(ScoreActivation::Identity).score(&[0.25, 0.5]);
        assert!((f64::from(found) - logit).abs() < 1e-7);
        let found = head(ScoreActivation::Sigmoid).score(&[0.25, 0.5]);
        assert!((f64::from(found) - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-7);
        assert!(!head(ScoreActivation::Sigmoid).score(&[f32::NAN, 0.0]).is_finite());
    }
}
