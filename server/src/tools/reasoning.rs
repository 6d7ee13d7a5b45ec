//! Splits what a model thinks from what it answers.

use super::format::{ReasoningFormat, ReasoningStart};
use super::mark::{Found, MarkFinder};

/// What a character led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// More of the reasoning; empty while it is held back.
    Reasoning(String),
    /// More of the answer.
    Answer(String),
}

#[derive(Debug)]
enum State {
    /// At the beginning: white space, or the opening mark.
    Begin(MarkFinder),
    /// After the opening mark: line breaks.
    Opened(MarkFinder),
    Inside(MarkFinder),
    /// After the closing mark: white space.
    Closed,
    Answer,
}

/// Reads the text of one choice. Only a block at its beginning is reasoning.
#[derive(Debug)]
pub(super) struct ReasoningSplitter {
    format: ReasoningFormat,
    state: State,
    num_chars: usize,
    /// As [`Self::end`].
    end: Option<usize>,
}

impl ReasoningSplitter {
    pub(super) fn new(format: ReasoningFormat, start: ReasoningStart) -> Self {
        let state = match start {
            ReasoningStart::Inside => State::Opened(MarkFinder::new(format.close())),
            ReasoningStart::Outside => State::Begin(MarkFinder::new(format.open())),
        };
        Self { format, state, num_chars: 0, end: None }
    }

    /// Where the reasoning ended, in characters from the beginning of the text, its closing mark
    /// included: 0 if there was none, `None` as long as that is open.
    pub(super) fn end(&self) -> Option<usize> {
        self.end
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char) -> Split {
        self.num_chars += 1;
        match &mut self.state {
            State::Begin(finder) => match finder.push(c) {
                Found::Mark(_) => {
                    self.state = State::Opened(MarkFinder::new(self.format.close()));
                    Split::Reasoning(String::new())
                }
                Found::Text(text) if text.is_empty() => Split::Reasoning(text),
                Found::Text(text) => {
                    let text = text + &finder.take();
                    self.state = State::Answer;
                    self.end = Some(0);
                    Split::Answer(text)
                }
            },
            State::Opened(finder) | State::Inside(finder) => match finder.push(c) {
                Found::Mark(_) => {
                    self.state = State::Closed;
                    self.end = Some(self.num_chars);
                    Split::Reasoning(String::new())
                }
                Found::Text(text) if text.is_empty() => Split::Reasoning(text),
                Found::Text(text) => {
                    let is_first = matches!(self.state, State::Opened(_));
                    self.state = match std::mem::replace(&mut self.state, State::Closed) {
                        State::Opened(finder) | State::Inside(finder) => State::Inside(finder),
                        other => other,
                    };
                    Split::Reasoning(if is_first {
                        text.trim_start_matches(['\n', '\r']).to_owned()
                    } else {
                        text
                    })
                }
            },
            State::Closed if c.is_whitespace() => Split::Answer(String::new()),
            State::Closed | State::Answer => {
                self.state = State::Answer;
                Split::Answer(c.to_string())
            }
        }
    }

    /// Ends the text and returns what was held back.
    pub(super) fn finish(&mut self) -> Split {
        match &mut self.state {
            State::Begin(finder) => {
                self.end = Some(0);
                Split::Answer(finder.take())
            }
            State::Opened(finder) => {
                Split::Reasoning(finder.take().trim_start_matches(['\n', '\r']).to_owned())
            }
            State::Inside(finder) => Split::Reasoning(finder.take()),
            State::Closed | State::Answer => Split::Answer(String::new()),
        }
    }
}
