//! `tools`, `tool_choice` and `parallel_tool_calls` of a chat.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::json::type_name;
use super::trace::ITEMS;
use crate::error::ApiError;

/// Most tools of one request, as in OpenAI's API.
const MAX_TOOLS: usize = 128;
/// Longest name of a tool, as in OpenAI's API.
const MAX_NAME_CHARS: usize = 64;
/// Most bytes of one tool's description and parameters together, as JSON.
const MAX_TOOL_BYTES: usize = 64 << 10;

/// The tools of a request and how they are to be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// The tools that may be called; empty if none may be.
    pub list: Vec<Tool>,
    /// Whether and what the model calls.
    pub choice: ToolChoice,
    /// How many calls one answer may have.
    pub parallel: ParallelCalls,
}

/// A function that the client offers.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema of its arguments, an object; without one it takes none.
    pub parameters: Option<Map<String, Value>>,
    /// What becomes of keywords of the schema that cannot be enforced.
    pub strictness: Strictness,
}

/// How exactly arguments follow their schema where they are enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strictness {
    /// As far as the schema's keywords can be enforced.
    #[default]
    BestEffort,
    /// Exactly: a keyword that cannot be enforced is an error (`strict`).
    Exact,
}

/// Whether and what the model calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// Nothing: the model does not even see the tools.
    #[default]
    None,
    /// What it likes.
    Auto,
    /// At least one tool.
    Required,
    /// This tool, once.
    Named(String),
}

/// How many calls one answer may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParallelCalls {
    /// Several.
    #[default]
    Allowed,
    /// One (`parallel_tool_calls` = false).
    One,
}

impl Tool {
    /// Checks a tool that was read from `path`.
    ///
    /// # Errors
    /// 400 for a name that is none, a schema that is not an object's, and too many bytes.
    pub fn check(&self, path: &str) -> Result<(), ApiError> {
        let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let num_chars = self.name.chars().count();
        if num_chars == 0 || num_chars > MAX_NAME_CHARS || !self.name.chars().all(is_letter) {
            let path = format!("{path}.name");
            let message = format!(
                "{path} = {:?} must be 1 to {MAX_NAME_CHARS} of a-z, A-Z, 0-9, _ and -",
                self.name
            );
            return Err(ApiError::invalid_value(path, message));
        }
        let path = format!("{path}.parameters");
        let kind = self.parameters.as_ref().and_then(|schema| schema.get("type"));
        if let Some(kind) = kind.filter(|kind| *kind != "object") {
            let message = format!("{path}.type = {kind} must be \"object\"");
            return Err(ApiError::invalid_value(format!("{path}.type"), message));
        }
        let num_bytes = self.for_template().to_string().len();
        if num_bytes > MAX_TOOL_BYTES {
            let message = format!(
                "{path} and the description have {num_bytes} bytes as JSON, at most \
                 {MAX_TOOL_BYTES} are allowed"
            );
            return Err(ApiError::invalid_value(path, message));
        }
        Ok(())
    }

    /// The tool as chat templates show it to the model.
    pub fn for_template(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), self.name.clone().into());
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), description.clone().into());
        }
        let nothing = || json!({ "type": "object", "properties": {} });
        let parameters = self.parameters.clone().map_or_else(nothing, Value::Object);
        function.insert("parameters".to_owned(), parameters);
        json!({ "type": "function", "function": function })
    }
}

/// Takes the three fields.
pub(super) fn read(fields: &mut Fields) -> Result<Tools, ApiError> {
    let list = read_tools(fields)?;
    let (choice, allowed) = read_choice(fields, &list)?;
    let parallel = match fields.boolean("parallel_tool_calls")? {
        Some(false) if list.is_empty() => {
            let path = fields.path("parallel_tool_calls");
            let message = format!("{path} = false needs tools");
            return Err(ApiError::invalid_value(path, message));
        }
        Some(false) => ParallelCalls::One,
        _ => ParallelCalls::Allowed,
    };
    let list = match allowed {
        None => list,
        Some(names) => list.into_iter().filter(|tool| names.contains(&tool.name)).collect(),
    };
    Ok(Tools { list, choice, parallel })
}

fn tools_shape() -> Value {
    json!({ "type": "array", "items": ITEMS, "maxItems": MAX_TOOLS })
}

fn read_tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let path = fields.path("tools");
    let tools = match fields.take_shaped("tools", tools_shape) {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(ApiError::invalid_type(path, "an array", type_name(&other))),
    };
    if tools.len() > MAX_TOOLS {
        let message = format!("{path} has {} tools, at most {MAX_TOOLS} are allowed", tools.len());
        return Err(ApiError::invalid_value(path, message));
    }
    let mut list: Vec<Tool> = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        let tool = read_tool(fields.child(path.clone(), tool)?)?;
        if list.iter().any(|one| one.name == tool.name) {
            let path = format!("{path}.function.name");
            let message = format!("{path} = {:?} is the name of another tool too", tool.name);
            return Err(ApiError::invalid_value(path, message));
        }
        list.push(tool);
    }
    Ok(list)
}

