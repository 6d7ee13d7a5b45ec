//! The fields that shape a generation, shared by chat and completions.

use std::time::Duration;

use folio_engine::types::{
    CacheSalt, Penalties, Sampling, SamplingParams, StopConditions, TenantId, TokenId,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::fields::{Fields, Range, number_in, token_id, token_ids_shape};
use super::json::type_name;
use super::output::{self, Output};
use super::structure::{self, Structure};
use crate::client::MAX_TIMEOUT;
use crate::error::ApiError;

/// Most choices of one request.
pub(super) const MAX_CHOICES: u32 = 128;
/// Most stop strings, as in OpenAI's API.
const MAX_STOP_STRINGS: usize = 4;
/// Most bytes of one stop string.
const MAX_STOP_BYTES: usize = 1024;
/// Most stop tokens.
const MAX_STOP_TOKENS: usize = 128;
/// Most entries of `logit_bias`.
const MAX_BIASES: usize = 1024;
/// Where a logit bias may lie.
const BIAS: Range = Range::Closed(-100.0, 100.0);
/// Largest repetition penalty.
const MAX_REPETITION: f64 = 1000.0;

/// What a request says about how to generate. Token ids are not yet held against a vocabulary.
#[derive(Clone, Debug)]
pub struct Generation {
    /// For the engine. `stop.max_tokens` and the seed are settled when the prompt is known.
    pub params: SamplingParams,
    /// `max_tokens`, when given.
    pub max_tokens: Option<u32>,
    /// Name of the field that gave it.
    pub max_tokens_field: &'static str,
    /// Whether the model's end-of-sequence tokens end a choice.
    pub end_of_sequence: EndOfSequence,
    /// Strings that end a choice.
    pub stop: Vec<String>,
    /// The seed, when given; any, 0 too.
    pub seed: Option<u64>,
    /// Number of choices, `n`.
    pub num_choices: u32,
    /// How the work is queued.
    pub queueing: Queueing,
    /// The shape that the text must have, if any.
    pub structure: Option<Structure>,
    /// What the answer shows beside its text.
    pub output: Output,
}

/// Whether the model's end-of-sequence tokens end a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfSequence {
    /// They do.
    Stops,
    /// They are tokens like any other (`ignore_eos`).
    Ignored,
}

/// What the scheduler is told beside the work itself.
#[derive(Clone, Copy, Debug)]
pub struct Queueing {
    /// Smaller is more urgent. Without one the client's key says.
    pub priority: Option<i32>,
    /// Whose request it is, from `user`.
    pub tenant: TenantId,
    /// Who may share its prefix blocks, from `cache_salt`.
    pub cache_salt: Option<CacheSalt>,
    /// How long the request may take, from `timeout`.
    pub timeout: Option<Duration>,
}

/// How the answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One JSON object.
    Whole,
    /// Server-sent events.
    Stream(UsageChunk),
}

/// Whether a stream ends with a chunk that holds the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageChunk {
    /// `stream_options.include_usage`.
    Sent,
    /// The default.
    Omitted,
}

/// Takes the fields of sampling, stopping and queueing out of `fields`.
pub(super) fn read(fields: &mut Fields) -> Result<Generation, ApiError> {
    read_with(fields, 1)
}

/// The same, where `max_tokens` is at least `min_tokens`.
pub(super) fn read_with(fields: &mut Fields, min_tokens: i64) -> Result<Generation, ApiError> {
    let output = output::read(fields)?;
    let params = SamplingParams {
        sampling: read_sampling(fields)?,
        penalties: read_penalties(fields)?,
        stop: StopConditions {
            max_tokens: 0,
            min_tokens: count(fields, "min_tokens", 0)?.unwrap_or(0),
            token_ids: read_stop_tokens(fields)?,
        },
        logprobs: None,
        prompt_logprobs: output.prompt_logprobs,
    };
    let end_of_sequence = match fields.boolean("ignore_eos")? {
        Some(true) => EndOfSequence::Ignored,
        _ => EndOfSequence::Stops,
    };
    let seed = fields.integer("seed", i64::MIN..=i64::MAX)?;
    let num_choices = fields.integer("n", 1..=i64::from(MAX_CHOICES))?;
    Ok(Generation {
        params,
        max_tokens: count(fields, "max_tokens", min_tokens)?,
        max_tokens_field: "max_tokens",
        end_of_sequence,
        stop: read_stop_strings(fields)?,
        seed: seed.map(|seed| seed as u64),
        num_choices: num_choices.map_or(1, |n| n as u32),
        queueing: read_queueing(fields)?,
        structure: structure::read(fields)?,
        output,
    })
}

/// Takes `stream` and `stream_options`.
pub(super) fn read_reply(fields: &mut Fields) -> Result<Reply, ApiError> {
    let streams = fields.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = fields.object("stream_options")? else {
        return Ok(if streams { Reply::Stream(UsageChunk::Omitted) } else { Reply::Whole });
    };
    if !streams {
        let message = "stream_options needs stream = true";
        return Err(ApiError::invalid_value("stream_options", message));
    }
    let usage = options.boolean("include_usage")?.unwrap_or(false);
    options.refuse_unsupported(&[
        ("include_obfuscation", &["false"]),
        ("continuous_usage_stats", &["false"]),
    ])?;
    options.finish()?;
    Ok(Reply::Stream(if usage { UsageChunk::Sent } else { UsageChunk::Omitted }))
}

