//! What a chat request comes to on one model: its prompt, and how its answer is to be read.
//!
//! All that depends on the model's chat template is decided here: whether it takes tools, whether
//! it uses a variable, whether it has opened a block of reasoning. A field that would change
//! nothing is refused by name.

use folio_engine::types::TokenId;
use serde_json::{Map, Value};

use super::prompt::Prompt;
use super::shape::AnswerKind;
use crate::error::ApiError;
use crate::models::ServedModel;
use crate::openai::{
    ChatRequest, Constraint, Effort, Generation, ParallelCalls, ShownReasoning, Strictness,
    Structure, Tool, ToolChoice, Tools,
};
use crate::service::unix_seconds;
use crate::text::{ChatInput, GenerationPrompt};
use crate::tools::{
    CallIdStyle, CallSettings, ParserSettings, ReasoningFormat, ToolFormat, required_calls,
    special_marks,
};

/// Most calls of an answer that must have some.
const MAX_REQUIRED_CALLS: u32 = 8;

/// A chat request, made ready for one model.
#[derive(Debug)]
pub struct ChatPlan {
    /// The prompt as text.
    pub text: String,
    /// The same as tokens.
    pub prompt: Prompt,
    /// How to generate, with the grammar of calls where some are required.
    pub generation: Generation,
    /// How to read the answer.
    pub reading: Reading,
}

/// How the answer's text is taken apart, and what of it is shown.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What the parsers look for.
    pub parser: ParserSettings,
    /// Whether the answer has the reasoning.
    pub reasoning: ShownReasoning,
    /// Special tokens that the parsers must see.
    pub shown: Vec<TokenId>,
    /// What ids of calls look like.
    pub call_ids: CallIdStyle,
    /// How an answer with calls ends.
    pub ending: CallsEnding,
}

/// The reason that is given for the end of an answer with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallsEnding {
    /// `tool_calls`: the model chose what to call.
    ToolCalls,
    /// `stop`: the client did.
    Stop,
}

impl ChatPlan {
    /// Decides how `model` answers `request`.
    ///
    /// # Errors
    /// 400 for what the model or its template does not take.
    pub fn new(model: &ServedModel, request: ChatRequest) -> Result<Self, ApiError> {
        let ChatRequest { messages, tools, template_arguments, reasoning, .. } = request;
        let mut generation = request.generation;
        let calls = Calls::new(model, &tools, &mut generation)?;
        let lazy_calls = calls.as_ref().and_then(|calls| calls.lazy.clone());
        let mut arguments = template_arguments.unwrap_or_default();
        check_arguments(model, &arguments)?;
        if let Some(effort) = reasoning.effort {
            set_effort(model, effort, &mut arguments)?;
        }
        let shown_tools: Vec<Value> = match calls {
            Some(_) => tools.list.iter().map(Tool::for_template).collect(),
            None => Vec::new(),
        };
        let text = render(model, &messages, &shown_tools, &arguments)?;
        let max_len = model.limits.max_model_len;
        let path = "messages".to_owned();
        let tokens = model.text.encode_rendered(&text, max_len);
        let tokens = tokens.map_err(|error| ApiError::from_text(&error, &path))?;
        let reading = Reading::new(model, calls, &text, reasoning.shown);
        let is_bound = generation.structure.is_some() || lazy_calls.is_some();
        // Where the prompt has closed the block already, the shape holds from the start.
        let is_closed = |format: ReasoningFormat| text.trim_end().ends_with(format.close());
        let gated = reading.parser.reasoning.filter(|(f, _)| is_bound && !is_closed(*f));
        let answer = AnswerKind::new(model, gated, lazy_calls);
        let prompt = Prompt { path, tokens, answer };
        Ok(Self { text, prompt, generation, reading })
    }
}

fn render(
    model: &ServedModel,
    messages: &[Value],
    tools: &[Value],
    arguments: &Map<String, Value>,
) -> Result<String, ApiError> {
    let input = ChatInput {
        messages,
        tools: Some(tools),
        documents: None,
        generation_prompt: GenerationPrompt::Add,
        kwargs: Some(arguments),
        now: unix_seconds() as i64,
    };
    model.text.render_chat(&input).map_err(|error| ApiError::from_text(&error, "messages"))
}

/// The calls that an answer may or must have.
struct Calls {
    settings: CallSettings,
    ending: CallsEnding,
    /// The grammar of calls that the answer need not have, where it is to hold.
    lazy: Option<(TokenId, Structure)>,
}

