//! The parts that an answer is taken apart into.

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

/// Parts in the making: those of a kind that follow each other are one.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<Part>);

impl Parts {
    pub(super) fn content(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Content(last)) => last.push_str(text),
            _ => self.0.push(Part::Content(text.to_owned())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Reasoning(last)) => last.push_str(text),
            _ => self.0.push(Part::Reasoning(text.to_owned())),
        }
    }

    pub(super) fn call_start(&mut self, name: String) {
        self.0.push(Part::CallStart(name));
    }

    pub(super) fn call_arguments(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::CallArguments(last)) => last.push_str(text),
            _ => self.0.push(Part::CallArguments(text.to_owned())),
        }
    }

    /// All parts so far.
    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.0)
    }
}
