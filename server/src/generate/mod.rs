//! From prompts to text: jobs go to the engine, choices come back as pieces of text, those of
//! chats taken apart into content, reasoning and tool calls.
//!
//! A job is checked whole before anything is submitted, so that a bad one is a plain error. A
//! choice is read only as fast as its client reads; dropping it cancels it.

mod chat;
mod choice;
mod job;
mod plan;
mod prompt;
mod render;
mod running;
mod shape;

pub use chat::{
    ChatAnswer, ChatDelta, ChatEnd, ChatJob, ChatPart, ChatStream, ToolCall, ToolCallStart,
};
pub use choice::{End, Piece, TextToken};
pub use job::Job;
pub use plan::{CallsEnding, ChatPlan, Reading};
pub use prompt::{Prompt, PromptReport};
pub use running::{Finished, Running};
pub use shape::AnswerKind;
