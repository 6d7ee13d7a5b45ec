//! Reading the JSON files of a model, with errors that name the file, the field and its value.
//!
//! A field that is absent and one that is `null` are the same thing, as they are to the programs
//! that write these files.

use serde_json::Value;

use super::files::ModelFiles;
use crate::types::{Error, Result, TokenId};

/// One JSON object of a model's files.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    /// What messages call the file.
    file: String,
    /// Path of the object inside the file, with a final dot, or empty.
    prefix: String,
    object: Value,
}

impl Fields {
    /// The file `name` as a JSON object, or `None` when there is none.
    pub(crate) fn read(files: &ModelFiles, name: &str) -> Result<Option<Self>> {
        let Some(bytes) = files.read(name)? else {
            return Ok(None);
        };
        let object = serde_json::from_slice::<Value>(&bytes)
            .map_err(|error| files.error(name, format!("not valid JSON: {error}")))?;
        if !object.is_object() {
            return Err(files.error(name, "not a JSON object".into()));
        }
        Ok(Some(Self { file: files.label_of(name), prefix: String::new(), object }))
    }

    /// The field's value, `None` when absent or null.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    /// The object in a field, `None` when absent or null.
    pub(crate) fn object(&self, field: &str) -> Result<Option<Self>> {
        match self.get(field) {
            None => Ok(None),
            Some(value) if value.is_object() => Ok(Some(Self {
                file: self.file.clone(),
                prefix: format!("{}{field}.", self.prefix),
                object: value.clone(),
            })),
            Some(value) => Err(self.wrong(field, value, "an object")),
        }
    }

    /// A whole number of at least one.
    pub(crate) fn size(&self, field: &str) -> Result<u32> {
        self.optional_size(field)?.ok_or_else(|| self.missing(field))
    }

    /// A whole number of at least one, `None` when absent.
    pub(crate) fn optional_size(&self, field: &str) -> Result<Option<u32>> {
        let in_range = |number: u64| u32::try_from(number).ok().filter(|&size| size > 0);
        self.optional(field, "a whole number from 1 to 4294967295", |value| {
            value.as_u64().and_then(in_range)
        })
    }

    /// A whole number of at least zero, `None` when absent.
    pub(crate) fn optional_count(&self, field: &str) -> Result<Option<u32>> {
        self.optional(field, "a whole number from 0 to 4294967295", |value| {
            value.as_u64().and_then(|number| u32::try_from(number).ok())
        })
    }

    /// A finite number above zero.
    pub(crate) fn optional_positive(&self, field: &str) -> Result<Option<f64>> {
        self.optional(field, "a number above 0", |value| {
            value.as_f64().filter(|number| number.is_finite() && *number > 0.0)
        })
    }

    /// A finite number.
    pub(crate) fn optional_number(&self, field: &str) -> Result<Option<f64>> {
        self.optional(field, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    /// A truth value, `false` when absent.
    pub(crate) fn is_set(&self, field: &str) -> Result<bool> {
        let value = self.optional(field, "true or false", Value::as_bool)?;
        Ok(value.unwrap_or(false))
    }

    /// A truth value, `None` when absent.
    pub(crate) fn optional_bool(&self, field: &str) -> Result<Option<bool>> {
        self.optional(field, "true or false", Value::as_bool)
    }

    /// A text, `None` when absent.
    pub(crate) fn optional_text(&self, field: &str) -> Result<Option<String>> {
        self.optional(field, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts, `None` when absent.
    pub(crate) fn optional_texts(&self, field: &str) -> Result<Option<Vec<String>>> {
        self.optional(field, "a list of texts", |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.as_str().map(str::to_owned)).collect()
        })
    }

    /// One token id or a list of them, `None` when absent.
    pub(crate) fn optional_token_ids(&self, field: &str) -> Result<Option<Vec<TokenId>>> {
        let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
        self.optional(field, "a token id or a list of them", |value| match value {
            Value::Array(items) => items.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })
    }

    /// Names of all fields.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.object.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str))
    }

    /// The error for a field that asks for something that is not implemented.
    pub(crate) fn unsupported(&self, field: &str, hint: &str) -> Error {
        let value = self.get(field).map_or("absent".into(), shown);
        Error::UnsupportedModel {
            field: format!("{}{field}", self.prefix),
            value,
            hint: hint.to_owned(),
        }
    }

    /// The error for a field that must be there.
    pub(crate) fn missing(&self, field: &str) -> Error {
        self.error(format!("{}{field} is missing", self.prefix))
    }

    /// An error about the file.
    pub(crate) fn error(&self, message: String) -> Error {
        Error::ModelFile { file: self.file.clone(), message }
    }

    fn optional<T>(
        &self,
        field: &str,
        expected: &str,
        parse: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match parse(value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(self.wrong(field, value, expected)),
        }
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        let shown = shown(value);
        self.error(format!("{}{field} = {shown} is not {expected}", self.prefix))
    }
}

/// A value for a message: compact, and cut where it would fill the screen.
fn shown(value: &Value) -> String {
    const MAX_CHARS: usize = 80;
    let text = value.to_string();
    if text.chars().count() <= MAX_CHARS {
        return text;
    }
    let start = text.chars().take(MAX_CHARS).collect::<String>();
    format!("{start}…")
}

#[cfg(test)]
impl Fields {
    /// Fields of a JSON text, for tests.
    pub(crate) fn of(text: &str) -> Self {
        Self {
            file: "config.json".into(),
            prefix: String::new(),
            object: serde_json::from_str(text).expect("valid JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_field_its_value_and_what_is_expected() {
        let fields = Fields::of(r#"{"a": -1, "rope": {"factor": "x"}, "list": [1, 2], "n": null}"#);
        let error = fields.size("a").unwrap_err().to_string();
        assert_eq!(error, "config.json: a = -1 is not a whole number from 1 to 4294967295");
        let rope = fields.object("rope").unwrap().unwrap();
        let error = rope.optional_positive("factor").unwrap_err().to_string();
        assert_eq!(error, "config.json: rope.factor = \"x\" is not a number above 0");
        let error = fields.size("n").unwrap_err().to_string();
        assert_eq!(error, "config.json: n is missing");
        assert_eq!(fields.optional_token_ids("list").unwrap(), Some(vec![1, 2]));
        assert!(fields.optional_texts("list").is_err());
    }
}
