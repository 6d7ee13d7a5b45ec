//! How a model writes tool calls and reasoning: found in its chat template, or said by the
//! operator.

use folio_engine::types::TokenId;

use super::{hermes, llama, mistral};
use crate::text::{SpecialTokens, TemplateSource, Tokenizer};

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Qwen 2.5 and 3, Hermes, and others.
    Hermes,
    /// `{"name": …, "parameters": …}`, perhaps after `<|python_tag|>`: Llama 3.
    Llama3Json,
    /// `[TOOL_CALLS]` with an array, or with names and `[ARGS]`: Mistral.
    Mistral,
}

/// How a model marks what it thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningFormat {
    /// `<think>…</think>`: Qwen 3, DeepSeek R1, and others.
    Think,
    /// `[THINK]…[/THINK]`: Magistral.
    Mistral,
}

/// Where a generation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReasoningStart {
    /// In a block of reasoning that the prompt has opened.
    Inside,
    /// Where the model may open one.
    Outside,
}

/// What ids of calls look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallIdStyle {
    /// `call_` and hexadecimal digits.
    Long,
    /// Nine letters and digits, as Mistral's templates insist.
    Short,
}

/// How one model writes what is not content, as far as that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatFormats {
    /// Tool calls.
    pub tools: Option<ToolFormat>,
    /// Reasoning.
    pub reasoning: Option<ReasoningFormat>,
}

/// An operator named a format that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {name:?} is not known: give one of {known}")]
pub struct UnknownFormat {
    flag: &'static str,
    name: String,
    known: String,
}

/// Names of formats, those of vLLM among them. `auto` looks at the template, `none` switches off.
const TOOL_NAMES: [(&str, ToolFormat); 5] = [
    ("hermes", ToolFormat::Hermes),
    ("qwen3", ToolFormat::Hermes),
    ("llama3_json", ToolFormat::Llama3Json),
    ("llama4_json", ToolFormat::Llama3Json),
    ("mistral", ToolFormat::Mistral),
];
const REASONING_NAMES: [(&str, ReasoningFormat); 4] = [
    ("think", ReasoningFormat::Think),
    ("qwen3", ReasoningFormat::Think),
    ("deepseek_r1", ReasoningFormat::Think),
    ("mistral", ReasoningFormat::Mistral),
];

impl ChatFormats {
    /// What the model's chat template shows: calls only if it shows tools. Formats that look alike
    /// but are others are not taken for one that is known.
    pub fn detect(template: &TemplateSource) -> Self {
        let has = |word: &str| template.templates().iter().any(|(_, text)| text.contains(word));
        let is_other = ["<function=", "<arg_key>", "<|tool_calls_section_begin|>"].map(has);
        let tools = if is_other.contains(&true) || !has("tools") {
            None
        } else if has(hermes::OPEN) {
            Some(ToolFormat::Hermes)
        } else if has(mistral::MARK) {
            Some(ToolFormat::Mistral)
        } else if has(llama::TAG) || (has("<|start_header_id|>") && has("\"parameters\"")) {
            Some(ToolFormat::Llama3Json)
        } else {
            None
        };
        let formats = [ReasoningFormat::Think, ReasoningFormat::Mistral];
        let reasoning = formats.into_iter().find(|format| has(format.close()));
        Self { tools, reasoning }
    }

    /// Puts the formats that an operator named in place of those that were found.
    ///
    /// # Errors
    /// For a name that is not known.
    pub fn with_names(mut self, tools: &str, reasoning: &str) -> Result<Self, UnknownFormat> {
        if tools != "auto" {
            self.tools = by_name("--tool-call-parser", &TOOL_NAMES, tools)?;
        }
        if reasoning != "auto" {
            self.reasoning = by_name("--reasoning-parser", &REASONING_NAMES, reasoning)?;
        }
        Ok(self)
    }
}

fn by_name<T: Copy>(
    flag: &'static str,
    names: &[(&str, T)],
    name: &str,
) -> Result<Option<T>, UnknownFormat> {
    if name == "none" {
        return Ok(None);
    }
    let found = names.iter().find(|(one, _)| *one == name).map(|(_, format)| *format);
    found.map(Some).ok_or_else(|| {
        let known: Vec<_> = ["auto", "none"].into_iter().chain(names.iter().map(|n| n.0)).collect();
        UnknownFormat { flag, name: name.to_owned(), known: known.join(", ") }
    })
}

impl ToolFormat {
    /// Texts that structure an answer. Where they are special tokens, the answer's text must show
    /// them, or they could not be found.
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &[hermes::OPEN, hermes::CLOSE],
            Self::Llama3Json => &[llama::TAG],
            Self::Mistral => &[mistral::MARK, mistral::ARGS, mistral::CALL_ID],
        }
    }

    /// The one token that each answer with calls has where they begin, if there is one.
    pub(crate) fn mark_token(self, tokenizer: &Tokenizer) -> Option<TokenId> {
        let mark = match self {
            Self::Hermes => hermes::OPEN,
            Self::Mistral => mistral::MARK,
            // Most calls come without the tag.
            Self::Llama3Json => return None,
        };
        single_token(tokenizer, mark)
    }

    /// What ids the model's template takes.
    pub fn call_ids(self) -> CallIdStyle {
        match self {
            Self::Hermes | Self::Llama3Json => CallIdStyle::Long,
            Self::Mistral => CallIdStyle::Short,
        }
    }
}

impl ReasoningFormat {
    /// Opens a block.
    pub fn open(self) -> &'static str {
        match self {
            Self::Think => "<think>",
            Self::Mistral => "[THINK]",
        }
    }

    /// Closes it.
    pub fn close(self) -> &'static str {
        match self {
            Self::Think => "</think>",
            Self::Mistral => "[/THINK]",
        }
    }

    /// Where a generation after `prompt` begins.
    pub fn start(self, prompt: &str) -> ReasoningStart {
        let is_open = prompt.trim_end().ends_with(self.open());
        if is_open { ReasoningStart::Inside } else { ReasoningStart::Outside }
    }
}

/// The token that is all of `text`.
pub(super) fn single_token(tokenizer: &Tokenizer, text: &str) -> Option<TokenId> {
    match tokenizer.encode(text, SpecialTokens::Omit).as_deref() {
        Ok([id]) => Some(*id),
        _ => None,
    }
}

/// Those of `marks` that are special tokens of `tokenizer`.
pub(crate) fn special_marks<'a>(
    tokenizer: &Tokenizer,
    marks: impl IntoIterator<Item = &'a str>,
) -> Vec<TokenId> {
    let ids = marks.into_iter().filter_map(|mark| tokenizer.id(mark));
    ids.filter(|&id| tokenizer.is_special(id)).collect()
}
