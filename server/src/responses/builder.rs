//! Makes a response of a chat's deltas, item by item, and tells each change as an event.
//!
//! At most one item is open. Text opens a message, thoughts a reasoning item, a call its own; what
//! opens one closes the one before. Events come in OpenAI's order and count from 0.

use std::sync::Arc;

use super::events::{Event, EventFrame, ItemPlace, Place};
use super::object::{
    FailureDetails, IncompleteDetails, OutputItem, OutputPart, Progress, Response, Status,
};
use crate::error::ApiError;
use crate::generate::{ChatDelta, ChatPart, TextToken, ToolCallStart};
use crate::models::ServedModel;
use crate::openai::{Finish, TokenLogprob, TopLogprob, Usage, finite_logprob};
use crate::service::Service;

/// A response in the making.
#[derive(Debug)]
pub struct Builder {
    service: Arc<Service>,
    model: Arc<ServedModel>,
    response: Response,
    /// Whether the last item of the output is open.
    item: ItemState,
    events: Vec<EventFrame>,
    num_events: u64,
    finish: Option<Finish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ItemState {
    Open,
    Closed,
}

impl Builder {
    /// Begins `response`, which has no output yet.
    pub fn new(service: &Arc<Service>, model: &Arc<ServedModel>, response: Response) -> Self {
        let mut builder = Self {
            service: Arc::clone(service),
            model: Arc::clone(model),
            response,
            item: ItemState::Closed,
            events: Vec::new(),
            num_events: 0,
            finish: None,
        };
        let response = Box::new(builder.response.clone());
        builder.tell(Event::Created { response: response.clone() });
        builder.tell(Event::InProgress { response });
        builder
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<EventFrame> {
        std::mem::take(&mut self.events)
    }

    /// Takes what is new.
    pub fn add(&mut self, delta: ChatDelta) {
        let mut logprobs = self.describe(&delta.tokens);
        for part in delta.parts {
            match part {
                ChatPart::Content(text) => self.add_text(text, std::mem::take(&mut logprobs)),
                ChatPart::Reasoning(text) => self.add_reasoning(text),
                ChatPart::CallStart(start) => self.add_call(start),
                ChatPart::CallArguments(_, text) => self.add_arguments(text),
            }
        }
        if let Some(end) = delta.end {
            self.finish = Some(end.reason);
        }
    }

    /// Ends the response and returns it. `usage` is what it cost.
    pub fn finish(mut self, usage: Usage) -> (Response, Vec<EventFrame>) {
        self.response.usage = Some(usage.into());
        let is_cut = self.finish == Some(Finish::Length);
        // A model that says nothing at all has said an empty text.
        if self.response.output.is_empty() {
            self.open_message();
        }
        self.close(if is_cut { Status::Incomplete } else { Status::Completed });
        let mut progress = Progress::new(Status::Completed);
        if is_cut {
            progress.status = Status::Incomplete;
            progress.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
        }
        self.response.progress = progress;
        let response = Box::new(self.response.clone());
        self.tell(if is_cut {
            Event::Incomplete { response }
        } else {
            Event::Completed { response }
        });
        (self.response, self.events)
    }

    /// Ends the response because of `error`.
    pub fn fail(mut self, error: &ApiError, usage: Usage) -> Vec<EventFrame> {
        self.close(Status::Incomplete);
        self.response.usage = Some(usage.into());
        self.response.progress = Progress {
            error: Some(FailureDetails {
                code: "server_error",
                message: error.message().to_owned(),
            }),
            ..Progress::new(Status::Failed)
        };
        let response = Box::new(self.response.clone());
        self.tell(Event::Failed { response });
        self.events
    }

    fn tell(&mut self, event: Event) {
        self.events.push(EventFrame { event, sequence_number: self.num_events });
        self.num_events += 1;
    }

    fn add_text(&mut self, text: String, logprobs: Vec<TokenLogprob>) {
        if !matches!(self.open_item(), Some(OutputItem::Message { .. })) {
            self.open_message();
        }
        let place = self.place();
        if let Some(OutputPart::OutputText { text: all, logprobs: known, .. }) = self.open_part() {
            all.push_str(&text);
            known.extend(logprobs.iter().cloned());
        }
        self.tell(Event::TextDelta { place, delta: text, logprobs });
    }

    fn add_reasoning(&mut self, text: String) {
        if !matches!(self.open_item(), Some(OutputItem::Reasoning { .. })) {
            let (id, summary) = (self.unique_id("rs"), Vec::new());
            let (content, status) = (Vec::new(), Status::InProgress);
            let part = OutputPart::ReasoningText { text: String::new() };
            self.open(OutputItem::Reasoning { id, summary, content, status }, Some(part));
        }
        let place = self.place();
        if let Some(OutputPart::ReasoningText { text: all }) = self.open_part() {
            all.push_str(&text);
        }
        self.tell(Event::ReasoningDelta { place, delta: text });
    }

    fn add_call(&mut self, start: ToolCallStart) {
        let item = OutputItem::FunctionCall {
            id: self.unique_id("fc"),
            call_id: start.id,
            name: start.name,
            arguments: String::new(),
            status: Status::InProgress,
        };
        self.open(item, None);
    }

    fn add_arguments(&mut self, text: String) {
        let place = self.item_place();
        if let Some(OutputItem::FunctionCall { arguments, .. }) = self.open_item() {
            arguments.push_str(&text);
            self.tell(Event::ArgumentsDelta { place, delta: text });
        }
    }

    fn open_message(&mut self) {
        let (id, role) = (self.unique_id("msg"), "assistant");
        let (content, status) = (Vec::new(), Status::InProgress);
        let (text, annotations, logprobs) = (String::new(), Vec::new(), Vec::new());
        let part = OutputPart::OutputText { text, annotations, logprobs };
        self.open(OutputItem::Message { id, role, content, status }, Some(part));
    }

    /// Closes what is open and opens `item`, with one part.
    fn open(&mut self, item: OutputItem, part: Option<OutputPart>) {
        self.close(Status::Completed);
        self.response.output.push(item.clone());
        self.item = ItemState::Open;
        self.tell(Event::ItemAdded { output_index: self.output_index(), item });
        let Some(part) = part else { return };
        if let Some(content) = self.open_item().and_then(OutputItem::content_mut) {
            content.push(part.clone());
        }
        let place = self.place();
        self.tell(Event::PartAdded { place, part });
    }

    /// Closes the open item, if there is one.
    fn close(&mut self, with: Status) {
        let (place, item_place) = (self.place(), self.item_place());
        let Some(item) = self.open_item() else { return };
        *item.status_mut() = with;
        let item = item.clone();
        match &item {
            OutputItem::FunctionCall { name, arguments, .. } => {
                let (name, arguments) = (name.clone(), arguments.clone());
                self.tell(Event::ArgumentsDone { place: item_place, name, arguments });
            }
            OutputItem::Message { content, .. } | OutputItem::Reasoning { content, .. } => {
                for part in content.clone() {
                    self.close_part(place.clone(), part);
                }
            }
        }
        self.tell(Event::ItemDone { output_index: self.output_index(), item });
        self.item = ItemState::Closed;
    }

    fn close_part(&mut self, place: Place, part: OutputPart) {
        self.tell(match part.clone() {
            OutputPart::OutputText { text, logprobs, .. } => {
                Event::TextDone { place: place.clone(), text, logprobs }
            }
            OutputPart::ReasoningText { text } => {
                Event::ReasoningDone { place: place.clone(), text }
            }
        });
        self.tell(Event::PartDone { place, part });
    }

    fn open_item(&mut self) -> Option<&mut OutputItem> {
        match self.item {
            ItemState::Open => self.response.output.last_mut(),
            ItemState::Closed => None,
        }
    }

    fn open_part(&mut self) -> Option<&mut OutputPart> {
        self.open_item()?.content_mut()?.last_mut()
    }

    fn output_index(&self) -> u32 {
        self.response.output.len().saturating_sub(1) as u32
    }

    fn item_place(&self) -> ItemPlace {
        let item_id = self.response.output.last().map_or("", OutputItem::id).to_owned();
        ItemPlace { item_id, output_index: self.output_index() }
    }

    fn place(&self) -> Place {
        let ItemPlace { item_id, output_index } = self.item_place();
        Place { item_id, output_index, content_index: 0 }
    }

    fn unique_id(&self, prefix: &str) -> String {
        self.service.unique_id(prefix).replacen('-', "_", 1)
    }

    fn describe(&self, tokens: &[TextToken]) -> Vec<TokenLogprob> {
        let tokenizer = self.model.text.tokenizer();
        let describe = |id, logprob| TopLogprob {
            token: tokenizer.token_text(id),
            logprob: finite_logprob(logprob),
            bytes: tokenizer.token_bytes(id),
        };
        let entry = |token: &TextToken| {
            let logprobs = token.logprobs.as_ref()?;
            let top = logprobs.top.iter();
            Some(TokenLogprob {
                chosen: describe(token.id, logprobs.logprob),
                top_logprobs: top.map(|&(id, p)| describe(id, p)).collect(),
            })
        };
        tokens.iter().filter_map(entry).collect()
    }
}

impl OutputItem {
    fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. }
            | Self::Message { id, .. }
            | Self::FunctionCall { id, .. } => id,
        }
    }

    fn status_mut(&mut self) -> &mut Status {
        match self {
            Self::Reasoning { status, .. }
            | Self::Message { status, .. }
            | Self::FunctionCall { status, .. } => status,
        }
    }

    fn content_mut(&mut self) -> Option<&mut Vec<OutputPart>> {
        match self {
            Self::Reasoning { content, .. } | Self::Message { content, .. } => Some(content),
            Self::FunctionCall { .. } => None,
        }
    }
}
