//! Takes an object of a request apart, field by field, and refuses what is left.
//!
//! Every error names the field by its path. `null` counts as absent everywhere. In a traced body
//! each field that is asked for is noted with its shape: that makes the schema of `/openapi.json`,
//! so a reader describes itself by reading. `take_shaped` says the shape where no method knows it.

use std::ops::RangeInclusive;

use folio_engine::types::TokenId;
use serde_json::{Map, Value, json};

use super::json::type_name;
use super::trace::{RequestBody, Trace};
use crate::error::ApiError;

/// The fields of one JSON object that were not taken yet.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    map: Map<String, Value>,
    trace: Option<Trace>,
}

/// Where a number may lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range {
    /// Both ends allowed.
    Closed(f64, f64),
    /// Above the first, at most the second.
    Above(f64, f64),
}

impl Fields {
    /// The fields of `value`, which must be an object. `path` is empty for the body itself.
    pub(super) fn new(
        path: impl Into<String>,
        body: impl Into<RequestBody>,
    ) -> Result<Self, ApiError> {
        let path = path.into();
        let RequestBody { value, trace } = body.into();
        if let Some(trace) = &trace {
            trace.enter(&path);
        }
        match value {
            Value::Object(map) => Ok(Self { path, map, trace }),
            other if path.is_empty() => Err(ApiError::malformed_json(
                None,
                &format!("it must be an object, not {}", type_name(&other)),
            )),
            other => Err(ApiError::invalid_type(path, "an object", type_name(&other))),
        }
    }

    /// Path of the field `name` in the body.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The object `value` that stands at `path` below this one, such as an item of an array.
    pub(super) fn child(&self, path: impl Into<String>, value: Value) -> Result<Self, ApiError> {
        Self::new(path, RequestBody { value, trace: self.trace.clone() })
    }

    /// Takes a field that the caller reads by itself; `None` when it is absent or null. `shape` is
    /// its JSON Schema, with [`ITEMS`](super::trace::ITEMS) for objects that
    /// [`child`](Self::child) reads.
    pub(super) fn take_shaped(&mut self, name: &str, shape: impl Fn() -> Value) -> Option<Value> {
        if let Some(trace) = &self.trace {
            trace.note(&self.path, name, shape());
        }
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that must be there, as [`take_shaped`](Self::take_shaped) does.
    pub(super) fn require_shaped(
        &mut self,
        name: &str,
        shape: impl Fn() -> Value,
    ) -> Result<Value, ApiError> {
        self.take_shaped(name, shape).ok_or_else(|| ApiError::missing(self.path(name)))
    }

    /// Takes a string.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        self.string_shaped(name, || json!({ "type": "string" }))
    }

    /// Takes a string of which more is known: `shape` is its JSON Schema.
    pub(super) fn string_shaped(
        &mut self,
        name: &str,
        shape: impl Fn() -> Value,
    ) -> Result<Option<String>, ApiError> {
        match self.take_shaped(name, shape) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, "a string", &other)),
        }
    }

    /// Takes one of a few words; what it stands for comes back.
    pub(super) fn word<T: Clone>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, ApiError> {
        let all = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        let shape = || json!({ "type": "string", "enum": all() });
        let Some(given) = self.string_shaped(name, shape)? else {
            return Ok(None);
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == given) {
            return Ok(Some(meaning.clone()));
        }
        let path = self.path(name);
        let message = format!("{path} = {given:?} must be {}", all().join(" or "));
        Err(ApiError::invalid_value(path, message))
    }

    /// Takes a boolean.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take_shaped(name, || json!({ "type": "boolean" })) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong_type(name, "a boolean", &other)),
        }
    }

    /// Takes a number within `range`.
    pub(super) fn number(&mut self, name: &str, range: Range) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.take_shaped(name, || range.shape()) else {
            return Ok(None);
        };
        number_in(&self.path(name), &value, range).map(Some)
    }

    /// Takes an integer within `range`.
    pub(super) fn integer(
        &mut self,
        name: &str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take_shaped(name, || integer_shape(&range)) else {
            return Ok(None);
        };
        integer_in(&self.path(name), &value, range).map(Some)
    }

    /// Takes an object and its fields.
    pub(super) fn object(&mut self, name: &str) -> Result<Option<Self>, ApiError> {
        let path = self.path(name);
        let value = self.take_shaped(name, || json!({ "type": "object" }));
        value.map(|value| self.child(path, value)).transpose()
    }

    /// The fields that are left, whatever they are.
    pub(super) fn into_rest(self) -> Map<String, Value> {
        self.into_entries(|| json!({}))
    }

    /// The fields that are left, whatever their names; each is to look like `shape`.
    pub(super) fn into_entries(self, shape: impl Fn() -> Value) -> Map<String, Value> {
        if let Some(trace) = &self.trace {
            trace.note_entries(&self.path, shape());
        }
        self.map
    }

    /// Refuses each field of `table` unless it holds one of the values beside it (as JSON text),
    /// which are those that ask for nothing.
    pub(super) fn refuse_unsupported(&mut self, table: &[(&str, &[&str])]) -> Result<(), ApiError> {
        for (name, harmless) in table {
            let Some(value) = self.take_shaped(name, || refused_shape(harmless)) else {
                continue;
            };
            let accepted = harmless
                .iter()
                .any(|text| serde_json::from_str::<Value>(text).is_ok_and(|one| one == value));
            if !accepted {
                let path = self.path(name);
                let hint = if harmless.is_empty() {
                    "leave it out".to_owned()
                } else {
                    format!("leave it out or send {}", harmless.join(" or "))
                };
                let message = format!("{path} is not supported by this server: {hint}");
                return Err(ApiError::unsupported(path, message));
            }
        }
        Ok(())
    }

    /// Ends the taking apart: a field that is left and not null is unknown.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.map.iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => Err(ApiError::unknown_field(self.path(name))),
            None => Ok(()),
        }
    }

    fn wrong_type(&self, name: &str, expected: &str, found: &Value) -> ApiError {
        ApiError::invalid_type(self.path(name), expected, type_name(found))
    }
}

