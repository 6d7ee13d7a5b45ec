//! Renders a conversation to the one text that the model was trained to see.
//!
//! Templates are written for Hugging Face's rendering (Jinja2 with some extensions), so everything
//! a template can notice is as there: block trimming, `raise_exception`, `strftime_now`,
//! `tojson`, loop controls, Python's methods and spellings. Compiled once, when the model loads.
//! Neighbours: `messages` prepares what clients send, `template_source` finds the template,
//! `python` holds the methods, `python_json` writes JSON.

use std::collections::BTreeMap;
use std::error::Error as _;

use jiff::Timestamp;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use super::error::{Error, Result};
use super::template_source::{DEFAULT, TOOL_USE, TemplateSource, without_generation_tags};
use super::{messages, python, python_json};

/// As large a `range` as templates may ask for, as in Hugging Face's sandbox.
const MAX_RANGE: i64 = 100_000;

/// Names of a template's variables that a client's keywords cannot take.
const RESERVED: [&str; 6] =
    ["messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"];

/// How the rendered text ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// With the opening of an assistant's turn, for the model to fill.
    #[default]
    Add,
    /// With the last message, closed.
    Omit,
    /// Inside the last message, right after its content, for the model to go on with it.
    ContinueFinal,
}

/// A conversation to render.
#[derive(Clone, Copy, Debug)]
pub struct ChatInput<'a> {
    /// The messages, each an object with a `role`; at least one.
    pub messages: &'a [Json],
    /// Tools that may be called, as the client described them.
    pub tools: Option<&'a [Json]>,
    /// Documents to answer from, each an object.
    pub documents: Option<&'a [Json]>,
    /// How the text ends.
    pub generation_prompt: GenerationPrompt,
    /// More variables for the template, such as `enable_thinking`.
    pub kwargs: Option<&'a Map<String, Json>>,
    /// What `strftime_now` shows: seconds since 1970 began, UTC.
    pub now: i64,
}

/// The chat templates of one model, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Name and text of special tokens: variables of every template.
    special_tokens: Vec<(String, String)>,
    source: TemplateSource,
}

impl ChatTemplate {
    /// Compiles the templates in `source`. `special_tokens` are pairs such as `eos_token` and
    /// `</s>`.
    ///
    /// # Errors
    /// [`Error::Template`] for a template that does not compile.
    pub fn new(source: TemplateSource, special_tokens: Vec<(String, String)>) -> Result<Self> {
        let mut environment = environment().map_err(|error| failure(DEFAULT, &error))?;
        for (name, text) in source.templates() {
            environment
                .add_template_owned(name.clone(), without_generation_tags(text))
                .map_err(|error| failure(name, &error))?;
        }
        Ok(Self { environment, special_tokens, source })
    }

    /// Whether any of the templates makes a difference for `role`: it has it as a literal. Those
    /// that do not either print every role as it is, or refuse those they do not know.
    pub fn knows_role(&self, role: &str) -> bool {
        let literals = [format!("'{role}'"), format!("\"{role}\"")];
        let has = |text: &String| literals.iter().any(|literal| text.contains(literal));
        self.source.templates().iter().any(|(_, text)| has(text))
    }

