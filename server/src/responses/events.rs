//! The events of a streamed response, as in OpenAI's API.

use schemars::JsonSchema;
use serde::Serialize;

use super::object::{OutputItem, OutputPart, Response};
use crate::openai::TokenLogprob;

/// An event with its place in the stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct EventFrame {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Counts from 0.
    pub sequence_number: u64,
}

/// Where a part stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Place {
    /// Its item.
    pub item_id: String,
    /// Which item of the output.
    pub output_index: u32,
    /// Which part of the item.
    pub content_index: u32,
}

/// Where an item stands.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ItemPlace {
    /// The item.
    pub item_id: String,
    /// Which item of the output.
    pub output_index: u32,
}

/// Something happened to a response.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum Event {
    /// It was taken.
    #[serde(rename = "response.created")]
    Created {
        /// As it is now.
        response: Box<Response>,
    },
    /// It is computed.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// As it is now.
        response: Box<Response>,
    },
    /// It ended by itself.
    #[serde(rename = "response.completed")]
    Completed {
        /// Whole.
        response: Box<Response>,
    },
    /// It was cut off.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// As far as it came.
        response: Box<Response>,
    },
    /// The server failed.
    #[serde(rename = "response.failed")]
    Failed {
        /// As far as it came.
        response: Box<Response>,
    },
    /// An item begins.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// Which of the output.
        output_index: u32,
        /// Without its content.
        item: OutputItem,
    },
    /// An item has ended.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// Which of the output.
        output_index: u32,
        /// Whole.
        item: OutputItem,
    },
    /// A part begins.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// Without its text.
        part: OutputPart,
    },
    /// A part has ended.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// Whole.
        part: OutputPart,
    },
    /// More text.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// To append.
        delta: String,
        /// Log-probabilities of its tokens, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// No more text.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// All of it.
        text: String,
        /// Log-probabilities of its tokens, when asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// More reasoning.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// To append.
        delta: String,
    },
    /// No more reasoning.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// Where.
        #[serde(flatten)]
        place: Place,
        /// All of it.
        text: String,
    },
    /// More of a call's arguments.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// Where.
        #[serde(flatten)]
        place: ItemPlace,
        /// To append.
        delta: String,
    },
    /// A call's arguments are whole.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// Where.
        #[serde(flatten)]
        place: ItemPlace,
        /// The function.
        name: String,
        /// All of them.
        arguments: String,
    },
}

impl Event {
    /// The word that stands in the event's `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Created { .. } => "response.created",
            Self::InProgress { .. } => "response.in_progress",
            Self::Completed { .. } => "response.completed",
            Self::Incomplete { .. } => "response.incomplete",
            Self::Failed { .. } => "response.failed",
            Self::ItemAdded { .. } => "response.output_item.added",
            Self::ItemDone { .. } => "response.output_item.done",
            Self::PartAdded { .. } => "response.content_part.added",
            Self::PartDone { .. } => "response.content_part.done",
            Self::TextDelta { .. } => "response.output_text.delta",
            Self::TextDone { .. } => "response.output_text.done",
            Self::ReasoningDelta { .. } => "response.reasoning_text.delta",
            Self::ReasoningDone { .. } => "response.reasoning_text.done",
            Self::ArgumentsDelta { .. } => "response.function_call_arguments.delta",
            Self::ArgumentsDone { .. } => "response.function_call_arguments.done",
        }
    }
}
