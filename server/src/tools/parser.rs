//! Takes one choice's text apart.

/// A piece of an answer, in the order of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the user.
    Content(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A tool call begins: the name of the tool.
    CallStart(String),
    /// More text of the arguments of the call that began last.
    CallArguments(String),
}

/// The parser of one choice.
#[derive(Debug, Default)]
pub struct ChatParser {}

impl ChatParser {
    /// Takes the next portion of the text.
    pub fn push(&mut self, text: &str, parts: &mut Vec<Part>) {
        if !text.is_empty() {
            parts.push(Part::Content(text.to_owned()));
        }
    }

    /// Ends the text.
    pub fn finish(&mut self, parts: &mut Vec<Part>) {
        let _ = parts;
    }

    /// Where the reasoning ended, in characters from the beginning of the text: `None` while it
    /// goes on, 0 if there was none.
    pub fn reasoning_end(&self) -> Option<usize> {
        Some(0)
    }
}
