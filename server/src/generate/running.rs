//! The choices of a job while the engine computes them.

use std::sync::Arc;

use folio_engine::types::Nanos;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;

use super::choice::{ChoiceReader, Piece, TextToken};
use crate::error::ApiError;
use crate::metrics::{ChoiceMeter, Outcome};
use crate::models::ServedModel;
use crate::openai::{Finish, PromptDetails, Usage};
use crate::service::Service;

/// All choices of a job. Dropping it cancels those that have not ended.
#[derive(Debug)]
pub struct Running {
    service: Arc<Service>,
    model: Arc<ServedModel>,
    readers: SelectAll<ChoiceReader>,
    /// Progress of each choice, by index.
    choices: Vec<Progress>,
    prompts: Vec<PromptUse>,
    num_choices_per_prompt: usize,
}

#[derive(Debug)]
struct Progress {
    num_tokens: u32,
    /// `None` once the choice has ended.
    meter: Option<ChoiceMeter>,
}

#[derive(Debug)]
struct PromptUse {
    num_tokens: u64,
    /// Tokens from the prefix cache: the fewest that any choice reported.
    num_cached: Option<u32>,
}

/// A choice that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its whole text.
    pub text: String,
    /// Its tokens, when log-probabilities were asked for.
    pub tokens: Vec<TextToken>,
    /// Why it ended.
    pub reason: Finish,
}

impl Running {
    /// Reads `readers`, whose requests were submitted at `submitted`.
    pub(super) fn new(
        service: Arc<Service>,
        model: &Arc<ServedModel>,
        readers: Vec<ChoiceReader>,
        submitted: Nanos,
    ) -> Self {
        let progress = |_: &ChoiceReader| Progress {
            num_tokens: 0,
            meter: Some(ChoiceMeter::start(submitted)),
        };
        Self {
            choices: readers.iter().map(progress).collect(),
            readers: readers.into_iter().collect(),
            service,
            model: Arc::clone(model),
            prompts: Vec::new(),
            num_choices_per_prompt: 1,
        }
    }

    pub(super) fn with_prompts(mut self, prompt_lens: Vec<u64>, num_choices: u32) -> Self {
        for &len in &prompt_lens {
            self.service.metrics.count_prompt(self.model.name(), len);
        }
        let prompt = |num_tokens| PromptUse {
            num_tokens,
            num_cached: None,
        };
        self.prompts = prompt_lens.into_iter().map(prompt).collect();
        self.num_choices_per_prompt = num_choices as usize;
        self
    }

    /// Number of choices, those of all prompts together.
    pub fn num_choices(&self) -> u32 {
        self.choices.len() as u32
    }

    /// The model that computes them.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// The next piece of any choice; `None` when all have ended. After an error the rest is
    /// cancelled.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        let next = self.readers.next().await?;
        match &next {
            Ok(piece) => self.count(piece),
            Err(_) => {
                self.readers.clear();
                self.end_all(Outcome::Error);
            }
        }
        Some(next)
    }

    /// All choices to their end, by index.
    pub async fn collect(&mut self) -> Result<Vec<Finished>, ApiError> {
        let mut choices = vec![(String::new(), Vec::new(), None); self.choices.len()];
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if let Some((text, tokens, finish)) = choices.get_mut(piece.index as usize) {
                text.push_str(&piece.text);
                tokens.extend(piece.tokens);
                *finish = piece.finish;
            }
        }
        choices
            .into_iter()
            .map(|(text, tokens, finish)| {
                let end = finish.ok_or_else(ApiError::engine_stopped)?;
                Ok(Finished {
                    text,
                    tokens,
                    reason: end.reason,
                })
            })
            .collect()
    }

    /// Tokens used so far. Prompts count once, whatever the number of choices.
    pub fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.iter().map(|prompt| prompt.num_tokens).sum();
        let choices = self.choices.iter();
        let completion_tokens = choices.map(|choice| u64::from(choice.num_tokens)).sum();
        let cached = self.prompts.iter();
        let cached_tokens = cached
            .map(|prompt| u64::from(prompt.num_cached.unwrap_or(0)))
            .sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }

    fn count(&mut self, piece: &Piece) {
        let index = piece.index as usize;
        let Some(choice) = self.choices.get_mut(index) else {
            return;
        };
        choice.num_tokens += piece.num_tokens;
        let metrics = &self.service.metrics;
        let (name, now) = (self.model.name(), self.service.engine.now());
        if let Some(meter) = &mut choice.meter {
            meter.read_tokens(metrics, name, piece.num_tokens, now);
        }
        let Some(end) = piece.finish else {
            return;
        };
        if let Some(meter) = choice.meter.take() {
            meter.end(metrics, name, Outcome::Finished(end, now));
        }
        let prompt = self.prompts.get_mut(index / self.num_choices_per_prompt);
        if let (Some(prompt), Some(stats)) = (prompt, end.stats) {
            let num_cached = stats.num_cached_tokens;
            prompt.num_cached = Some(prompt.num_cached.map_or(num_cached, |n| n.min(num_cached)));
        }
    }

    /// Ends what has not ended.
    fn end_all(&mut self, outcome: Outcome) {
        for choice in &mut self.choices {
            if let Some(meter) = choice.meter.take() {
                meter.end(&self.service.metrics, self.model.name(), outcome);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_all(Outcome::Aborted);
    }
}