/// Takes `priority`, `user` (or its successor `safety_identifier`), `cache_salt` and `timeout`.
pub(super) fn read_queueing(fields: &mut Fields) -> Result<Queueing, ApiError> {
    let priority = fields.integer("priority", i64::from(i32::MIN)..=i64::from(i32::MAX))?;
    let user = fields.string("user")?;
    let user = fields.string("safety_identifier")?.or(user);
    let cache_salt = fields.string("cache_salt")?;
    if cache_salt.as_deref() == Some("") {
        let message = "cache_salt is empty: leave it out to share the cache with everybody";
        return Err(ApiError::invalid_value(fields.path("cache_salt"), message));
    }
    let timeout = fields.number("timeout", Range::Above(0.0, MAX_TIMEOUT.as_secs_f64()))?;
    Ok(Queueing {
        priority: priority.map(|value| value as i32),
        tenant: TenantId(user.map_or(0, |user| digest(&user) as u32)),
        cache_salt: cache_salt.map(|salt| CacheSalt(digest(&salt))),
        timeout: timeout.map(Duration::from_secs_f32),
    })
}

/// Takes a number of tokens that is at least `min`.
pub(super) fn count(fields: &mut Fields, name: &str, min: i64) -> Result<Option<u32>, ApiError> {
    let value = fields.integer(name, min..=i64::from(u32::MAX))?;
    Ok(value.map(|value| value as u32))
}

fn read_sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let temperature = fields.number("temperature", Range::Closed(0.0, 2.0))?;
    let top_p = fields.number("top_p", Range::Above(0.0, 1.0))?;
    let min_p = fields.number("min_p", Range::Closed(0.0, 1.0))?;
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(Sampling {
        temperature: temperature.unwrap_or(default.temperature),
        top_k: top_k.map_or(default.top_k, |k| k.max(0) as u32),
        top_p: top_p.unwrap_or(default.top_p),
        min_p: min_p.unwrap_or(default.min_p),
        seed: default.seed,
    })
}

fn read_penalties(fields: &mut Fields) -> Result<Penalties, ApiError> {
    let symmetric = Range::Closed(-2.0, 2.0);
    let repetition = fields.number("repetition_penalty", Range::Above(0.0, MAX_REPETITION))?;
    Ok(Penalties {
        frequency: fields.number("frequency_penalty", symmetric)?.unwrap_or(0.0),
        presence: fields.number("presence_penalty", symmetric)?.unwrap_or(0.0),
        repetition: repetition.unwrap_or(1.0),
        logit_bias: read_logit_bias(fields)?,
    })
}

fn read_logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, ApiError> {
    let Some(biases) = fields.object("logit_bias")? else {
        return Ok(Vec::new());
    };
    let biases = biases.into_entries(|| BIAS.shape());
    limit("logit_bias", biases.len(), MAX_BIASES, "entries")?;
    biases
        .iter()
        .map(|(key, value)| {
            let path = format!("logit_bias.{key}");
            let id = key.parse::<TokenId>().ok();
            let Some(id) = id.filter(|id| id.to_string() == *key) else {
                let message = format!("{path}: the key must be a token id in decimal");
                return Err(ApiError::invalid_value(path, message));
            };
            Ok((id, number_in(&path, value, BIAS)?))
        })
        .collect()
}

fn read_stop_strings(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let stops = match fields.take_shaped("stop", stop_shape) {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => return Ok(vec![stop_string("stop", Value::String(stop))?]),
        Some(Value::Array(stops)) => stops,
        Some(other) => {
            let expected = "a string or an array of strings";
            return Err(ApiError::invalid_type("stop", expected, type_name(&other)));
        }
    };
    limit("stop", stops.len(), MAX_STOP_STRINGS, "strings")?;
    stops
        .into_iter()
        .enumerate()
        .map(|(index, stop)| stop_string(&format!("stop[{index}]"), stop))
        .collect()
}

fn stop_shape() -> Value {
    let one = json!({ "type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES });
    json!({ "anyOf": [one, { "type": "array", "items": one, "maxItems": MAX_STOP_STRINGS }] })
}

fn stop_tokens_shape() -> Value {
    let mut shape = token_ids_shape();
    shape["maxItems"] = json!(MAX_STOP_TOKENS);
    shape
}

fn stop_string(path: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(stop) if stop.is_empty() => {
            Err(ApiError::invalid_value(path, format!("{path} is empty")))
        }
        Value::String(stop) => {
            limit(path, stop.len(), MAX_STOP_BYTES, "bytes")?;
            Ok(stop)
        }
        other => Err(ApiError::invalid_type(path, "a string", type_name(&other))),
    }
}

fn read_stop_tokens(fields: &mut Fields) -> Result<Vec<TokenId>, ApiError> {
    let ids = match fields.take_shaped("stop_token_ids", stop_tokens_shape) {
        None => return Ok(Vec::new()),
        Some(Value::Array(ids)) => ids,
        Some(other) => {
            let (path, expected) = ("stop_token_ids", "an array of token ids");
            return Err(ApiError::invalid_type(path, expected, type_name(&other)));
        }
    };
    limit("stop_token_ids", ids.len(), MAX_STOP_TOKENS, "token ids")?;
    ids.iter()
        .enumerate()
        .map(|(index, id)| token_id(&format!("stop_token_ids[{index}]"), id))
        .collect()
}

/// Refuses more than `max` of something.
pub(super) fn limit(path: &str, len: usize, max: usize, what: &str) -> Result<(), ApiError> {
    if len > max {
        let message = format!("{path} has {len} {what}, at most {max} are allowed");
        return Err(ApiError::invalid_value(path, message));
    }
    Ok(())
}

/// The first 128 bits of the SHA-256 of `text`.
fn digest(text: &str) -> u128 {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(16).fold(0, |value, &byte| (value << 8) | u128::from(byte))
}
