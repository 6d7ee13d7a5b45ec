//! ShareGPT's file: a JSON list of conversations. The first turn is the prompt, the second tells
//! how long the answer is; what is very short or long is left out, as vLLM does.

use std::path::Path;

use rand::seq::SliceRandom as _;
use serde::Deserialize;

use super::super::error::BenchError;
use super::super::request::{Prompt, Request};
use super::lines::repeated;
use super::{Made, Maker};

/// Fewest tokens of a prompt and of an answer.
const MIN_LEN: u32 = 4;
/// Most tokens of a prompt.
const MAX_PROMPT_LEN: u32 = 1024;
/// Most tokens of both.
const MAX_TOTAL_LEN: u32 = 2048;

/// What ShareGPT's file leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareGpt {
    /// Tokens of an answer; `None` for as many as the file's answer has.
    pub output_len: Option<u32>,
}

#[derive(Deserialize)]
struct Conversation {
    #[serde(default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    #[serde(default)]
    value: String,
}

impl ShareGpt {
    pub(super) fn read(self, path: &Path, maker: &Maker) -> Result<Made, BenchError> {
        let fail = |error: &dyn std::fmt::Display| BenchError::file(path, error);
        let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
        let mut conversations: Vec<Conversation> =
            serde_json::from_str(&text).map_err(|error| fail(&error))?;
        conversations.shuffle(&mut maker.random(b"sharegpt"));
        let requests: Vec<Request> = conversations
            .into_iter()
            .filter_map(|conversation| self.request(&conversation, maker))
            .take(maker.num_prompts)
            .collect();
        if requests.is_empty() {
            return Err(fail(&"has no conversation of two turns that is neither short nor long"));
        }
        Ok(repeated(requests, maker.num_prompts))
    }

    fn request(self, conversation: &Conversation, maker: &Maker) -> Option<Request> {
        let [prompt, answer, ..] = conversation.conversations.as_slice() else { return None };
        let input_len = maker.vocabulary.count(&prompt.value);
        let output_len = self.output_len.unwrap_or_else(|| maker.vocabulary.count(&answer.value));
        let is_usual = input_len >= MIN_LEN
            && (self.output_len.is_some() || output_len >= MIN_LEN)
            && input_len <= MAX_PROMPT_LEN
            && input_len + output_len <= MAX_TOTAL_LEN;
        let prompt = Prompt::Text(prompt.value.as_str().into());
        is_usual.then(|| Request::new(prompt, input_len, output_len))
    }
}
