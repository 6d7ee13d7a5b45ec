//! Everything between text and tokens: tokenizer, chat template, detokenizer, stop strings.
//!
//! Invariants: no clock, no environment, no globals; nothing is ever cut to a length. A
//! [`TextModel`] is shared by all requests; a [`Detokenizer`] and a [`StopMatcher`] belong to one
//! stream. Neighbours: the front end calls this module from the blocking pool and hands token
//! ids to the engine.

mod chat_template;
mod config;
mod decoding;
mod detokenizer;
mod error;
mod length;
mod messages;
mod model;
mod python;
mod python_json;
mod stop;
mod template_source;
mod tokenizer;

pub use chat_template::{ChatInput, ChatTemplate, GenerationPrompt};
pub use config::TokenizerConfig;
pub use detokenizer::{Detokenizer, Skip};
pub use error::{Error, Result};
pub use messages::{DeveloperRole, prepare};
pub use model::{ReadFile, TextModel};
pub use stop::{StopMatcher, StopOutput, StopText};
pub use template_source::TemplateSource;
pub use tokenizer::{SpecialTokens, Tokenizer};

#[cfg(test)]
mod tests;
