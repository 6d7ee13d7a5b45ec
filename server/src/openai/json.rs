//! Reading a body as JSON, strictly: a key given twice is an error, and an error knows the path
//! of the field it stands in.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::ApiError;

/// Reads a whole body. The error's `param` is the field at which reading stopped, so that
/// `{"temperature": NaN}` names `temperature`.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Unique(value) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        // A path that ends before its last step is known is written with a question mark.
        let path = error.path().to_string();
        let path = path.trim_end_matches(['?', '.']);
        let param = (!path.is_empty()).then(|| path.to_owned());
        ApiError::malformed_json(param, &error.inner().to_string())
    })?;
    reader
        .end()
        .map_err(|error| ApiError::malformed_json(None, &error.to_string()))?;
    Ok(value)
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
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
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
        while let Some((key, Unique(value))) = entries.next_entry::<String, Unique>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key:?} is given twice")));
            }
            map.insert(key, value);
        }
        Ok(map.into())
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
            (
                r#"{"messages": [{}, {}, {"content": tru}]}"#,
                "messages[2].content",
            ),
        ];
        for (body, param) in cases {
            assert_eq!(error_of(body)["param"], param, "{body}");
        }
    }

    #[test]
    fn the_whole_body_must_be_one_value() {
        assert!(error_of("{} {}")["param"].is_null());
        assert!(error_of("")["param"].is_null());
        assert!(
            error_of("{\"a\": 1")["message"]
                .as_str()
                .unwrap()
                .contains("EOF")
        );
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let error = error_of(r#"{"n": 1, "n": 2}"#);
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("\"n\" is given twice")
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        assert!(
            error_of(&deep)["message"]
                .as_str()
                .unwrap()
                .contains("recursion")
        );
    }

    #[test]
    fn values_arrive_unchanged() {
        let body = r#"{"a":[1,-2,3.5,true,null,"é"],"b":{"c":18446744073709551615}}"#;
        let expected: Value = serde_json::from_str(body).unwrap();
        assert_eq!(parse(body.as_bytes()).unwrap(), expected);
    }
}
