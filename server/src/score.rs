//! From pairs of texts to scores: from a cross-encoder, which reads both together, or by the cosine
//! of their vectors.
//!
//! Nothing is put before a text: models that want `query: ` or the like get it from the client.

use folio_engine::types::{ModelKind, Task};

use crate::client::Client;
use crate::embed::{EmbedJob, check_num_texts};
use crate::error::ApiError;
use crate::generate::{AnswerKind, Prompt};
use crate::models::ServedModel;
use crate::openai::{Content, EmbeddingUsage, Input, Queueing};
use crate::service::Service;

/// Pairs that are ready for the engine.
#[derive(Debug)]
pub struct ScoreJob {
    job: EmbedJob,
    scoring: Scoring,
}

/// How results of the engine become scores.
#[derive(Debug)]
enum Scoring {
    /// These vectors make each pair.
    Cosines(Vec<[usize; 2]>),
    /// Each is the score of a pair already.
    Given,
}

impl ScoreJob {
    /// Tokenises the texts for the model `name` and checks that it takes them: each of `second`
    /// with the only one of `first`, or with the one in the same place.
    pub fn new(
        service: &Service,
        client: &Client,
        (name, queueing): (&str, &Queueing),
        (first, second): (Vec<Input>, Vec<Input>),
    ) -> Result<Self, ApiError> {
        let model = service.models.find_scoring(name)?;
        let path = second.first().map_or("", |input| input.path.split('[').next().unwrap_or(""));
        let path = path.to_owned();
        let (num_first, num_pairs) = (first.len(), second.len());
        check_num_texts(service, &path, num_first + num_pairs)?;
        let pair_of = |index: usize| [index.min(num_first - 1), num_first + index];
        let (prompts, scoring) = if model.limits.kind == ModelKind::CrossEncoder {
            let pairs = second.iter().enumerate();
            let pairs =
                pairs.map(|(index, text)| encode_pair(model, &first[pair_of(index)[0]], text));
            (pairs.collect::<Result<Vec<_>, _>>()?, Scoring::Given)
        } else {
            let texts = first.into_iter().chain(second);
            let prompts = texts.map(|text| Ok((Prompt::encode(model, text)?, Task::Embed)));
            let pairs = (0..num_pairs).map(pair_of).collect();
            (prompts.collect::<Result<Vec<_>, ApiError>>()?, Scoring::Cosines(pairs))
        };
        let job = EmbedJob::of_prompts(service, client, model, prompts, queueing)?;
        Ok(Self { job, scoring })
    }

    /// Tokens of all texts together, special tokens counted.
    pub fn usage(&self) -> EmbeddingUsage {
        let num_tokens = self.job.num_tokens();
        EmbeddingUsage { prompt_tokens: num_tokens, total_tokens: num_tokens }
    }

    /// The score of each pair. Dropping the future cancels what is left.
    pub async fn run(self, service: &Service) -> Result<Vec<f32>, ApiError> {
        let vectors = self.job.run(service).await?;
        Ok(match self.scoring {
            Scoring::Given => {
                vectors.iter().map(|vector| vector.first().copied().unwrap_or_default()).collect()
            }
            Scoring::Cosines(pairs) => {
                let score = |[a, b]: [usize; 2]| cosine(&vectors[a], &vectors[b]);
                pairs.into_iter().map(score).collect()
            }
        })
    }
}

/// The tokens of a pair for a cross-encoder. Errors are about the second text, of which there are
/// many.
fn encode_pair(
    model: &ServedModel,
    first: &Input,
    second: &Input,
) -> Result<(Prompt, Task), ApiError> {
    let tokenizer = model.text.tokenizer();
    let mut texts = [""; 2];
    for (text, input) in texts.iter_mut().zip([first, second]) {
        let Content::Text(content) = &input.content else {
            let message = format!("{} must be a text for a cross-encoder", input.path);
            return Err(ApiError::invalid_value(&input.path, message));
        };
        let checked = tokenizer.check_length(content, model.limits.max_model_len);
        checked.map_err(|error| ApiError::from_text(&error, &input.path))?;
        *text = content;
    }
    let encoded = tokenizer.encode_pair(texts[0], texts[1]);
    let (tokens, start) = encoded.map_err(|error| ApiError::from_text(&error, &second.path))?;
    let task = Task::Score { second_start: start as u32 };
    let (path, answer) = (second.path.clone(), AnswerKind::default());
    Ok((Prompt { path, tokens, answer }, task))
}

/// The cosine of the angle between two vectors of equal length, in double precision; 0 where one
/// has no direction.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let length = (dot(a, a) * dot(b, b)).sqrt();
    if length > 0.0 { (dot(a, b) / length) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn cosines_do_not_depend_on_lengths() {
        assert!((cosine(&[3.0, 0.0], &[5.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!(cosine(&[1.0, 0.0], &[0.0, 7.0]).abs() < 1e-9);
        assert!((cosine(&[1.0, 0.0], &[-2.0, 0.0]) + 1.0).abs() < 1e-9);
        assert!(cosine(&[0.0, 0.0], &[1.0, 2.0]).abs() < 1e-9);
        assert!((cosine(&[1.0, 1.0], &[1.0, 0.0]) - 0.5f32.sqrt()).abs() < 1e-7);
    }
}
