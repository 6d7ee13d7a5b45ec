//! What a model's answer in a chat is made of: content, reasoning, tool calls.
//!
//! Invariants: a parser reads characters, so the same parts come out however a text is cut; all
//! of the text comes out in some part, but for marks and the white space around them; a text that
//! only looks like a call is content. Neighbours: `generate::chat` runs a parser for each choice,
//! `openai` reads which tools there are.

mod after_reasoning;
mod call;
mod format;
mod grammar;
mod hermes;
mod lazy_calls;
mod llama;
mod mark;
mod mistral;
mod parser;
mod parts;
mod reasoning;
mod scan;

pub(crate) use after_reasoning::ReasoningGate;
pub(crate) use after_reasoning::all_tokens;
pub(crate) use format::special_marks;
pub use format::{
    CallIdStyle, ChatFormats, ReasoningFormat, ReasoningStart, ToolFormat, UnknownFormat,
};
pub(crate) use grammar::required_calls;
pub(crate) use lazy_calls::{LazyCalls, Text};
pub use parser::{CallSettings, ChatParser, ParserSettings};
pub use parts::Part;

#[cfg(test)]
mod grammar_tests;
#[cfg(test)]
mod tests;
