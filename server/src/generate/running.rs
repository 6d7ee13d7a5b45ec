//! The choices of a job while the engine computes them.

use std::collections::VecDeque;
use std::sync::Arc;

use folio_engine::types::TokenId;
use futures_util::StreamExt;
use futures_util::stream::SelectAll;

use super::choice::{ChoiceReader, Piece, TextToken};
use super::prompt::PromptReport;
use crate::client::Client;
use crate::error::ApiError;
use crate::lifecycle::CutReceiver;
use crate::metrics::{Handed, Meters, Outcome};
use crate::models::ServedModel;
use crate::openai::{Finish, PromptDetails, StopReason, Usage};
use crate::service::{Overdue, Service};

/// All choices of a job. Dropping it cancels those that have not ended.
#[derive(Debug)]
pub struct Running {
    service: Arc<Service>,
    client: Client,
    stops: Stops,
    model: Arc<ServedModel>,
    readers: SelectAll<ChoiceReader>,
    /// Tokens read of each choice, by index.
    num_tokens: Vec<u32>,
    meters: Meters,
    prompts: Vec<PromptUse>,
    /// Pieces that wait for what is to be said about their prompt.
    held: VecDeque<Piece>,
    num_choices_per_prompt: usize,
}

/// What ends all choices from outside.
#[derive(Debug)]
struct Stops {
    /// The server ends.
    cut: CutReceiver,
    /// The engine does not end them although their deadline has passed.
    overdue: Overdue,
}

#[derive(Debug)]
struct PromptUse {
    num_tokens: u64,
    /// Tokens from the prefix cache: the fewest that any choice reported.
    num_cached: Option<u32>,
    /// What is to be said about it, if anything.
    report: Option<Arc<PromptReport>>,
    logprobs: PromptLogprobs,
}

/// Whether log-probabilities of a prompt are still to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PromptLogprobs {
    Awaited,
    Settled,
}

/// A choice that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its whole text.
    pub text: String,
    /// Its tokens, when they or their log-probabilities were asked for.
    pub tokens: Vec<TextToken>,
    /// Why it ended.
    pub reason: Finish,
    /// What of the request ended it, if anything did.
    pub stop_reason: Option<StopReason>,
}

impl Running {
    /// Reads `readers` for `client`, all choices of a prompt after those of the prompt before.
    pub(super) fn new(
        service: &Arc<Service>,
        client: Client,
        model: Arc<ServedModel>,
        readers: Vec<ChoiceReader>,
        handed: Handed,
    ) -> Self {
        let now = service.engine.now();
        let num_choices_per_prompt = handed.num_choices.max(1) as usize;
        let prompt = |&num_tokens| PromptUse {
            num_tokens,
            num_cached: None,
            report: None,
            logprobs: PromptLogprobs::Settled,
        };
        let prompts = handed.prompt_lens.iter().map(prompt).collect();
        let meters = Meters::start(&service.metrics, &client, model.name(), handed, now);
        Self {
            service: Arc::clone(service),
            client,
            stops: Stops { cut: service.cut.receiver(), overdue: Overdue::default() },
            model,
            num_tokens: vec![0; readers.len()],
            meters,
            num_choices_per_prompt,
            prompts,
            readers: readers.into_iter().collect(),
            held: VecDeque::new(),
        }
    }

    /// Will tell the tokens of prompts, one list for each, and how likely they were if that is what
    /// the engine was asked.
    pub(super) fn with_prompts(mut self, tokens: Vec<Vec<TokenId>>, asked: Option<u32>) -> Self {
        for (prompt, tokens) in self.prompts.iter_mut().zip(tokens) {
            prompt.report = Some(Arc::new(PromptReport { tokens, logprobs: None }));
            if asked.is_some() {
                prompt.logprobs = PromptLogprobs::Awaited;
            }
        }
        self
    }

    /// What is known about the prompt of a choice, when that was asked for.
    pub fn prompt(&self, choice_index: u32) -> Option<&Arc<PromptReport>> {
        self.prompts.get(self.prompt_of(choice_index))?.report.as_ref()
    }

    fn prompt_of(&self, choice_index: u32) -> usize {
        choice_index as usize / self.num_choices_per_prompt
    }

    /// Ends with an error when the engine has not ended it long after its deadline.
    pub(super) fn until(mut self, overdue: Overdue) -> Self {
        self.stops.overdue = overdue;
        self
    }

    /// Number of choices, those of all prompts together.
    pub fn num_choices(&self) -> u32 {
        self.num_tokens.len() as u32
    }

