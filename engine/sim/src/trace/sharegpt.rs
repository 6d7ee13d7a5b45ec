//! ShareGPT conversations: the first question and its answer, as serving benchmarks take them.
//!
//! There are texts and no token counts; without a tokenizer a token is taken to be four bytes. What
//! vLLM leaves out is left out: fewer than 4 tokens on either side, more than 1,024 in the prompt,
//! more than 2,048 in all. The array is read one conversation at a time.

use std::io::BufRead;

use serde::Deserialize as _;
use serde_json::Value;

use super::Rows;
use super::sink::{Sink, quoted};
use crate::workload::{Record, TraceError};

/// Bytes of text in a token, about.
const BYTES_PER_TOKEN: usize = 4;

const MIN_TOKENS: u32 = 4;
const MAX_PROMPT_TOKENS: u32 = 1024;
const MAX_TOKENS: u32 = 2048;

/// An array of conversations.
pub(super) struct Conversations {
    file: String,
    input: Box<dyn BufRead>,
    /// Conversations read so far.
    number: u64,
}

impl Conversations {
    pub(super) fn new(file: &str, input: Box<dyn BufRead>) -> Self {
        Self { file: file.to_owned(), input, number: 0 }
    }

    /// Skips white space and the signs between conversations; false at the end of the array.
    fn find_next(&mut self) -> Result<bool, TraceError> {
        loop {
            let io = |source| TraceError::Io { file: self.file.clone(), source };
            let available = self.input.fill_buf().map_err(io)?;
            if available.is_empty() {
                return Ok(false);
            }
            let is_between = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b',' | b'[');
            let num_between = available.iter().take_while(|byte| is_between(byte)).count();
            let next = available.get(num_between).copied();
            self.input.consume(num_between);
            match next {
                None => {}
                Some(b']') => return Ok(false),
                Some(_) => return Ok(true),
            }
        }
    }

    fn error(&self, column: &str, value: &str, message: &str) -> TraceError {
        TraceError::Row {
            file: self.file.clone(),
            row: self.number,
            column: column.to_owned(),
            value: quoted(value),
            message: message.to_owned(),
        }
    }
}

impl Rows for Conversations {
    fn read(&mut self, sink: &mut Sink) -> Result<bool, TraceError> {
        if !self.find_next()? {
            return Ok(false);
        }
        self.number += 1;
        let mut reader = serde_json::Deserializer::from_reader(&mut self.input);
        let conversation = match Value::deserialize(&mut reader) {
            Ok(conversation) => conversation,
            // What follows cannot be told from the rest of this one.
            Err(error) => {
                return Err(TraceError::Format {
                    file: self.file.clone(),
                    message: format!("conversation {} is not JSON: {error}", self.number),
                });
            }
        };
        let Some(turns) = conversation.get("conversations").and_then(Value::as_array) else {
            let message = "must be an object with a list `conversations`";
            return Err(self.error("conversation", &conversation.to_string(), message));
        };
        let num_tokens = |turn: &Value| {
            let text = turn.get("value").and_then(Value::as_str)?;
            Some(text.len().div_ceil(BYTES_PER_TOKEN) as u32)
        };
        let [question, answer, ..] = turns.as_slice() else {
            sink.tally.drop("no-answer");
            return Ok(true);
        };
        let (Some(input), Some(output)) = (num_tokens(question), num_tokens(answer)) else {
            let message = "each turn must have a text `value`";
            return Err(self.error("conversations", &question.to_string(), message));
        };
        if input.min(output) < MIN_TOKENS {
            sink.tally.drop("too-short");
        } else if input > MAX_PROMPT_TOKENS || input + output > MAX_TOKENS {
            sink.tally.drop("too-long");
        } else {
            sink.keep(Record { input, output, ..Record::default() });
        }
        Ok(true)
    }
}
