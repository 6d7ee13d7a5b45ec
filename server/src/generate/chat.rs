//! A conversation's answer while the engine computes it: content, reasoning and tool calls.
//!
//! [`ChatStream`] reads the pieces of a [`Running`] and passes each choice's text through its own
//! parser. Tokens go with the first delta that comes out of the text they became part of. Whole
//! and streamed answers, of any endpoint, are both made of these deltas.

use std::sync::Arc;

use super::choice::{End, Piece, TextToken};
use super::job::Job;
use super::plan::{CallsEnding, ChatPlan, Reading};
use super::prompt::PromptReport;
use super::running::Running;
use crate::client::Client;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{ChatRequest, CompletionDetails, Finish, ShownReasoning, StopReason, Usage};
use crate::service::Service;
use crate::tools::{ChatParser, Part};

/// A conversation that is ready for the engine.
#[derive(Debug)]
pub struct ChatJob {
    job: Job,
    reading: Reading,
}

/// What is new in one choice. Never empty: it has a part, a token or an end.
#[derive(Clone, Debug, Default)]
pub struct ChatDelta {
    /// Which choice.
    pub index: u32,
    /// What is new, in the order of the text.
    pub parts: Vec<ChatPart>,
    /// The tokens that it was made of, when log-probabilities were asked for. All tokens of a
    /// choice come with one of its deltas, those of reasoning and of calls too.
    pub tokens: Vec<TextToken>,
    /// Set in the choice's last delta.
    pub end: Option<ChatEnd>,
    /// Set in the choice's last delta if something of the request ended it.
    pub stop_reason: Option<StopReason>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatPart {
    /// Text for the user, never empty.
    Content(String),
    /// What the model thinks before it answers, never empty.
    Reasoning(String),
    /// A tool call begins.
    CallStart(ToolCallStart),
    /// More of the arguments of the call with this index, never empty.
    CallArguments(u32, String),
}

/// A tool call begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCallStart {
    /// Which call of its choice.
    pub index: u32,
    /// Names the call.
    pub id: String,
    /// Name of the tool.
    pub name: String,
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatEnd {
    /// Why, as clients are told.
    pub reason: Finish,
    /// How the engine sees it.
    pub engine: End,
}

/// A whole tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Names the call.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// A JSON object as text, as the model wrote it; incomplete if the answer was cut off in it.
    pub arguments: String,
}

/// A choice that has ended.
#[derive(Clone, Debug)]
pub struct ChatAnswer {
    /// The text for the user; `None` where there are only calls.
    pub content: Option<String>,
    /// What the model thought before.
    pub reasoning: Option<String>,
    /// The tools that it calls.
    pub calls: Vec<ToolCall>,
    /// All its tokens, when log-probabilities were asked for.
    pub tokens: Vec<TextToken>,
    /// Why it ended.
    pub reason: Finish,
    /// What of the request ended it, if anything did.
    pub stop_reason: Option<StopReason>,
}

impl ChatJob {
    /// Checks the request against the model and makes tokens of its messages.
    pub fn new(
        service: &Service,
        client: &Client,
        model: &Arc<ServedModel>,
        request: ChatRequest,
    ) -> Result<Self, ApiError> {
        let plan = ChatPlan::new(model, request)?;
        let (model, prompts) = (Arc::clone(model), vec![plan.prompt]);
        let mut job = Job::new(service, client, model, prompts, plan.generation)?;
        job.show(plan.reading.shown.clone());
        Ok(Self { job, reading: plan.reading })
    }

    /// What it asks of the engine.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Hands the job to the engine.
    pub fn start(self, service: &Arc<Service>) -> Result<ChatStream, ApiError> {
        let running = self.job.start(service)?;
        let choice = |index| ChoiceState::new(index, &self.reading);
        let choices = (0..running.num_choices()).map(choice).collect();
        Ok(ChatStream { running, choices, reading: self.reading })
    }
}

/// The choices of a conversation's answer. Dropping it cancels those that have not ended.
#[derive(Debug)]
pub struct ChatStream {
    running: Running,
    choices: Vec<ChoiceState>,
    reading: Reading,
}

impl ChatStream {
    /// Number of choices.
    pub fn num_choices(&self) -> u32 {
        self.running.num_choices()
    }

    /// The model that computes them.
    pub fn model(&self) -> &Arc<ServedModel> {
        self.running.model()
    }

    /// The next delta of any choice; `None` when all have ended. After an error the rest is
    /// cancelled.
    pub async fn next(&mut self) -> Option<Result<ChatDelta, ApiError>> {
        loop {
            let piece = match self.running.next().await? {
                Ok(piece) => piece,
                Err(error) => return Some(Err(error)),
            };
            let service = self.running.service();
            let choice = self.choices.get_mut(piece.index as usize);
            if let Some(delta) =
                choice.and_then(|choice| choice.accept((service, &self.reading), piece))
            {
                return Some(Ok(delta));
            }
        }
    }

    /// All choices to their end, by index.
    pub async fn collect(&mut self) -> Result<Vec<ChatAnswer>, ApiError> {
        let mut answers: Vec<_> = self.choices.iter().map(|_| Collected::default()).collect();
        while let Some(delta) = self.next().await {
            let delta = delta?;
            if let Some(answer) = answers.get_mut(delta.index as usize) {
                answer.add(delta);
            }
        }
        answers.into_iter().map(Collected::finish).collect()
    }

    /// What is known about the prompt, when that was asked for.
    pub fn prompt(&self) -> Option<&Arc<PromptReport>> {
        self.running.prompt(0)
    }

