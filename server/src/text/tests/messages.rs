//! What becomes of a client's messages before a template sees them.

use serde_json::{Value, json};

use super::super::{DeveloperRole, Error, prepare};

fn one(message: Value) -> Result<Value, Error> {
    Ok(prepare(&[message], DeveloperRole::AsSystem)?.remove(0))
}

fn refusal(message: Value) -> String {
    one(message).unwrap_err().to_string()
}

#[test]
fn parts_of_text_become_one_text() {
    let parts = json!([{"type": "text", "text": "Hello,"}, {"type": "text", "text": "you."}]);
    let message = one(json!({"role": "user", "content": parts, "name": "Ann"})).unwrap();
    assert_eq!(message, json!({"role": "user", "content": "Hello,\nyou.", "name": "Ann"}));
    let parts = json!([{"type": "refusal", "refusal": "No."}]);
    let message = one(json!({"role": "assistant", "content": parts})).unwrap();
    assert_eq!(message["content"], "No.");
}

#[test]
fn arguments_of_calls_become_objects_in_their_order() {
    let call = |arguments: Value| {
        json!({"role": "assistant", "content": null, "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]})
    };
    let message = one(call(json!("{\"b\": 1, \"a\": [2]}"))).unwrap();
    let arguments = message["tool_calls"][0]["function"]["arguments"].to_string();
    assert_eq!(arguments, "{\"b\":1,\"a\":[2]}");
    assert_eq!(one(call(json!(""))).unwrap()["tool_calls"][0]["function"]["arguments"], json!({}));
    assert_eq!(one(call(json!({"a": 1}))).unwrap(), call(json!({"a": 1})));
    for bad in ["{\"a\":", "[1]", "nonsense"] {
        assert_eq!(
            refusal(call(json!(bad))),
            "messages[0].tool_calls[0].function.arguments: must be a JSON object, written as a \
             string"
        );
    }
}

#[test]
fn an_empty_list_of_calls_goes() {
    let message = one(json!({"role": "assistant", "content": "x", "tool_calls": []})).unwrap();
    assert_eq!(message, json!({"role": "assistant", "content": "x"}));
}

#[test]
fn developer_is_system_for_templates_that_know_no_better() {
    let messages = [json!({"role": "developer", "content": "x"})];
    let role = |developer| prepare(&messages, developer).unwrap()[0]["role"].clone();
    assert_eq!(role(DeveloperRole::AsSystem), "system");
    assert_eq!(role(DeveloperRole::Keep), "developer");
}

#[test]
fn what_is_no_message_is_refused_by_its_path() {
    assert_eq!(refusal(json!("hi")), "messages[0]: must be an object with a role");
    assert_eq!(refusal(json!({"content": "x"})), "messages[0].role: must be a string");
    let picture = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]);
    assert_eq!(
        refusal(json!({"role": "user", "content": picture})),
        "messages[0].content[1].type: \"image_url\" is not supported, only text is"
    );
    let no_text = json!([{"type": "text"}]);
    assert_eq!(
        refusal(json!({"role": "user", "content": no_text})),
        "messages[0].content[0].text: must be a string"
    );
}
