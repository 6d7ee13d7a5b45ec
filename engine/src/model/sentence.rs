//! What the sentence-transformers files beside an encoder's weights say: pooling, normalisation
//! and the longest text.

use serde_json::Value;

use super::fields::Fields;
use super::files::ModelFiles;
use crate::types::{Error, Result};

/// How hidden states become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over all tokens.
    Mean,
    /// The first token.
    Cls,
    /// The last token.
    Last,
}

/// What happens to a pooled vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// It is divided by its Euclidean length.
    L2,
    /// Nothing.
    None,
}

/// From hidden states to an embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolingConfig {
    /// Which tokens count.
    pub pooling: Pooling,
    /// What happens to the result.
    pub normalization: Normalization,
}

/// All that is read from the files.
#[derive(Debug)]
pub(crate) struct SentenceConfig {
    pub(crate) pooling: PoolingConfig,
    pub(crate) max_seq_length: Option<u32>,
    /// What an operator should know.
    pub(crate) notes: Vec<String>,
}

/// Reads `modules.json`, the files it names, and what limits the length.
pub(crate) fn read(files: &ModelFiles) -> Result<SentenceConfig> {
    const MODULES: &str = "modules.json";
    let max_seq_length = max_seq_length(files)?;
    let Some(bytes) = files.read(MODULES)? else {
        return Ok(SentenceConfig {
            pooling: PoolingConfig { pooling: Pooling::Mean, normalization: Normalization::L2 },
            max_seq_length,
            notes: vec![format!(
                "there is no {MODULES}: embeddings are means over all tokens, of length 1"
            )],
        });
    };
    let modules = serde_json::from_slice::<Value>(&bytes)
        .map_err(|error| files.error(MODULES, format!("not valid JSON: {error}")))?;
    let pooling = read_modules(files, MODULES, &modules)?;
    Ok(SentenceConfig { pooling, max_seq_length, notes: Vec::new() })
}

/// `max_seq_length` of sentence_bert_config.json, else `model_max_length` of tokenizer_config.json,
/// which is astronomical where a tokenizer has no limit.
pub(crate) fn max_seq_length(files: &ModelFiles) -> Result<Option<u32>> {
    if let Some(fields) = Fields::read(files, "sentence_bert_config.json")?
        && let Some(length) = fields.optional_size("max_seq_length")?
    {
        return Ok(Some(length));
    }
    let Some(fields) = Fields::read(files, "tokenizer_config.json")? else {
        return Ok(None);
    };
    let length = fields.optional_positive("model_max_length")?;
    let is_limit = |length: &f64| (1.0..f64::from(u32::MAX)).contains(length);
    Ok(length.filter(is_limit).map(|length| length as u32))
}

fn read_modules(files: &ModelFiles, file: &str, modules: &Value) -> Result<PoolingConfig> {
    let malformed = || files.error(file, "not a list of modules with type and path".into());
    let mut pooling = None;
    let mut normalization = Normalization::None;
    for module in modules.as_array().ok_or_else(malformed)? {
        let text = |field: &str| module.get(field).and_then(Value::as_str);
        let kind = text("type").ok_or_else(malformed)?;
        match kind.rsplit('.').next() {
            Some("Transformer") => {}
            Some("Normalize") => normalization = Normalization::L2,
            Some("Pooling") => {
                let path = text("path").ok_or_else(malformed)?;
                pooling = Some(read_pooling(files, path)?);
            }
            _ => {
                return Err(Error::UnsupportedModel {
                    field: format!("{file}: type"),
                    value: kind.to_owned(),
                    hint: "one of Transformer, Pooling, Normalize".into(),
                });
            }
        }
    }
    Ok(PoolingConfig {
        pooling: pooling.ok_or_else(|| files.error(file, "no module is a Pooling".into()))?,
        normalization,
    })
}

fn read_pooling(files: &ModelFiles, path: &str) -> Result<Pooling> {
    const HINT: &str = "one of mean, cls, lasttoken";
    let file = format!("{path}/config.json");
    let Some(fields) = Fields::read(files, &file)? else {
        return Err(files.error(&file, "there is no such file".into()));
    };
    if let Some(mode) = fields.optional_text("pooling_mode")? {
        return match mode.as_str() {
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::Cls),
            "lasttoken" | "last" => Ok(Pooling::Last),
            _ => Err(fields.unsupported("pooling_mode", HINT)),
        };
    }
    let mut chosen = None;
    let flags = fields.names().filter(|name| name.starts_with("pooling_mode_"));
    for flag in flags {
        if !fields.is_set(flag)? {
            continue;
        }
        let pooling = match flag {
            "pooling_mode_mean_tokens" => Pooling::Mean,
            "pooling_mode_cls_token" => Pooling::Cls,
            "pooling_mode_lasttoken" => Pooling::Last,
            _ => return Err(fields.unsupported(flag, HINT)),
        };
        if chosen.replace(pooling).is_some() {
            return Err(fields.unsupported(flag, "only one mode at a time"));
        }
    }
    chosen.ok_or_else(|| fields.error("no pooling mode is set".into()))
}