impl Range {
    /// The JSON Schema of a number within it.
    pub(super) fn shape(self) -> Value {
        match self {
            Self::Closed(min, max) => json!({ "type": "number", "minimum": min, "maximum": max }),
            Self::Above(min, max) => {
                json!({ "type": "number", "exclusiveMinimum": min, "maximum": max })
            }
        }
    }
}

/// The JSON Schema of an integer within `range`.
pub(super) fn integer_shape(range: &RangeInclusive<i64>) -> Value {
    json!({ "type": "integer", "minimum": range.start(), "maximum": range.end() })
}

/// The JSON Schema of an array of token ids.
pub(super) fn token_ids_shape() -> Value {
    let id = integer_shape(&(0..=i64::from(u32::MAX)));
    json!({ "type": "array", "items": id })
}

/// The JSON Schema of a field of which only the values that ask for nothing are accepted.
fn refused_shape(harmless: &[&str]) -> Value {
    let values = harmless.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let values: Vec<_> = values.chain([Value::Null]).collect();
    let description = "Not supported: only the values that ask for nothing are accepted.";
    json!({ "enum": values, "description": description, "x-unsupported": true })
}

/// `value` as a number within `range`, in f32. A bound that is excluded stays excluded after
/// rounding.
pub(super) fn number_in(path: &str, value: &Value, range: Range) -> Result<f32, ApiError> {
    let Some(number) = value.as_f64() else {
        return Err(ApiError::invalid_type(path, "a number", type_name(value)));
    };
    let out_of = |low: &str, max: f64| {
        ApiError::invalid_value(path, format!("{path} = {number} must be {low} and at most {max}"))
    };
    match range {
        Range::Closed(min, max) if !(min..=max).contains(&number) => {
            Err(out_of(&format!("at least {min}"), max))
        }
        Range::Above(min, max) if number <= min || number > max => {
            Err(out_of(&format!("above {min}"), max))
        }
        Range::Above(min, _) if number as f32 <= min as f32 => Ok((min as f32).next_up()),
        _ => Ok(number as f32),
    }
}

/// `value` as an integer within `range`.
pub(super) fn integer_in(
    path: &str,
    value: &Value,
    range: RangeInclusive<i64>,
) -> Result<i64, ApiError> {
    // A whole number too long for 64 bits arrives as a float.
    let is_too_long = value.as_f64().is_some_and(|number| number.abs() >= 2f64.powi(63));
    if value.is_f64() && is_too_long {
        let (min, max) = range.into_inner();
        let message = format!("{path} = {value} must be from {min} to {max}");
        return Err(ApiError::invalid_value(path, message));
    }
    if !value.is_i64() && !value.is_u64() {
        return Err(ApiError::invalid_type(path, "an integer", type_name(value)));
    }
    match value.as_i64() {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let (min, max) = range.into_inner();
            let is_below = value.as_i64().is_some_and(|number| number < min);
            let message = if is_below && max == i64::from(u32::MAX) {
                format!("{path} = {value} must be at least {min}")
            } else {
                format!("{path} = {value} must be from {min} to {max}")
            };
            Err(ApiError::invalid_value(path, message))
        }
    }
}

/// `value` as a token id. The bound of the vocabulary is checked when the model is known.
pub(super) fn token_id(path: &str, value: &Value) -> Result<TokenId, ApiError> {
    integer_in(path, value, 0..=i64::from(u32::MAX)).map(|id| id as TokenId)
}