    /// Whether any of the templates has the word `name`, as those do that use such a variable.
    pub fn uses(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let has = |text: &str| {
            text.match_indices(name).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                let after = text[at + name.len()..].chars().next();
                !before.is_some_and(is_part) && !after.is_some_and(is_part)
            })
        };
        !name.is_empty() && self.source.templates().iter().any(|(_, text)| has(text))
    }

    /// The templates' texts.
    pub fn source(&self) -> &TemplateSource {
        &self.source
    }

    /// Renders `input` with the template for it: `tool_use` where there are tools and the model
    /// has one, else `default`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the template's own words if it does not take this conversation,
    /// [`Error::Message`] for an input that no template could take, [`Error::Template`] for a
    /// failure inside the template.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String> {
        let is_continued = input.generation_prompt == GenerationPrompt::ContinueFinal;
        let mut messages = messages::normalize(input.messages)?;
        if is_continued {
            messages::mark_end(&mut messages)?;
        }
        let name = self.template_for(input);
        let template =
            self.environment.get_template(name).map_err(|error| failure(name, &error))?;
        let variables = self.variables(input, &messages)?;
        let text = template.render(Value::from(variables)).map_err(|e| failure(name, &e))?;
        if is_continued { messages::cut_at_mark(text) } else { Ok(text) }
    }

    fn template_for(&self, input: &ChatInput<'_>) -> &'static str {
        let has_tool_use = self.source.templates().iter().any(|(name, _)| name == TOOL_USE);
        if input.tools.is_some() && has_tool_use { TOOL_USE } else { DEFAULT }
    }

    fn variables(
        &self,
        input: &ChatInput<'_>,
        messages: &[Json],
    ) -> Result<BTreeMap<String, Value>> {
        let mut variables = BTreeMap::new();
        for (name, token) in &self.special_tokens {
            variables.insert(name.clone(), Value::from(token.as_str()));
        }
        for (name, value) in input.kwargs.into_iter().flatten() {
            if RESERVED.contains(&name.as_str()) {
                let field = format!("chat_template_kwargs.{name}");
                let message = "is a field of its own, not a variable to be set here".to_owned();
                return Err(Error::Message { field, message });
            }
            variables.insert(name.clone(), template_value(value));
        }
        let adds_prompt = input.generation_prompt == GenerationPrompt::Add;
        let now = input.now;
        let own = [
            ("messages", template_list(Some(messages))),
            ("tools", template_list(input.tools)),
            ("documents", template_list(input.documents)),
            ("add_generation_prompt", Value::from(adds_prompt)),
            ("strftime_now", Value::from_function(move |format: &str| strftime(now, format))),
        ];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Ok(variables)
    }
}

/// A list for the template; `None` where the client gave none, which templates test for.
fn template_list(items: Option<&[Json]>) -> Value {
    items.map_or_else(|| Value::from(()), |items| items.iter().map(template_value).collect())
}

/// The same value in the template engine's representation, the order of keys kept.
fn template_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(template_value).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, v)| (key.as_str(), template_value(v))))
        }
    }
}

fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(python::print);
    environment.add_test("sequence", python::is_sequence);
    environment.add_test("iterable", python::is_iterable);
    environment.add_filter("int", python::int);
    environment.add_filter("float", python::to_float);
    environment.add_filter("tojson", python_json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("range", range);
    Ok(environment)
}

/// What `raise_exception` was given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &Value) -> std::result::Result<Value, minijinja::Error> {
    let raised = Raised(message.to_string());
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raised").with_source(raised))
}

fn range(
    first: i64,
    second: Option<i64>,
    step: Option<i64>,
) -> std::result::Result<Value, minijinja::Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    let fail = |message: String| Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
    if step == 0 {
        return fail("range() with a step of 0".to_owned());
    }
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let num = distance.max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    if num > MAX_RANGE.unsigned_abs() {
        return fail(format!("a range of {num} numbers; the limit is {MAX_RANGE}"));
    }
    // Fewer than 100 001 steps between two bounds that are both i64.
    Ok((0..num as i64).map(|i| Value::from(start + i * step)).collect())
}

fn strftime(now: i64, format: &str) -> std::result::Result<String, minijinja::Error> {
    let fail = |error: jiff::Error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"))
    };
    let time = Timestamp::from_second(now).map_err(fail)?;
    strtime::format(format, time).map_err(fail)
}

/// Tells a template's refusal from its failure.
fn failure(name: &str, error: &minijinja::Error) -> Error {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return Error::Refused(message.clone());
        }
        cause = inner.source();
    }
    Error::Template { template: name.to_owned(), message: error.to_string() }
}
