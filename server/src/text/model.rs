//! The text side of one model: its tokenizer and its chat template, read from its files.

use std::sync::Arc;

use folio_engine::types::TokenId;

use super::chat_template::{ChatInput, ChatTemplate};
use super::config::{FILE as CONFIG_FILE, TokenizerConfig};
use super::error::{Error, Result};
use super::messages::{self, DeveloperRole};
use super::template_source::{TEMPLATE_FILE, TOOL_USE_FILE, TemplateSource};
use super::tokenizer::{FILE as TOKENIZER_FILE, SpecialTokens, Tokenizer};
use crate::tools::ChatFormats;

/// Reads a file of the model by its name; `None` if the model has no such file.
pub type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>> + 'a;

/// Tokenizer and chat template of one model. Shared by all requests.
#[derive(Debug)]
pub struct TextModel {
    label: String,
    config: TokenizerConfig,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    formats: ChatFormats,
}

impl TextModel {
    /// Reads tokenizer.json, and where they are there tokenizer_config.json and the chat
    /// template. `label` names the model in messages. A `template` of the operator's takes the
    /// place of the model's own, which is not even read then.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a missing tokenizer.json or a malformed file,
    /// [`Error::Template`] for a template that does not compile.
    pub fn load(label: &str, read: &ReadFile<'_>, template: Option<&str>) -> Result<Self> {
        let tokenizer_json = read(TOKENIZER_FILE)?.ok_or_else(|| {
            let hint = "the model has no such file; convert its tokenizer with transformers' \
                        AutoTokenizer.from_pretrained(…).save_pretrained(…)";
            Error::file(TOKENIZER_FILE, &hint)
        })?;
        let config = match read(CONFIG_FILE)? {
            Some(bytes) => TokenizerConfig::new(&bytes)?,
            None => TokenizerConfig::default(),
        };
        let source = match template {
            Some(text) => Some(TemplateSource::single(text)),
            None => own_template(read, &config)?,
        };
        let special_tokens = config.special_tokens();
        let template =
            source.map(|source| ChatTemplate::new(source, special_tokens)).transpose()?;
        let tokenizer = Arc::new(Tokenizer::new(&tokenizer_json, &config)?);
        let formats = template.as_ref().map(|template| ChatFormats::detect(template.source()));
        let formats = formats.unwrap_or_default();
        Ok(Self { label: label.to_owned(), config, tokenizer, template, formats })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template, if the model has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// How the model writes tool calls and reasoning: as its chat template shows, unless
    /// [`Self::with_formats`] said otherwise.
    pub fn formats(&self) -> ChatFormats {
        self.formats
    }

    /// Says how the model writes tool calls and reasoning.
    #[must_use]
    pub fn with_formats(mut self, formats: ChatFormats) -> Self {
        self.formats = formats;
        self
    }

    /// Whether the chat template uses the variable `name`.
    pub fn template_uses(&self, name: &str) -> bool {
        self.template.as_ref().is_some_and(|template| template.uses(name))
    }

    /// Id of the special token that the configuration calls `name`, such as `bos_token`.
    pub fn special_token_id(&self, name: &str) -> Option<TokenId> {
        self.tokenizer.id(self.config.special_token(name)?)
    }

    /// The text that the model is to answer, from messages as clients send them (`prepare` says
    /// what becomes of them). An empty list of tools is none.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`] for a model without one, else as [`ChatTemplate::render`].
    pub fn render_chat(&self, input: &ChatInput<'_>) -> Result<String> {
        let template = self
            .template
            .as_ref()
            .ok_or_else(|| Error::NoChatTemplate { model: self.label.clone() })?;
        let developer = if template.knows_role("developer") {
            DeveloperRole::Keep
        } else {
            DeveloperRole::AsSystem
        };
        let messages = messages::prepare(input.messages, developer)?;
        let tools = input.tools.filter(|tools| !tools.is_empty());
        template.render(&ChatInput { messages: &messages, tools, ..*input })
    }

    /// The prompt of a conversation: [`Self::render_chat`], encoded, unless it is so long that
    /// it cannot fit into `max_tokens`. Templates spell special tokens out, so none is added.
    ///
    /// # Errors
    /// As [`Self::render_chat`], [`Error::TooLong`] and [`Error::Tokenize`].
    pub fn encode_chat(&self, input: &ChatInput<'_>, max_tokens: u32) -> Result<Vec<TokenId>> {
        self.encode_rendered(&self.render_chat(input)?, max_tokens)
    }

    /// The tokens of a conversation that [`Self::render_chat`] rendered.
    ///
    /// # Errors
    /// [`Error::TooLong`] and [`Error::Tokenize`].
    pub fn encode_rendered(&self, text: &str, max_tokens: u32) -> Result<Vec<TokenId>> {
        self.tokenizer.check_length(text, max_tokens)?;
        self.tokenizer.encode(text, SpecialTokens::Omit)
    }
}

/// The template that the model's files have.
fn own_template(read: &ReadFile<'_>, config: &TokenizerConfig) -> Result<Option<TemplateSource>> {
    let Some(text) = read_text(read, TEMPLATE_FILE)? else {
        return config.chat_template.as_ref().map(TemplateSource::from_config).transpose();
    };
    let source = TemplateSource::single(text);
    Ok(Some(match read_text(read, TOOL_USE_FILE)? {
        Some(text) => source.with_tool_use(text),
        None => source,
    }))
}

fn read_text(read: &ReadFile<'_>, file: &str) -> Result<Option<String>> {
    let decode = |bytes| String::from_utf8(bytes).map_err(|error| Error::file(file, &error));
    read(file)?.map(decode).transpose()
}