    /// Tokens used so far. Prompts count once, whatever the number of choices.
    pub fn usage(&self) -> Usage {
        let mut usage = self.running.usage();
        if self.reading.parser.reasoning.is_some() {
            let num_tokens = self.choices.iter().map(|choice| choice.num_reasoning_tokens);
            let reasoning_tokens = num_tokens.sum();
            usage.completion_tokens_details = Some(CompletionDetails { reasoning_tokens });
        }
        usage
    }
}

/// One choice while it is read.
#[derive(Debug)]
struct ChoiceState {
    parser: ChatParser,
    num_calls: u32,
    num_reasoning_tokens: u64,
    /// Where the tokens begin that may prove to be of the reasoning.
    offsets: Vec<usize>,
    /// Tokens whose text is still held back.
    delta: ChatDelta,
}

impl ChoiceState {
    fn new(index: u32, reading: &Reading) -> Self {
        Self {
            parser: ChatParser::new(&reading.parser),
            num_calls: 0,
            num_reasoning_tokens: 0,
            offsets: Vec::new(),
            delta: ChatDelta { index, ..ChatDelta::default() },
        }
    }

    /// Takes the next piece. `None` while all of its text is held back.
    fn accept(
        &mut self,
        (service, reading): (&Service, &Reading),
        piece: Piece,
    ) -> Option<ChatDelta> {
        let was_open = self.parser.reasoning_end().is_none();
        let mut parts = self.parser.push(&piece.text);
        if piece.finish.is_some() {
            parts.extend(self.parser.finish());
        }
        if was_open {
            self.count_reasoning(&piece.offsets);
        }
        for part in parts {
            self.add(service, reading, part);
        }
        self.delta.tokens.extend(piece.tokens);
        self.delta.stop_reason = piece.stop_reason;
        self.delta.end = piece
            .finish
            .map(|engine| ChatEnd { reason: self.reason(engine, reading.ending), engine });
        let is_held = self.delta.parts.is_empty() && self.delta.end.is_none();
        (!is_held).then(|| {
            let index = self.delta.index;
            let next = ChatDelta { index, ..ChatDelta::default() };
            std::mem::replace(&mut self.delta, next)
        })
    }

    /// Counts the tokens up to the end of the reasoning; all, while it is not known to end.
    fn count_reasoning(&mut self, offsets: &[usize]) {
        self.offsets.extend_from_slice(offsets);
        let Some(end) = self.parser.reasoning_end() else {
            self.num_reasoning_tokens = self.offsets.len() as u64;
            return;
        };
        let offsets = std::mem::take(&mut self.offsets);
        self.num_reasoning_tokens = offsets.iter().filter(|&&offset| offset < end).count() as u64;
    }

    fn add(&mut self, service: &Service, reading: &Reading, part: Part) {
        let is_reasoning = matches!(part, Part::Reasoning(_));
        if is_reasoning && reading.reasoning == ShownReasoning::LeftOut {
            return;
        }
        let parts = &mut self.delta.parts;
        match (part, parts.last_mut()) {
            (Part::Content(text), Some(ChatPart::Content(last)))
            | (Part::Reasoning(text), Some(ChatPart::Reasoning(last)))
            | (Part::CallArguments(text), Some(ChatPart::CallArguments(_, last))) => {
                last.push_str(&text);
            }
            (Part::Content(text), _) => parts.push(ChatPart::Content(text)),
            (Part::Reasoning(text), _) => parts.push(ChatPart::Reasoning(text)),
            (Part::CallStart(name), _) => {
                let id = service.call_id(reading.call_ids);
                let start = ToolCallStart { index: self.num_calls, id, name };
                parts.push(ChatPart::CallStart(start));
                self.num_calls += 1;
            }
            (Part::CallArguments(text), _) => {
                parts.push(ChatPart::CallArguments(self.num_calls.saturating_sub(1), text));
            }
        }
    }

    fn reason(&self, end: End, ending: CallsEnding) -> Finish {
        match (end.reason, ending) {
            (Finish::Stop, CallsEnding::ToolCalls) if self.num_calls > 0 => Finish::ToolCalls,
            (reason, _) => reason,
        }
    }
}

/// An answer in the making.
#[derive(Debug, Default)]
struct Collected {
    content: Option<String>,
    reasoning: Option<String>,
    calls: Vec<ToolCall>,
    tokens: Vec<TextToken>,
    end: Option<ChatEnd>,
    stop_reason: Option<StopReason>,
}

impl Collected {
    fn add(&mut self, delta: ChatDelta) {
        for part in delta.parts {
            match part {
                ChatPart::Content(text) => self.content.get_or_insert_default().push_str(&text),
                ChatPart::Reasoning(text) => {
                    self.reasoning.get_or_insert_default().push_str(&text);
                }
                ChatPart::CallStart(ToolCallStart { id, name, .. }) => {
                    self.calls.push(ToolCall { id, name, arguments: String::new() });
                }
                ChatPart::CallArguments(index, text) => {
                    if let Some(call) = self.calls.get_mut(index as usize) {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
        self.tokens.extend(delta.tokens);
        self.end = delta.end;
        self.stop_reason = delta.stop_reason;
    }

    fn finish(self) -> Result<ChatAnswer, ApiError> {
        let end = self.end.ok_or_else(ApiError::engine_stopped)?;
        // A model that says nothing at all has said an empty text.
        let has_other = !self.calls.is_empty() || self.reasoning.is_some();
        let content = self.content.or_else(|| (!has_other).then(String::new));
        Ok(ChatAnswer {
            content,
            reasoning: self.reasoning,
            calls: self.calls,
            tokens: self.tokens,
            reason: end.reason,
            stop_reason: self.stop_reason,
        })
    }
}
