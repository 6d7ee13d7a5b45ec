//! tokenizer_config.json: the special tokens' names, tokens that tokenizer.json lacks, and the
//! chat template. Fields of other uses are left alone.

use folio_engine::types::TokenId;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::error::{Error, Result};

/// Name of the file, for messages.
pub(super) const FILE: &str = "tokenizer_config.json";

/// The names under which templates know special tokens, as Hugging Face's.
const SPECIAL_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What Folio takes from tokenizer_config.json.
#[derive(Clone, Debug, Default)]
pub struct TokenizerConfig {
    /// Name and text of each special token that has a name, such as `bos_token`.
    pub(super) special_tokens: Vec<(&'static str, String)>,
    /// Special tokens without a name of their own.
    pub(super) extra_special_tokens: Vec<String>,
    /// Tokens by id. Most are in tokenizer.json too.
    pub(super) added_tokens: Vec<(TokenId, AddedToken)>,
    /// Value of `chat_template`.
    pub(super) chat_template: Option<Value>,
}

impl TokenizerConfig {
    /// Reads the bytes of a tokenizer_config.json. A model without the file has the default.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let fields: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| Error::file(FILE, &error))?;
        let mut config = Self::default();
        for name in SPECIAL_NAMES {
            if let Some(content) = token_content(&fields, name)? {
                config.special_tokens.push((name, content));
            }
        }
        for name in ["additional_special_tokens", "extra_special_tokens"] {
            // A map here names the tokens of images and sounds, which have no use for text.
            for value in fields.get(name).and_then(Value::as_array).into_iter().flatten() {
                let content = content_of(value).ok_or_else(|| bad_token(name, value))?;
                config.extra_special_tokens.push(content.to_owned());
            }
        }
        config.added_tokens = added_tokens(&fields)?;
        config.chat_template = fields.get("chat_template").filter(|v| !v.is_null()).cloned();
        Ok(config)
    }

    /// Name and text of each special token that has a name: the variables of chat templates.
    pub fn special_tokens(&self) -> Vec<(String, String)> {
        self.special_tokens.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect()
    }

    /// Text of the special token called `name`, such as `eos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let is_it = |(known, _): &&(&'static str, String)| *known == name;
        self.special_tokens.iter().find(is_it).map(|(_, content)| content.as_str())
    }
}

fn token_content(fields: &Map<String, Value>, name: &str) -> Result<Option<String>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match content_of(value) {
            Some(content) => Ok(Some(content.to_owned())),
            None => Err(bad_token(name, value)),
        },
    }
}

/// A token is written as its text, or as an object that has the text in `content`.
fn content_of(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn bad_token(name: &str, value: &Value) -> Error {
    Error::file(FILE, &format!("{name}: expected a token, found {value}"))
}

fn added_tokens(fields: &Map<String, Value>) -> Result<Vec<(TokenId, AddedToken)>> {
    let Some(Value::Object(by_id)) = fields.get("added_tokens_decoder") else {
        return Ok(Vec::new());
    };
    let mut tokens = Vec::with_capacity(by_id.len());
    for (id, value) in by_id {
        let path = || format!("added_tokens_decoder.{id}");
        let number =
            id.parse().map_err(|_| Error::file(FILE, &format!("{}: not a token id", path())))?;
        let content = content_of(value).ok_or_else(|| bad_token(&path(), value))?;
        let flag = |name: &str| value.get(name).and_then(Value::as_bool);
        let special = flag("special").unwrap_or(false);
        let token = AddedToken::from(content, special)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special));
        tokens.push((number, token));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}
