//! Calls as Llama 3 writes them: an answer that is `{"name": …, "parameters": …}` and no more,
//! or that has such objects after `<|python_tag|>`.
//!
//! Without the tag only an object at the beginning of the answer counts, and only if it names one
//! of the tools. Several are separated by `;`, by commas or by white space.

use std::sync::Arc;

use super::call::{CallNames, CallReader, CallStep};
use super::mark::{Found, MarkFinder};
use super::parts::Parts;

/// Says that calls follow.
pub(super) const TAG: &str = "<|python_tag|>";

#[derive(Debug)]
enum State {
    /// Where a call may stand without a mark: at the beginning, and after another call.
    Between,
    Text(MarkFinder),
    Call(Box<CallReader>),
}

/// Reads an answer.
#[derive(Debug)]
pub(super) struct LlamaParser {
    names: Arc<[String]>,
    state: State,
    /// Separators and the tag, as long as they may prove to be text.
    raw: String,
    is_tagged: bool,
    has_calls: bool,
}

impl LlamaParser {
    /// Reads calls to tools of these names.
    pub(super) fn new(names: Arc<[String]>) -> Self {
        let (state, raw) = (State::Between, String::new());
        Self { names, state, raw, is_tagged: false, has_calls: false }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, parts: &mut Parts) {
        match &mut self.state {
            State::Between => self.push_between(c, parts),
            State::Text(finder) => match finder.push(c) {
                Found::Text(text) => parts.content(&text),
                Found::Mark(space) => {
                    self.raw = space + TAG;
                    self.is_tagged = true;
                    self.state = State::Between;
                }
            },
            State::Call(reader) => match reader.push(c, parts) {
                CallStep::Inside => {}
                CallStep::Ended => {
                    self.has_calls = true;
                    self.raw.clear();
                    self.state = State::Between;
                }
                CallStep::Bad => {
                    let unused = reader.unused().to_owned();
                    if !unused.is_empty() {
                        parts.content(&self.raw);
                        parts.content(&unused);
                    }
                    self.go_on_as_text(parts, &c.to_string());
                }
            },
        }
    }

    /// Separators, then a call or the tag; anything else begins a text.
    fn push_between(&mut self, c: char, parts: &mut Parts) {
        let rest = self.raw.trim_start_matches(is_separator);
        let is_open = rest.is_empty() || rest == TAG || self.is_after_tag();
        if is_open && c == '{' {
            let names = if self.is_tagged {
                CallNames::Any
            } else {
                CallNames::OneOf(Arc::clone(&self.names))
            };
            let mut reader = CallReader::new(names);
            reader.push(c, parts);
            self.state = State::Call(Box::new(reader));
            return;
        }
        let is_separated = is_open && (c.is_whitespace() || (self.has_calls && is_separator(c)));
        self.raw.push(c);
        let rest = self.raw.trim_start_matches(is_separator);
        if rest == TAG {
            self.is_tagged = true;
        } else if !is_separated && (rest.is_empty() || !TAG.starts_with(rest)) {
            let raw = std::mem::take(&mut self.raw);
            self.go_on_as_text(parts, &raw);
        }
    }

    /// Whether the tag came, and nothing after it but white space.
    fn is_after_tag(&self) -> bool {
        self.is_tagged && self.raw.trim_end().ends_with(TAG)
    }

    /// What comes is text, up to a tag.
    fn go_on_as_text(&mut self, parts: &mut Parts, text: &str) {
        self.raw.clear();
        self.is_tagged = false;
        let mut finder = MarkFinder::new(TAG);
        // A tag that led to no call is text itself.
        let tag = text.rfind(TAG).map_or(0, |at| at + TAG.len());
        parts.content(&text[..tag]);
        for c in text[tag..].chars() {
            if let Found::Text(text) = finder.push(c) {
                parts.content(&text);
            }
        }
        self.state = State::Text(finder);
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, parts: &mut Parts) {
        match &mut self.state {
            State::Between if self.has_calls && self.raw.chars().all(is_separator) => {}
            State::Between => parts.content(&self.raw),
            State::Text(finder) => parts.content(&finder.take()),
            State::Call(reader) => {
                if !reader.unused().is_empty() {
                    parts.content(&self.raw);
                    parts.content(reader.unused());
                }
            }
        }
        self.raw.clear();
        self.state = State::Between;
    }
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | ',')
}
