//! Server-sent events of completions and chats: which of them carry a token, and what the last
//! ones tell.
//!
//! A chunk carries a token if it has text, or is a step whose text is held back. The opening chunk
//! of a chat that only tells the role is none, nor is a closing one that only tells the reason: it
//! ends the answer but makes no gap.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::sample::Failure;

/// Splits a stream of bytes into the data of its events.
#[derive(Debug, Default)]
pub struct Events {
    buffer: Vec<u8>,
    /// Where the next event begins in `buffer`.
    start: usize,
}

impl Events {
    /// Takes more bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next event that is whole. Comments and other fields are skipped; an event
    /// of several lines of data has them joined by newlines.
    pub fn next_event(&mut self) -> Option<Cow<'_, [u8]>> {
        loop {
            let rest = &self.buffer[self.start..];
            let (length, end) = blank_line(rest)?;
            let event = self.start..self.start + length;
            self.start += end;
            let has_data = self.buffer[event.clone()]
                .split(|&byte| byte == b'\n')
                .any(|line| line.starts_with(b"data:"));
            if has_data {
                return Some(data(&self.buffer[event]));
            }
        }
    }
}

/// Length of the event up to the blank line that ends it, and with that line.
fn blank_line(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut line_start = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte != b'\n' {
            continue;
        }
        let line = &bytes[line_start..at];
        if line.is_empty() || line == b"\r" {
            return Some((line_start, at + 1));
        }
        line_start = at + 1;
    }
    None
}

fn data(event: &[u8]) -> Cow<'_, [u8]> {
    let lines = event.split(|&byte| byte == b'\n');
    let mut data = lines.filter_map(|line| {
        let line = line.strip_prefix(b"data:")?;
        let line = line.strip_prefix(b" ").unwrap_or(line);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    });
    let first = data.next().unwrap_or_default();
    let mut joined = Cow::Borrowed(first);
    for line in data {
        let joined = joined.to_mut();
        joined.push(b'\n');
        joined.extend_from_slice(line);
    }
    joined
}

/// What an event says.
#[derive(Debug, Default, PartialEq)]
pub struct Chunk {
    /// Text of the first choice.
    pub text: String,
    /// Whether it is the mark of a token.
    pub is_token: bool,
    /// Why the answer ends, if it does.
    pub finish_reason: Option<String>,
    /// The server's counts.
    pub usage: Option<Usage>,
}

/// The server's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    #[serde(default)]
    pub completion_tokens: u32,
    /// More about the prompt.
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptDetails>,
}

/// More about the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PromptDetails {
    /// Tokens that did not have to be computed.
    #[serde(default)]
    pub cached_tokens: Option<u32>,
}

impl Usage {
    /// Tokens of the prompt that did not have to be computed, as far as the server says.
    pub fn cached_tokens(&self) -> u32 {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    choices: Vec<WireChoice<'a>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct WireChoice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(default, borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(default, borrow, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(default)]
    role: Option<IgnoredAny>,
    #[serde(default, borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(default, borrow, alias = "reasoning")]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_calls: Option<Value>,
}

impl Chunk {
    /// Reads the data of an event, or a whole answer that is not streamed.
    ///
    /// # Errors
    /// Of kind `malformed`, and `error event` for what the server reports.
    pub fn read(data: &[u8]) -> Result<Self, Failure> {
        let wire: Wire<'_> = serde_json::from_slice(data).map_err(|error| {
            Failure::new("malformed", format!("{error}: {}", String::from_utf8_lossy(data)))
        })?;
        if let Some(error) = wire.error.filter(|error| !error.is_null()) {
            return Err(Failure::new("error event", error));
        }
        let mut chunk = Self { usage: wire.usage, ..Self::default() };
        for choice in wire.choices {
            chunk.add(choice);
        }
        Ok(chunk)
    }

    fn add(&mut self, choice: WireChoice<'_>) {
        let ends = choice.finish_reason.is_some();
        let (text, is_token) = match (choice.text, choice.delta) {
            (Some(text), _) => {
                let is_token = !text.is_empty() || !ends;
                (text.into_owned(), is_token)
            }
            (None, Some(delta)) => delta.read(ends),
            (None, None) => (String::new(), false),
        };
        self.is_token |= is_token;
        if choice.index == 0 {
            self.text.push_str(&text);
        }
        self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
    }
}

impl Delta<'_> {
    fn read(self, ends: bool) -> (String, bool) {
        let calls = self.tool_calls.filter(|calls| calls.as_array().is_some_and(|c| !c.is_empty()));
        let reasoning = self.reasoning_content.unwrap_or_default();
        let content = self.content;
        let has_text =
            !reasoning.is_empty() || content.as_ref().is_some_and(|text| !text.is_empty());
        // A step whose text is held back: an empty text that neither opens nor closes the answer.
        let is_held_back = content.is_some() && self.role.is_none() && !ends;
        let mut text = reasoning.into_owned();
        text.push_str(&content.unwrap_or_default());
        if let Some(calls) = &calls {
            text.push_str(&calls.to_string());
        }
        (text, has_text || calls.is_some() || is_held_back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str) -> Chunk {
        Chunk::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn events_come_whole_however_the_bytes_are_cut() {
        let stream = b": hello\n\ndata: a\r\ndata:b\r\n\r\nevent: x\ndata: c\n\ndata: [DONE]\n\n";
        for size in 1..stream.len() {
            let (mut events, mut found) = (Events::default(), Vec::new());
            for piece in stream.chunks(size) {
                events.push(piece);
                while let Some(data) = events.next_event() {
                    found.push(String::from_utf8(data.into_owned()).unwrap());
                }
            }
            assert_eq!(found, ["a\nb", "c", "[DONE]"], "pieces of {size}");
        }
    }

    #[test]
    fn a_chunk_counts_if_it_is_the_mark_of_a_token() {
        for (data, is_token) in [
            (r#"{"choices":[{"index":0,"text":"a","finish_reason":null}]}"#, true),
            (r#"{"choices":[{"index":0,"text":"","finish_reason":null}]}"#, true),
            (r#"{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"index":0,"text":"z","finish_reason":"length"}]}"#, true),
            (r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#, false),
            (r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}]}"#, true),
            (r#"{"choices":[{"index":0,"delta":{"content":""}}]}"#, true),
            (r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#, true),
            (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"{"choices":[{"delta":{"content":null,"tool_calls":[]}}]}"#, false),
            (r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, false),
        ] {
            assert_eq!(chunk(data).is_token, is_token, "{data}");
        }
    }

    #[test]
    fn usage_and_errors_are_read() {
        let data = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,
                       "prompt_tokens_details":{"cached_tokens":2}}}"#;
        let usage = chunk(data).usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (3, 4));
        assert_eq!(usage.cached_tokens(), 2);
        let error = Chunk::read(br#"{"error":{"message":"too much"}}"#).unwrap_err();
        assert_eq!(error.kind, "error event");
        assert!(error.text.contains("too much"), "{error:?}");
        assert_eq!(Chunk::read(b"{").unwrap_err().kind, "malformed");
    }
}
