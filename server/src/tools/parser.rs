//! Takes one choice's text apart: reasoning first, then content and calls.

use std::sync::Arc;

use super::format::{ReasoningFormat, ReasoningStart, ToolFormat};
use super::hermes::HermesParser;
use super::llama::LlamaParser;
use super::mistral::MistralParser;
use super::parts::{Part, Parts};
use super::reasoning::{ReasoningSplitter, Split};

/// What the parsers of a request's choices look for. Without either, all text is content.
#[derive(Clone, Debug, Default)]
pub struct ParserSettings {
    /// Calls, if there are tools to call.
    pub calls: Option<CallSettings>,
    /// Reasoning, if the model reasons.
    pub reasoning: Option<(ReasoningFormat, ReasoningStart)>,
}

/// Which calls to look for.
#[derive(Clone, Debug)]
pub struct CallSettings {
    /// How the model writes them.
    pub format: ToolFormat,
    /// Names of the tools.
    pub names: Arc<[String]>,
    /// Calls beyond this number are left out.
    pub max_calls: u32,
}

/// The parser of one choice.
#[derive(Debug)]
pub struct ChatParser {
    reasoning: Option<ReasoningSplitter>,
    calls: Option<CallParser>,
    max_calls: u32,
    num_calls: u32,
}

#[derive(Debug)]
enum CallParser {
    Hermes(HermesParser),
    Llama(LlamaParser),
    Mistral(MistralParser),
}

impl ChatParser {
    /// Looks for what `settings` say.
    pub fn new(settings: &ParserSettings) -> Self {
        let parser = |calls: &CallSettings| match calls.format {
            ToolFormat::Hermes => CallParser::Hermes(HermesParser::new()),
            ToolFormat::Llama3Json => CallParser::Llama(LlamaParser::new(Arc::clone(&calls.names))),
            ToolFormat::Mistral => CallParser::Mistral(MistralParser::new()),
        };
        Self {
            reasoning: settings
                .reasoning
                .map(|(format, start)| ReasoningSplitter::new(format, start)),
            calls: settings.calls.as_ref().map(parser),
            max_calls: settings.calls.as_ref().map_or(0, |calls| calls.max_calls),
            num_calls: 0,
        }
    }

    /// Takes the next portion of the text and returns what became certain with it.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        let mut parts = Parts::default();
        if self.reasoning.is_none() {
            self.push_answer(text, &mut parts);
        } else {
            for c in text.chars() {
                self.push_char(c, &mut parts);
            }
        }
        self.limited(parts)
    }

    fn push_char(&mut self, c: char, parts: &mut Parts) {
        match self.reasoning.as_mut().map(|reasoning| reasoning.push(c)) {
            Some(Split::Reasoning(text)) => parts.reasoning(&text),
            Some(Split::Answer(text)) => self.push_answer(&text, parts),
            None => {}
        }
    }

    fn push_answer(&mut self, text: &str, parts: &mut Parts) {
        match &mut self.calls {
            None => parts.content(text),
            Some(CallParser::Hermes(calls)) => text.chars().for_each(|c| calls.push(c, parts)),
            Some(CallParser::Llama(calls)) => text.chars().for_each(|c| calls.push(c, parts)),
            Some(CallParser::Mistral(calls)) => text.chars().for_each(|c| calls.push(c, parts)),
        }
    }

    /// Ends the text and returns what was held back.
    pub fn finish(&mut self) -> Vec<Part> {
        let mut parts = Parts::default();
        match self.reasoning.as_mut().map(ReasoningSplitter::finish) {
            Some(Split::Reasoning(text)) => parts.reasoning(&text),
            Some(Split::Answer(text)) => self.push_answer(&text, &mut parts),
            None => {}
        }
        match &mut self.calls {
            None => {}
            Some(CallParser::Hermes(calls)) => calls.finish(&mut parts),
            Some(CallParser::Llama(calls)) => calls.finish(&mut parts),
            Some(CallParser::Mistral(calls)) => calls.finish(&mut parts),
        }
        self.limited(parts)
    }

    /// Where the reasoning ended, in characters from the beginning of the text: 0 if there was
    /// none, `None` as long as that is open.
    pub fn reasoning_end(&self) -> Option<usize> {
        self.reasoning.as_ref().map_or(Some(0), ReasoningSplitter::end)
    }

    /// Without the calls that are too many.
    fn limited(&mut self, mut parts: Parts) -> Vec<Part> {
        let mut parts = parts.take();
        parts.retain(|part| {
            self.num_calls += u32::from(matches!(part, Part::CallStart(_)));
            let is_call = matches!(part, Part::CallStart(_) | Part::CallArguments(_));
            !is_call || self.num_calls <= self.max_calls
        });
        parts
    }
}
