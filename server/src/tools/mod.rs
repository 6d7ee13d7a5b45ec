//! What a model's answer in a chat is made of: content, reasoning, tool calls.
//!
//! Invariant: however a text is cut into portions, the same parts come out of it, and all of the
//! text comes out in some part, but for marks and the white space around them. A text that only
//! looks like a call is content. Neighbours: `generate::chat` runs a parser for each choice.

mod parser;

pub use parser::{ChatParser, Part};