    /// Who asked for them.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The model that computes them.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// What computes them.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// The next piece of any choice; `None` when all have ended. After an error, of which the end
    /// of the server is one, the rest is cancelled.
    pub async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        loop {
            if let Some(piece) = self.next_told() {
                return Some(Ok(piece));
            }
            match self.receive().await? {
                Ok(mut piece) => {
                    self.hear(&mut piece);
                    self.held.push_back(piece);
                }
                Err(error) => {
                    self.held.clear();
                    return Some(Err(error));
                }
            }
        }
    }

    /// Keeps what a piece says about its prompt.
    fn hear(&mut self, piece: &mut Piece) {
        let index = self.prompt_of(piece.index);
        let (Some(logprobs), Some(prompt)) =
            (piece.prompt_logprobs.take(), self.prompts.get_mut(index))
        else {
            return;
        };
        let report = prompt.report.get_or_insert_default();
        Arc::make_mut(report).logprobs = Some(logprobs);
        prompt.logprobs = PromptLogprobs::Settled;
    }

    /// The first held piece whose prompt is known as far as that was asked for. Pieces of one
    /// prompt wait together, so that those of a choice keep their order.
    fn next_told(&mut self) -> Option<Piece> {
        let is_told = |piece: &Piece| {
            let prompt = self.prompts.get(self.prompt_of(piece.index));
            prompt.is_none_or(|prompt| prompt.logprobs == PromptLogprobs::Settled)
        };
        let place = self.held.iter().position(is_told)?;
        let mut piece = self.held.remove(place)?;
        if piece.started.is_some() {
            piece.prompt = self.prompt(piece.index).cloned();
        }
        Some(piece)
    }

    async fn receive(&mut self) -> Option<Result<Piece, ApiError>> {
        if self.readers.is_empty() {
            return None;
        }
        let next = tokio::select! {
            biased;
            () = self.stops.cut.wait() => Err(ApiError::cut_off()),
            next = self.readers.next() => next?,
            () = self.stops.overdue.wait() => Err(ApiError::overdue()),
        };
        match &next {
            Ok(piece) => self.count(piece),
            Err(error) => {
                self.readers.clear();
                self.meters.fail(error.note());
            }
        }
        Some(next)
    }

    /// All choices to their end, by index.
    pub async fn collect(&mut self) -> Result<Vec<Finished>, ApiError> {
        let mut choices = vec![(Vec::new(), Piece::default()); self.num_tokens.len()];
        while let Some(piece) = self.next().await {
            let piece = piece?;
            if let Some((tokens, whole)) = choices.get_mut(piece.index as usize) {
                tokens.extend(piece.tokens);
                whole.text.push_str(&piece.text);
                whole.finish = piece.finish;
                whole.stop_reason = piece.stop_reason;
            }
        }
        choices
            .into_iter()
            .map(|(tokens, Piece { text, finish, stop_reason, .. })| {
                let end = finish.ok_or_else(ApiError::engine_stopped)?;
                Ok(Finished { text, tokens, reason: end.reason, stop_reason })
            })
            .collect()
    }

    /// Tokens used so far. Prompts count once, whatever the number of choices.
    pub fn usage(&self) -> Usage {
        let prompt_tokens = self.prompts.iter().map(|prompt| prompt.num_tokens).sum();
        let num_tokens = self.num_tokens.iter();
        let completion_tokens = num_tokens.map(|&num| u64::from(num)).sum();
        let cached = self.prompts.iter();
        let cached_tokens = cached.map(|prompt| u64::from(prompt.num_cached.unwrap_or(0))).sum();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
            completion_tokens_details: None,
        }
    }

    fn count(&mut self, piece: &Piece) {
        let index = piece.index as usize;
        let now = self.service.engine.now();
        self.client.take_generated(u64::from(piece.num_tokens));
        if let Some(num_tokens) = self.num_tokens.get_mut(index) {
            *num_tokens += piece.num_tokens;
        }
        if let Some(stats) = piece.started {
            self.meters.see_first(index, stats);
        }
        self.meters.read_tokens(index, piece.num_tokens, now);
        let Some(end) = piece.finish else {
            return;
        };
        self.meters.end(index, Outcome::Finished(end, now));
        let prompt = self.prompts.get_mut(index / self.num_choices_per_prompt);
        if let Some(prompt) = prompt {
            let num_cached = end.stats.num_cached_tokens;
            prompt.num_cached = Some(prompt.num_cached.map_or(num_cached, |n| n.min(num_cached)));
        }
    }
}
