//! Where a model keeps its chat templates, and the one piece of their language that the engine
//! lacks.
//!
//! Newer models have a chat_template.jinja and perhaps more under additional_chat_templates/,
//! older ones a string or a list of named strings in tokenizer_config.json. The file wins.

use serde_json::Value;

use super::config::FILE as CONFIG_FILE;
use super::error::{Error, Result};

/// The template for any conversation.
pub(super) const DEFAULT: &str = "default";
/// The template for conversations with tools, where a model has one of its own for them.
pub(super) const TOOL_USE: &str = "tool_use";

/// File with the template.
pub(super) const TEMPLATE_FILE: &str = "chat_template.jinja";
/// File with the template for conversations with tools.
pub(super) const TOOL_USE_FILE: &str = "additional_chat_templates/tool_use.jinja";

/// The texts of a model's templates, by name. Always has one called `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSource {
    templates: Vec<(String, String)>,
}

impl TemplateSource {
    /// One template for everything.
    pub fn single(text: impl Into<String>) -> Self {
        Self { templates: vec![(DEFAULT.to_owned(), text.into())] }
    }

    /// Adds a template for conversations with tools, in place of one that is there.
    #[must_use]
    pub fn with_tool_use(mut self, text: impl Into<String>) -> Self {
        self.templates.retain(|(name, _)| name != TOOL_USE);
        self.templates.push((TOOL_USE.to_owned(), text.into()));
        self
    }

    /// Reads `chat_template` of tokenizer_config.json: a string, or a list of `{name, template}`.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for any other value, and for a list without a `default`.
    pub fn from_config(value: &Value) -> Result<Self> {
        if let Some(text) = value.as_str() {
            return Ok(Self::single(text));
        }
        let fail = |message: &str| Error::file(CONFIG_FILE, &format!("chat_template: {message}"));
        let Some(list) = value.as_array() else {
            return Err(fail("expected a string or a list of named templates"));
        };
        let mut templates = Vec::with_capacity(list.len());
        for entry in list {
            let field = |name: &str| entry.get(name)?.as_str().map(str::to_owned);
            let (Some(name), Some(text)) = (field("name"), field("template")) else {
                return Err(fail("an entry of the list lacks name or template"));
            };
            templates.push((name, text));
        }
        if !templates.iter().any(|(name, _)| name == DEFAULT) {
            return Err(fail("the list has no template named default"));
        }
        Ok(Self { templates })
    }

    /// Name and text of each.
    pub fn templates(&self) -> &[(String, String)] {
        &self.templates
    }
}

/// Replaces the tags `{% generation %}` and `{% endgeneration %}`, which mark the parts that a
/// model is trained on and print nothing, by tags of a block that does nothing else than they do:
/// it has a scope of its own.
pub(super) fn without_generation_tags(template: &str) -> String {
    let mut output = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        output.push_str(before);
        let length = tag_length(tag);
        let (tag, after) = tag.split_at(length);
        output.push_str(&replaced(tag));
        rest = after;
    }
    output.push_str(rest);
    output
}

/// Length of the tag, expression or comment that `text` begins with; of raw text too, up to its
/// end. One if it is none of these.
fn tag_length(text: &str) -> usize {
    let end = |close: &str, from: usize| text[from..].find(close).map(|at| from + at + close.len());
    let length = if text.starts_with("{#") {
        end("#}", 2)
    } else if text.starts_with("{{") {
        code_length(text, "}}")
    } else if text.starts_with("{%") {
        code_length(text, "%}").map(|length| {
            if keyword(&text[..length]) == Some("raw") { raw_length(text, length) } else { length }
        })
    } else {
        Some(1)
    };
    // What is not closed is a syntax error that the engine reports.
    length.unwrap_or(text.len())
}

/// Length up to and with `close`, but for those inside of quotes.
fn code_length(text: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if text[at..].starts_with(close) => return Some(at + close.len()),
            Some(_) | None => {}
        }
    }
    None
}

/// Length of raw text whose opening tag has the length `from`, with its closing tag.
fn raw_length(text: &str, from: usize) -> usize {
    for (at, _) in text[from..].match_indices("{%") {
        let tag = &text[from + at..];
        let Some(length) = tag.find("%}").map(|close| close + 2) else {
            break;
        };
        if keyword(&tag[..length]) == Some("endraw") {
            return from + at + length;
        }
    }
    text.len()
}

/// The only word in a tag, `None` if there are more.
fn keyword(tag: &str) -> Option<&str> {
    let inner = tag.strip_prefix("{%")?.strip_suffix("%}")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let inner = inner.strip_suffix(['-', '+']).unwrap_or(inner);
    let word = inner.trim();
    word.chars().all(|c| c.is_ascii_alphabetic()).then_some(word)
}

fn replaced(tag: &str) -> String {
    match keyword(tag) {
        Some("generation") => tag.replacen("generation", "with", 1),
        Some("endgeneration") => tag.replacen("endgeneration", "endwith", 1),
        _ => tag.to_owned(),
    }
}
