//! One choice: tokens in, pieces of text out.
//!
//! Text is never decoded token by token: the detokeniser holds back what is not yet a character,
//! the stop matcher what may become a stop string. Tokens go with the text they became part of,
//! and none is lost: those still held at the end go with the last piece.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use folio_engine::types::{
    Event, EventReceiver, FinishReason, PromptLogprob, RequestStats, SampledToken, TokenId,
    TokenLogprobs,
};
use futures_util::Stream;

use super::prompt::PromptReport;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{EndOfSequence, Finish, Generation, StopReason, TokenIds};
use crate::text::{Detokenizer, StopMatcher, StopText};

/// Most tokens that one piece takes along when a client reads slower than the engine writes.
const MAX_TOKENS_PER_PIECE: u32 = 64;

/// What is new in a choice.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Which choice of its job.
    pub index: u32,
    /// How likely the tokens of the prompt were, from the second on: once, in a piece of the
    /// first choice of a prompt, when that was asked for.
    pub prompt_logprobs: Option<Vec<PromptLogprob>>,
    /// Text to append; empty at most in the last piece and in that with the prompt's
    /// log-probabilities.
    pub text: String,
    /// What there is to say about the prompt, in the first piece of each choice when its
    /// log-probabilities or ids were asked for.
    pub prompt: Option<Arc<PromptReport>>,
    /// The tokens that became part of the text, when they or their log-probabilities were asked
    /// for.
    pub tokens: Vec<TextToken>,
    /// Tokens read since the piece before.
    pub num_tokens: u32,
    /// For each of them where its text begins, in characters from the beginning of the
    /// generated text.
    pub offsets: Vec<usize>,
    /// How the choice fared until its first token, in the piece that has it.
    pub started: Option<RequestStats>,
    /// Set in the last piece.
    pub finish: Option<End>,
    /// Set in the last piece if something of the request ended the choice.
    pub stop_reason: Option<StopReason>,
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Why.
    pub reason: Finish,
    /// How it fared: until its first token, if a stop string ended it.
    pub stats: RequestStats,
}

/// A token that was asked for, or whose log-probability was.
#[derive(Clone, Debug)]
pub struct TextToken {
    /// The token.
    pub id: TokenId,
    /// Its log-probability and the likeliest tokens, when they were asked for.
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// Where its text begins, in characters from the beginning of the generated text.
    pub offset: usize,
}

/// Whether a text must have a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Structured {
    Yes,
    No,
}

/// The end of a text without the character that it was cut off in: what is left can still become
/// a text of the shape that was asked for.
fn without_broken_end(rest: &str) -> &str {
    rest.trim_end_matches(char::REPLACEMENT_CHARACTER)
}

/// Reads the events of one choice. Dropping it cancels the choice.
#[derive(Debug)]
pub(super) struct ChoiceReader {
    index: u32,
    /// `None` once the choice has ended.
    receiver: Option<EventReceiver>,
    detokenizer: Detokenizer,
    matcher: StopMatcher,
    model: Arc<ServedModel>,
    generation: Arc<Generation>,
    structure: Structured,
    /// Tokens read so far.
    num_tokens: u32,
    /// Characters decoded so far, held back or not.
    num_chars: usize,
    /// How it fares, as far as is known.
    stats: RequestStats,
    /// What will be the next piece.
    piece: Piece,
}

impl ChoiceReader {
    /// Reads from `receiver` what `generation` asked of `model`. The special tokens in `shown`
    /// leave their text.
    pub(super) fn new(
        model: &Arc<ServedModel>,
        generation: &Arc<Generation>,
        shown: &Arc<[TokenId]>,
        (index, receiver): (u32, EventReceiver),
    ) -> Self {
        let tokenizer = Arc::clone(model.text.tokenizer());
        Self {
            index,
            receiver: Some(receiver),
            detokenizer: Detokenizer::new(tokenizer, generation.output.skip).showing(shown),
            matcher: StopMatcher::new(&generation.stop).with_stop_text(generation.output.stop_text),
            model: Arc::clone(model),
            structure: match generation.structure {
                Some(_) => Structured::Yes,
                None => Structured::No,
            },
            generation: Arc::clone(generation),
            num_tokens: 0,
            num_chars: 0,
            stats: RequestStats::default(),
            piece: Piece::default(),
        }
    }