fn read_tool(mut fields: Fields) -> Result<Tool, ApiError> {
    read_kind(&mut fields)?;
    let path = fields.path("function");
    let mut function = fields.object("function")?.ok_or_else(|| ApiError::missing(path.clone()))?;
    let name = function.string("name")?.ok_or_else(|| ApiError::missing(function.path("name")))?;
    let description = function.string("description")?;
    let parameters = function.object("parameters")?.map(Fields::into_rest);
    let strictness = match function.boolean("strict")? {
        Some(true) => Strictness::Exact,
        _ => Strictness::BestEffort,
    };
    function.finish()?;
    fields.finish()?;
    let tool = Tool { name, description, parameters, strictness };
    tool.check(&path)?;
    Ok(tool)
}

/// Takes `type`, which must be that of a function.
fn read_kind(fields: &mut Fields) -> Result<(), ApiError> {
    let path = fields.path("type");
    let shape = || json!({ "const": "function" });
    match fields.take_shaped("type", shape) {
        Some(Value::String(kind)) if kind == "function" => Ok(()),
        Some(Value::String(kind)) => {
            let message =
                format!("{path} = {kind:?} is not supported by this server: send \"function\"");
            Err(ApiError::unsupported(path, message))
        }
        Some(other) => Err(ApiError::invalid_type(path, "a string", type_name(&other))),
        None => Err(ApiError::missing(path)),
    }
}

const CHOICES: [(&str, ToolChoice); 3] =
    [("none", ToolChoice::None), ("auto", ToolChoice::Auto), ("required", ToolChoice::Required)];

fn choice_shape() -> Value {
    json!({ "anyOf": [{ "enum": CHOICES.map(|(word, _)| word) }, ITEMS] })
}

/// The choice, and the names of the tools that it is limited to, if it is.
fn read_choice(
    fields: &mut Fields,
    list: &[Tool],
) -> Result<(ToolChoice, Option<Vec<String>>), ApiError> {
    let path = fields.path("tool_choice");
    let found = match fields.take_shaped("tool_choice", choice_shape) {
        None if list.is_empty() => (ToolChoice::None, None),
        None => (ToolChoice::Auto, None),
        Some(Value::String(word)) => {
            let choice = CHOICES.iter().find(|(one, _)| *one == word);
            let choice = choice.ok_or_else(|| {
                let message = format!(
                    "{path} = {word:?} must be \"none\", \"auto\", \"required\" or an object"
                );
                ApiError::invalid_value(path.clone(), message)
            })?;
            (choice.1.clone(), None)
        }
        Some(object @ Value::Object(_)) => {
            read_choice_object(fields.child(path.clone(), object)?, list)?
        }
        Some(other) => {
            let expected = "a string or an object";
            return Err(ApiError::invalid_type(path, expected, type_name(&other)));
        }
    };
    match found {
        (ToolChoice::Required | ToolChoice::Named(_), _) if list.is_empty() => {
            Err(ApiError::invalid_value(path.clone(), format!("{path} needs tools")))
        }
        (ToolChoice::Auto, None) if list.is_empty() => Ok((ToolChoice::None, None)),
        found => Ok(found),
    }
}

fn read_choice_object(
    mut fields: Fields,
    list: &[Tool],
) -> Result<(ToolChoice, Option<Vec<String>>), ApiError> {
    #[derive(Clone, Copy)]
    enum Kind {
        Function,
        Allowed,
    }
    let kinds = [("function", Kind::Function), ("allowed_tools", Kind::Allowed)];
    let kind = fields.word("type", &kinds)?;
    let found = match kind.ok_or_else(|| ApiError::missing(fields.path("type")))? {
        Kind::Function => {
            let name = read_reference(&mut fields, list)?;
            (ToolChoice::Named(name), None)
        }
        Kind::Allowed => {
            let path = fields.path("allowed_tools");
            let allowed = fields.object("allowed_tools")?;
            read_allowed(allowed.ok_or_else(|| ApiError::missing(path))?, list)?
        }
    };
    fields.finish()?;
    Ok(found)
}

fn read_allowed(
    mut fields: Fields,
    list: &[Tool],
) -> Result<(ToolChoice, Option<Vec<String>>), ApiError> {
    let modes = [("auto", ToolChoice::Auto), ("required", ToolChoice::Required)];
    let mode = fields.word("mode", &modes)?;
    let mode = mode.ok_or_else(|| ApiError::missing(fields.path("mode")))?;
    let path = fields.path("tools");
    let tools = match fields.take_shaped("tools", tools_shape) {
        None => return Err(ApiError::missing(path)),
        Some(Value::Array(tools)) if tools.is_empty() => {
            return Err(ApiError::invalid_value(path.clone(), format!("{path} is empty")));
        }
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(ApiError::invalid_type(path, "an array", type_name(&other))),
    };
    let mut names = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let mut tool = fields.child(format!("{path}[{index}]"), tool)?;
        read_kind(&mut tool)?;
        names.push(read_reference(&mut tool, list)?);
        tool.finish()?;
    }
    fields.finish()?;
    Ok((mode, Some(names)))
}

/// Takes `function`, which names one of the tools.
fn read_reference(fields: &mut Fields, list: &[Tool]) -> Result<String, ApiError> {
    let path = fields.path("function");
    let mut function = fields.object("function")?.ok_or_else(|| ApiError::missing(path))?;
    let path = function.path("name");
    let name = function.string("name")?.ok_or_else(|| ApiError::missing(path.clone()))?;
    function.finish()?;
    if !list.iter().any(|tool| tool.name == name) {
        let message = format!("{path} = {name:?} is not the name of one of the tools");
        return Err(ApiError::invalid_value(path, message));
    }
    Ok(name)
}
