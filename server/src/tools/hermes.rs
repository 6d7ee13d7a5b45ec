//! Calls as Qwen and Hermes write them: `<tool_call>{"name": …, "arguments": …}</tool_call>`.

use super::call::{CallNames, CallReader, CallStep};
use super::mark::{Found, MarkFinder};
use super::parts::Parts;

/// Opens a call.
pub(super) const OPEN: &str = "<tool_call>";
/// Closes it.
pub(super) const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
enum State {
    /// Outside of calls.
    Text(MarkFinder),
    /// After the opening mark: white space, or the call.
    Opened,
    Call(Box<CallReader>),
    /// After a call: white space, the closing mark, or another call.
    Closing(String),
}

/// Reads an answer in which calls may stand anywhere.
#[derive(Debug)]
pub(super) struct HermesParser {
    state: State,
    /// The opening mark and the white space around it, as long as it may prove to be text.
    raw: String,
    has_calls: bool,
}

impl HermesParser {
    pub(super) fn new() -> Self {
        let state = State::Text(MarkFinder::new(OPEN));
        Self { state, raw: String::new(), has_calls: false }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, parts: &mut Parts) {
        match &mut self.state {
            State::Text(finder) => match finder.push(c) {
                Found::Text(text) => parts.content(&text),
                Found::Mark(space) => {
                    self.raw = space + OPEN;
                    self.state = State::Opened;
                }
            },
            State::Opened if c.is_whitespace() => self.raw.push(c),
            State::Opened => self.begin_call(c, parts),
            State::Call(reader) => match reader.push(c, parts) {
                CallStep::Inside => {}
                CallStep::Ended => {
                    self.has_calls = true;
                    self.raw.clear();
                    self.state = State::Closing(String::new());
                }
                CallStep::Bad => {
                    let unused = reader.unused().to_owned();
                    self.give_up(&unused, parts);
                    self.push(c, parts);
                }
            },
            State::Closing(held) => {
                held.push(c);
                let rest = held.trim_start();
                if rest == CLOSE {
                    self.state = State::Text(MarkFinder::new(OPEN));
                } else if rest == "{" {
                    self.begin_call(c, parts);
                } else if !CLOSE.starts_with(rest) {
                    // Not closed: a call all the same. What stands here is text.
                    let held = std::mem::take(held);
                    self.state = State::Text(MarkFinder::new(OPEN));
                    for c in held.chars() {
                        self.push(c, parts);
                    }
                }
            }
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, parts: &mut Parts) {
        match &mut self.state {
            State::Text(finder) => {
                let held = finder.take();
                if !(self.has_calls && held.trim().is_empty()) {
                    parts.content(&held);
                }
            }
            State::Opened => parts.content(&self.raw),
            State::Call(reader) => {
                let unused = reader.unused().to_owned();
                self.give_up(&unused, parts);
            }
            // The beginning of a closing mark.
            State::Closing(_) => {}
        }
        self.state = State::Text(MarkFinder::new(OPEN));
    }

    fn begin_call(&mut self, c: char, parts: &mut Parts) {
        let mut reader = CallReader::new(CallNames::Any);
        if reader.push(c, parts) == CallStep::Bad {
            self.give_up("", parts);
            self.push(c, parts);
        } else {
            self.state = State::Call(Box::new(reader));
        }
    }

    /// Back to text. Where nothing came out of the call, it was text from its mark on.
    fn give_up(&mut self, unused: &str, parts: &mut Parts) {
        if !unused.is_empty() || matches!(self.state, State::Opened) {
            parts.content(&self.raw);
            parts.content(unused);
        }
        self.raw.clear();
        self.state = State::Text(MarkFinder::new(OPEN));
    }
}