    fn accept(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Started(stats) => {
                self.stats = stats;
                self.piece.started = Some(stats);
                Ok(())
            }
            Event::PromptLogprobs(logprobs) => {
                self.piece.prompt_logprobs = Some(logprobs);
                Ok(())
            }
            Event::Token(token) => {
                self.accept_token(token);
                Ok(())
            }
            Event::Finished { reason, stats } => self.accept_end(reason, stats),
            Event::Embedding(_) => Err(ApiError::internal("a vector where a token was expected")),
        }
    }

    fn accept_token(&mut self, token: SampledToken) {
        self.num_tokens += 1;
        self.piece.num_tokens += 1;
        self.piece.offsets.push(self.num_chars);
        let (id, logprobs) = (token.id, token.logprobs);
        if logprobs.is_some() || self.generation.output.token_ids == TokenIds::Returned {
            self.piece.tokens.push(TextToken { id, logprobs, offset: self.num_chars });
        }
        let has_text = self.generation.output.stop_text == StopText::Kept
            || !(self.is_end_token(id) || self.is_stop_token(id));
        if has_text {
            let text = self.detokenizer.push(id);
            self.add_text(&text);
        }
    }

    /// Whether a token is one of the model's that end a choice.
    fn is_end_token(&self, id: TokenId) -> bool {
        self.generation.end_of_sequence == EndOfSequence::Stops
            && self.model.end_tokens.contains(&id)
    }

    /// Whether a token is one of the request's that end a choice.
    fn is_stop_token(&self, id: TokenId) -> bool {
        self.generation.params.stop.token_ids.contains(&id)
    }

    fn accept_end(&mut self, reason: FinishReason, stats: RequestStats) -> Result<(), ApiError> {
        let (reason, stop) = match reason {
            FinishReason::Stop(id) if self.is_stop_token(id) => {
                (Finish::Stop, Some(StopReason::Token(id)))
            }
            FinishReason::Stop(_) | FinishReason::Complete => (Finish::Stop, None),
            FinishReason::Length => (Finish::Length, None),
            FinishReason::DeadlineExceeded => return Err(ApiError::deadline_exceeded(&stats)),
            FinishReason::StepFailed(message) => return Err(ApiError::step_failed(message)),
            FinishReason::Refused(message) | FinishReason::Failed(message) => {
                return Err(ApiError::internal(message));
            }
            FinishReason::Embedded => {
                return Err(ApiError::internal("a generation ended as an embedding"));
            }
        };
        self.stats = stats;
        let rest = self.detokenizer.finish();
        let is_cut_off = reason == Finish::Length && self.structure == Structured::Yes;
        let rest = if is_cut_off { without_broken_end(&rest) } else { &rest };
        self.add_text(rest);
        if self.piece.finish.is_none() {
            let output = self.matcher.finish();
            self.piece.text.push_str(&output.text);
            match output.matched {
                Some(index) => self.end_at_string(index),
                None => self.end(reason, stop),
            }
        }
        Ok(())
    }

    /// Passes decoded text through the stop matcher.
    fn add_text(&mut self, text: &str) {
        self.num_chars += text.chars().count();
        let output = if self.num_tokens < self.generation.params.stop.min_tokens {
            self.matcher.push_exempt(text)
        } else {
            self.matcher.push(text)
        };
        self.piece.text.push_str(&output.text);
        if let Some(index) = output.matched {
            self.end_at_string(index);
        }
    }

    fn end_at_string(&mut self, index: usize) {
        let stop = self.generation.stop.get(index).cloned();
        self.end(Finish::Stop, stop.map(StopReason::Text));
    }

    fn end(&mut self, reason: Finish, stop_reason: Option<StopReason>) {
        let stats = self.stats;
        self.piece.finish = Some(End { reason, stats });
        self.piece.stop_reason = stop_reason;
    }

    fn take_piece(&mut self) -> Piece {
        let piece = std::mem::take(&mut self.piece);
        Piece { index: self.index, ..piece }
    }
}

impl Stream for ChoiceReader {
    type Item = Result<Piece, ApiError>;

    /// The next piece: all that has arrived, up to a bound, once it amounts to text or the end.
    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            let Some(receiver) = &mut this.receiver else {
                return Poll::Ready(None);
            };
            let has_text = !this.piece.text.is_empty();
            let polled = if has_text && this.piece.num_tokens >= MAX_TOKENS_PER_PIECE {
                Poll::Pending
            } else {
                receiver.poll_recv(cx)
            };
            let has_news = has_text || this.piece.prompt_logprobs.is_some();
            if polled.is_pending() && has_news {
                return Poll::Ready(Some(Ok(this.take_piece())));
            }
            let accepted = match ready!(polled) {
                Some(event) => this.accept(event),
                None => Err(ApiError::engine_stopped()),
            };
            if let Err(error) = accepted {
                this.receiver = None;
                return Poll::Ready(Some(Err(error)));
            }
            if this.piece.finish.is_some() {
                this.receiver = None;
                return Poll::Ready(Some(Ok(this.take_piece())));
            }
        }
    }
}
