//! The four shapes that texts arrive in: a string, an array of strings, an array of token ids
//! (one text), an array of arrays of token ids. Never mixed, never empty.

use folio_engine::types::TokenId;
use serde_json::{Value, json};

use super::fields::{token_id, token_ids_shape};
use super::json::type_name;
use crate::error::ApiError;

/// One text, and the path of the field it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Such as `input` or `input[3]`.
    pub path: String,
    /// What it says.
    pub content: Content,
}

/// A text or the tokens of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// To be tokenised.
    Text(String),
    /// Taken as they are.
    Tokens(Vec<TokenId>),
}

/// The JSON Schema of at most `max_items` texts.
pub(super) fn shape(max_items: usize) -> Value {
    let text = json!({ "type": "string", "minLength": 1 });
    let mut tokens = token_ids_shape();
    tokens["minItems"] = json!(1);
    let many = |item: &Value| {
        let (least, most) = (1, max_items);
        json!({ "type": "array", "items": item, "minItems": least, "maxItems": most })
    };
    json!({ "anyOf": [text, many(&text), tokens, many(&tokens)] })
}

/// Reads the field `name`, which holds at most `max_items` texts.
pub(super) fn read(name: &str, value: Value, max_items: usize) -> Result<Vec<Input>, ApiError> {
    let items = match value {
        Value::String(_) => return Ok(vec![text(name.to_owned(), value)?]),
        Value::Array(items) => items,
        other => {
            let expected = "a string, an array of strings or token ids";
            return Err(ApiError::invalid_type(name, expected, type_name(&other)));
        }
    };
    let read_item = match items.first() {
        None => return Err(empty(name)),
        Some(Value::Number(_)) => return Ok(vec![tokens(name.to_owned(), items.into())?]),
        Some(Value::String(_)) => text,
        Some(_) => tokens,
    };
    if items.len() > max_items {
        let message = format!("{name} has {} items, at most {max_items} are allowed", items.len());
        return Err(ApiError::invalid_value(name, message));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read_item(format!("{name}[{index}]"), item))
        .collect()
}

fn text(path: String, value: Value) -> Result<Input, ApiError> {
    match value {
        Value::String(text) if text.is_empty() => Err(empty(&path)),
        Value::String(text) => Ok(Input { path, content: Content::Text(text) }),
        other => {
            let expected = "a string like the items before it";
            Err(ApiError::invalid_type(path, expected, type_name(&other)))
        }
    }
}

fn tokens(path: String, value: Value) -> Result<Input, ApiError> {
    let Value::Array(items) = value else {
        let expected = "a string or an array of token ids, like the items beside it";
        return Err(ApiError::invalid_type(path, expected, type_name(&value)));
    };
    if items.is_empty() {
        return Err(empty(&path));
    }
    let ids = items
        .iter()
        .enumerate()
        .map(|(index, id)| token_id(&format!("{path}[{index}]"), id))
        .collect::<Result<_, _>>()?;
    Ok(Input { path, content: Content::Tokens(ids) })
}

fn empty(path: &str) -> ApiError {
    ApiError::invalid_value(path, format!("{path} is empty"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error_param(value: Value) -> Value {
        read("input", value, 4).unwrap_err().to_json()["error"]["param"].clone()
    }

    #[test]
    fn all_four_shapes_are_read() {
        let contents = |value| {
            let inputs = read("input", value, 4).unwrap();
            inputs.into_iter().map(|input| input.content).collect::<Vec<_>>()
        };
        let text = |text: &str| Content::Text(text.into());
        assert_eq!(contents(json!("a")), [text("a")]);
        assert_eq!(contents(json!(["a", "b"])), [text("a"), text("b")]);
        assert_eq!(contents(json!([1, 2, 3, 4, 5])), [Content::Tokens(vec![1, 2, 3, 4, 5])]);
        let nested = [Content::Tokens(vec![1]), Content::Tokens(vec![2, 3])];
        assert_eq!(contents(json!([[1], [2, 3]])), nested);
    }

    #[test]
    fn mixed_and_empty_inputs_are_refused_by_index() {
        assert_eq!(error_param(json!(["a", 1])), "input[1]");
        assert_eq!(error_param(json!([1, "a"])), "input[1]");
        assert_eq!(error_param(json!([[1], "a"])), "input[1]");
        assert_eq!(error_param(json!(["a", [1]])), "input[1]");
        assert_eq!(error_param(json!(["a", ""])), "input[1]");
        assert_eq!(error_param(json!([[1], []])), "input[1]");
        assert_eq!(error_param(json!([[1], [2, -1]])), "input[1][1]");
        assert_eq!(error_param(json!([1, 2.5])), "input[1]");
        assert_eq!(error_param(json!([null])), "input[0]");
        assert_eq!(error_param(json!([])), "input");
        assert_eq!(error_param(json!("")), "input");
        assert_eq!(error_param(json!({})), "input");
        assert_eq!(error_param(json!(["a", "b", "c", "d", "e"])), "input");
    }
}
