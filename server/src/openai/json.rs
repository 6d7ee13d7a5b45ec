//! Reading a body as JSON, strictly: a key given twice is an error, and an error knows the path
//! of the field it stands in.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_path_to_error::{Path, Segment};

use crate::error::ApiError;

/// Most steps of a path that is worth telling whole.
const MAX_PARAM_STEPS: usize = 8;

/// Most commas, colons and opening brackets outside strings: each stands for a value, which takes
/// some 70 bytes once it is read. Room for the token ids of 2048 texts of 900 tokens.
pub(super) const MAX_MARKS: usize = 2_000_000;

/// Reads a whole body. The error's `param` is the field at which reading stopped, so that
/// `{"temperature": NaN}` names `temperature`.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    if has_too_many_values(body) {
        return Err(ApiError::too_many_values(MAX_MARKS));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Unique(value) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        ApiError::malformed_json(param(error.path()), &error.inner().to_string())
    })?;
    reader.end().map_err(|error| ApiError::malformed_json(None, &error.to_string()))?;
    Ok(value)
}

/// Whether JSON text would become far more memory than it has bytes.
pub(super) fn has_too_many_values(text: &[u8]) -> bool {
    // A byte of a value is a mark at most.
    if text.len() <= MAX_MARKS {
        return false;
    }
    let mut num_marks = 0;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b':' | b'[' | b'{' => num_marks += 1,
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    num_marks > MAX_MARKS
}

/// Goes on behind the quotation mark that ends a string.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// The path for an error: whole, or of a deep one the field of the body that it begins with.
fn param(path: &Path) -> Option<String> {
    if path.iter().count() > MAX_PARAM_STEPS {
        return match path.iter().next() {
            Some(Segment::Map { key }) => Some(key.clone()),
            _ => None,
        };
    }
    // A path that ends before its last step is known is written with a question mark.
    let path = path.to_string();
    let path = path.trim_end_matches(['?', '.']);
    (!path.is_empty()).then(|| path.to_owned())
}

/// What kind of JSON value this is, with its article, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A JSON value in which no object has a key twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                entries.next_value_seed(Twice(&key))?;
            }
            let Unique(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

/// Stands for the second value of a key: failing there, the error has the key in its path.
struct Twice<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Twice<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Err(D::Error::custom(format!("the key {:?} is given twice", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(body: &str) -> Value {
        parse(body.as_bytes()).unwrap_err().to_json()["error"].clone()
    }

    #[test]
    fn errors_name_the_field_they_stand_in() {
        let cases = [
            (r#"{"temperature": NaN}"#, "temperature"),
            (r#"{"temperature": 1e999}"#, "temperature"),
            (r#"{"temperature": -Infinity}"#, "temperature"),
            (r#"{"messages": [{}, {}, {"content": tru}]}"#, "messages[2].content"),
        ];
        for (body, param) in cases {
            assert_eq!(error_of(body)["param"], param, "{body}");
        }
    }

    #[test]
    fn the_whole_body_must_be_one_value() {
        assert!(error_of("{} {}")["param"].is_null());
        assert!(error_of("")["param"].is_null());
        assert!(error_of("{\"a\": 1")["message"].as_str().unwrap().contains("EOF"));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = error_of(r#"{"n": 1, "n": 2}"#);
        assert!(error["message"].as_str().unwrap().contains("\"n\" is given twice"));
        assert_eq!(error["param"], "n");
        let error = error_of(r#"{"a": [{"b": 1, "c": 2, "b": 3}]}"#);
        assert_eq!(error["param"], "a[0].b");
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        let error = error_of(&deep);
        assert!(error["message"].as_str().unwrap().contains("recursion"));
        assert!(error["param"].is_null(), "{error}");
        let error = error_of(&format!("{{\"messages\": {deep}"));
        assert_eq!(error["param"], "messages");
    }

    #[test]
    fn the_number_of_values_is_bounded_and_texts_are_not_counted() {
        assert!(size_of::<Value>() <= 72, "{} bytes a value", size_of::<Value>());
        let zeros = |num: usize| format!("[0{}]", ",0".repeat(num - 1));
        assert!(parse(zeros(MAX_MARKS - 1).as_bytes()).is_ok());
        let error = parse(zeros(MAX_MARKS + 1).as_bytes()).unwrap_err();
        assert_eq!(error.to_json()["error"]["code"], "too_many_values");
        let text = format!("[{:?}]", ",:[{\"\\".repeat(MAX_MARKS / 2));
        assert!(!has_too_many_values(text.as_bytes()));
        assert!(parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn values_arrive_unchanged() {
        let body = r#"{"a":[1,-2,3.5,true,null,"é"],"b":{"c":18446744073709551615}}"#;
        let expected: Value = serde_json::from_str(body).unwrap();
        assert_eq!(parse(body.as_bytes()).unwrap(), expected);
    }
}