impl Calls {
    /// `None` where nothing is to be called. Sets the grammar where something must be.
    fn new(
        model: &ServedModel,
        tools: &Tools,
        generation: &mut Generation,
    ) -> Result<Option<Self>, ApiError> {
        if tools.choice == ToolChoice::None || tools.list.is_empty() {
            return Ok(None);
        }
        let Some(format) = model.text.formats().tools else {
            let message = format!(
                "tools: the chat template of {} shows no tools, or calls in a format that is not \
                 known; the operator may name one with --tool-call-parser",
                model.name()
            );
            return Err(ApiError::unsupported("tools", message));
        };
        let mark = format.mark_token(model.text.tokenizer());
        let is_free = tools.choice == ToolChoice::Auto && mark.is_some();
        if let Some(structure) = generation.structure.as_ref().filter(|_| !is_free) {
            let message = format!(
                "tools cannot be called while {} gives the answer's shape: send tool_choice = \
                 \"none\", or leave one of them out",
                structure.path
            );
            return Err(ApiError::unsupported("tools", message));
        }
        let max_calls = match (tools.parallel, &tools.choice) {
            (ParallelCalls::One, _) | (_, ToolChoice::Named(_)) => 1,
            (ParallelCalls::Allowed, ToolChoice::Required) => MAX_REQUIRED_CALLS,
            (ParallelCalls::Allowed, _) => u32::MAX,
        };
        let is_strict = tools.list.iter().any(|tool| tool.strictness == Strictness::Exact);
        let is_bound = is_strict || generation.structure.is_some();
        let lazy = match (&tools.choice, mark) {
            (ToolChoice::Auto, Some(mark)) if is_bound => {
                let max_calls = max_calls.min(MAX_REQUIRED_CALLS);
                let all: Vec<&Tool> = tools.list.iter().collect();
                Some((mark, structure("tools", model, format, (&all, max_calls))))
            }
            (ToolChoice::Auto | ToolChoice::None, _) => None,
            (ToolChoice::Required | ToolChoice::Named(_), _) => {
                let tools = (&callable(tools)[..], max_calls);
                generation.structure = Some(structure("tool_choice", model, format, tools));
                None
            }
        };
        let names: Vec<String> = tools.list.iter().map(|tool| tool.name.clone()).collect();
        let ending = match tools.choice {
            ToolChoice::Named(_) => CallsEnding::Stop,
            _ => CallsEnding::ToolCalls,
        };
        let settings = CallSettings { format, names: names.into(), max_calls };
        Ok(Some(Self { settings, ending, lazy }))
    }
}

/// The tools that an answer must call, if it must.
fn callable(tools: &Tools) -> Vec<&Tool> {
    let is_callable = |tool: &&Tool| match &tools.choice {
        ToolChoice::Named(name) => tool.name == *name,
        _ => true,
    };
    tools.list.iter().filter(is_callable).collect()
}

/// The grammar of one to as many calls of `tools`, asked for by the field at `path`.
fn structure(
    path: &str,
    model: &ServedModel,
    format: ToolFormat,
    (tools, max_calls): (&[&Tool], u32),
) -> Structure {
    let text = required_calls(model.text.tokenizer(), format, tools, max_calls);
    Structure { path: path.to_owned(), constraint: Constraint::Lark(text) }
}

impl Reading {
    fn new(
        model: &ServedModel,
        calls: Option<Calls>,
        prompt: &str,
        reasoning: ShownReasoning,
    ) -> Self {
        let format = model.text.formats().reasoning;
        let call_format = calls.as_ref().map(|calls| calls.settings.format);
        let marks = call_format.map_or(&[][..], ToolFormat::marks).iter().copied();
        let marks = marks.chain(format.into_iter().flat_map(|f| [f.open(), f.close()]));
        Self {
            shown: special_marks(model.text.tokenizer(), marks),
            call_ids: call_format.map_or(CallIdStyle::Long, ToolFormat::call_ids),
            ending: calls.as_ref().map_or(CallsEnding::ToolCalls, |calls| calls.ending),
            parser: ParserSettings {
                calls: calls.map(|calls| calls.settings),
                reasoning: format.map(|format| (format, format.start(prompt))),
            },
            reasoning,
        }
    }
}

/// Refuses variables that the template does not use, unless they ask for what it does anyway.
fn check_arguments(model: &ServedModel, arguments: &Map<String, Value>) -> Result<(), ApiError> {
    for (name, value) in arguments {
        let is_off = matches!(name.as_str(), "enable_thinking" | "thinking")
            && *value == Value::Bool(false)
            && model.text.formats().reasoning.is_none();
        if !is_off && !model.text.template_uses(name) {
            let path = format!("chat_template_kwargs.{name}");
            let message = format!("{path}: the chat template of {} does not use it", model.name());
            return Err(ApiError::unsupported(path, message));
        }
    }
    Ok(())
}

/// Tells the template how much the model is to think, in the words that it knows.
fn set_effort(
    model: &ServedModel,
    effort: Effort,
    arguments: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let field = "reasoning_effort";
    let switch = "enable_thinking";
    let (is_graded, is_switched) =
        (model.text.template_uses(field), model.text.template_uses(switch));
    for name in [field, switch] {
        if arguments.contains_key(name) {
            let message = format!("{field} and chat_template_kwargs.{name} say the same thing");
            return Err(ApiError::invalid_value(field, message));
        }
    }
    let is_thinking = model.text.formats().reasoning.is_some();
    match effort {
        Effort::None if is_switched => {
            arguments.insert(switch.to_owned(), false.into());
        }
        _ if is_graded => {
            arguments.insert(field.to_owned(), effort.as_str().into());
        }
        Effort::Medium if is_switched => {
            arguments.insert(switch.to_owned(), true.into());
        }
        Effort::None if !is_thinking => {}
        Effort::Medium if is_thinking => {}
        _ => {
            let known = match (is_switched, is_thinking) {
                (true, _) => "\"none\" or \"medium\"",
                (false, true) => "\"medium\"",
                (false, false) => "\"none\"",
            };
            let message = format!(
                "{field} = {:?}: {} knows no such grade; send {known} or leave it out",
                effort.as_str(),
                model.name()
            );
            return Err(ApiError::unsupported(field, message));
        }
    }
    Ok(())
}
