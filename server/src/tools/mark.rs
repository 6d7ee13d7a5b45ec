//! Finds a mark in a text that arrives character by character.
//!
//! White space before a mark belongs to it, so it is held back until it is clear that no mark
//! follows; so is what may become a mark.

/// What a character led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// No mark can begin in this text any more; empty while all is held back.
    Text(String),
    /// The mark ended here; the white space that stood before it.
    Mark(String),
}

/// Looks for one mark.
#[derive(Debug)]
pub(super) struct MarkFinder {
    mark: &'static str,
    /// White space, then the beginning of the mark.
    held: String,
}

impl MarkFinder {
    pub(super) fn new(mark: &'static str) -> Self {
        Self { mark, held: String::new() }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char) -> Found {
        self.held.push(c);
        let mut text = String::new();
        loop {
            let space = self.held.len() - self.held.trim_start().len();
            let rest = &self.held[space..];
            if rest == self.mark {
                let mut held = std::mem::take(&mut self.held);
                held.truncate(space);
                // No text was let go of before: what is left after that is shorter than the mark.
                return Found::Mark(held);
            }
            if self.mark.starts_with(rest) {
                return Found::Text(text);
            }
            let first = rest.chars().next().map_or(0, char::len_utf8);
            text.extend(self.held.drain(..space + first));
        }
    }

    /// What is held back.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
