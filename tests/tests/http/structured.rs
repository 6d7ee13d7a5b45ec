//! Structured output as clients ask for it: every field that does, what contradicts itself, what
//! costs too much, and what comes back.

use serde_json::{Value, json};

use crate::errors::{CHAT, COMPLETIONS, check};
use crate::support::Server;

/// A chat in which the model wants to say `text`.
fn chat(text: &str, fields: &Value) -> Value {
    with(json!({ "model": "echo", "messages": text, "max_tokens": 200 }), fields)
}

fn completion(text: &str, fields: &Value) -> Value {
    with(json!({ "model": "echo", "prompt": text, "max_tokens": 200 }), fields)
}

fn with(mut body: Value, fields: &Value) -> Value {
    let body_fields = body.as_object_mut().unwrap();
    body_fields.extend(fields.as_object().unwrap().clone());
    body
}

fn content(reply: &Value) -> (&str, &str) {
    let choice = &reply["choices"][0];
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
    (text.unwrap(), choice["finish_reason"].as_str().unwrap())
}

fn format(schema: &Value) -> Value {
    let json_schema = json!({ "name": "answer", "strict": true, "schema": schema });
    json!({ "response_format": { "type": "json_schema", "json_schema": json_schema } })
}

fn person() -> Value {
    json!({ "type": "object", "required": ["name", "age"], "additionalProperties": false,
            "properties": { "name": { "type": "string", "maxLength": 20 },
                            "age": { "type": "integer", "minimum": 0, "maximum": 150 } } })
}

/// Every field that asks for a shape, with what the model would say and must say.
fn asks() -> Vec<(Value, &'static str, &'static str)> {
    let sure = r#"{"name": "Zoë","age": 7}"#;
    let lark = "start: \"x=\" NUMBER\nNUMBER: /[0-9]{2}/";
    vec![
        (format(&person()), sure, sure),
        (
            json!({ "response_format": { "type": "json_object" } }),
            r#"{"a": [1, {}]}"#,
            r#"{"a": [1, {}]}"#,
        ),
        (json!({ "structured_outputs": { "json": person() } }), sure, sure),
        (json!({ "structured_outputs": { "json": person().to_string() } }), sure, sure),
        (json!({ "structured_outputs": { "json_object": true } }), "{}", "{}"),
        (json!({ "structured_outputs": { "regex": "[ab]+c" } }), "abbcd", "abbc"),
        (json!({ "structured_outputs": { "choice": ["grün", "rot"] } }), "grün?", "grün"),
        (json!({ "structured_outputs": { "grammar": lark } }), "x=45", "x=45"),
        (json!({ "guided_json": person() }), sure, sure),
        (json!({ "guided_json_object": true }), "{}", "{}"),
        (json!({ "guided_regex": "yes|no" }), "no", "no"),
        (json!({ "guided_choice": ["a", "b"], "guided_decoding_backend": "guidance" }), "b", "b"),
        (json!({ "guided_grammar": lark }), "x=07 and more", "x=07"),
        (json!({ "response_format": { "type": "text" } }), "as it is", "as it is"),
        (json!({ "response_format": null, "guided_json": null }), "as it is", "as it is"),
    ]
}

#[tokio::test]
async fn every_field_that_asks_for_a_shape_gets_it() {
    let server = Server::start();
    for (fields, said, expected) in asks() {
        let reply = server.post(CHAT, &chat(said, &fields)).await.ok();
        assert_eq!(content(&reply), (expected, "stop"), "chat: {fields}");
        let reply = server.post(COMPLETIONS, &completion(said, &fields)).await.ok();
        assert_eq!(content(&reply), (expected, "stop"), "completion: {fields}");
        let streamed = with(chat(said, &fields), &json!({ "stream": true }));
        let chunks = server.post(CHAT, &streamed).await.chunks();
        let texts =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str());
        assert_eq!(texts.collect::<String>(), expected, "stream: {fields}");
    }
    server.wait_for_idle().await;
}

#[tokio::test]
async fn white_space_is_bounded_or_as_asked_for() {
    let server = Server::start();
    let ask = |fields: Value| chat("{ \"a\" :  1 ,\n \"b\" : 2 }", &fields);
    let schema = json!({ "type": "object", "additionalProperties": false,
                         "properties": { "a": { "const": 1 }, "b": { "const": 2 } },
                         "required": ["a", "b"] });
    for (fields, expected) in [
        (json!({ "structured_outputs": { "json": schema } }), r#"{"a":1,"b":2}"#),
        (
            json!({ "structured_outputs": { "json": schema, "disable_any_whitespace": true } }),
            r#"{"a":1,"b":2}"#,
        ),
        (
            json!({ "structured_outputs": { "json": schema, "whitespace_pattern": " " } }),
            r#"{ "a":1,"b":2}"#,
        ),
        (json!({ "guided_json": schema, "guided_whitespace_pattern": "[ ]" }), r#"{ "a":1,"b":2}"#),
    ] {
        let reply = server.post(CHAT, &ask(fields.clone())).await.ok();
        let (text, _) = content(&reply);
        assert_eq!(text.replace(' ', ""), expected.replace(' ', ""), "{fields}");
        let may_begin_with_space = fields.to_string().contains("whitespace_pattern");
        assert_eq!(text.starts_with("{ "), may_begin_with_space, "{fields}: {text}");
    }
}

#[tokio::test]
async fn each_choice_and_each_prompt_has_a_state_of_its_own() {
    let server = Server::start();
    let fields = json!({ "guided_regex": "[ -~]{40}", "n": 3, "seed": 5,
                         "prompt": ["bytes:40", "abc"] });
    let reply = server.post(COMPLETIONS, &completion("", &fields)).await.ok();
    let texts: Vec<_> =
        reply["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 6);
    for text in &texts {
        assert!(text.len() == 40 && text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{texts:?}");
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    assert!(texts[3..].iter().all(|text| text.starts_with("abc")), "{texts:?}");
}

#[tokio::test]
async fn a_text_that_is_cut_off_is_the_beginning_of_a_whole_one() {
    let server = Server::start();
    let whole = r#"{"name": "日本🎉 ü","age": 41}"#;
    for max_tokens in 1..whole.len() {
        let fields = with(format(&person()), &json!({ "max_tokens": max_tokens }));
        let reply = server.post(CHAT, &chat(whole, &fields)).await.ok();
        let (text, reason) = content(&reply);
        assert_eq!(reason, "length");
        assert!(whole.starts_with(text) && text.len() + 4 > max_tokens, "{max_tokens}: {text}");
    }
    let fields = with(format(&person()), &json!({ "max_tokens": whole.len() }));
    let reply = server.post(CHAT, &chat(whole, &fields)).await.ok();
    assert_eq!(content(&reply), (whole, "stop"), "whole at the last token");
}

#[tokio::test]
async fn stops_lengths_and_reports_work_beside_a_shape() {
    let server = Server::start();
    let ask = |fields: Value| chat("aaab", &with(json!({ "guided_regex": "a*b*" }), &fields));
    let reply = server.post(CHAT, &ask(json!({ "stop": "ab" }))).await.ok();
    assert_eq!(content(&reply), ("aa", "stop"));
    let reply = server.post(CHAT, &ask(json!({ "stop_token_ids": [98] }))).await.ok();
    assert_eq!(content(&reply), ("aaa", "stop"));
    let reply = server.post(CHAT, &ask(json!({ "logprobs": true, "top_logprobs": 2 }))).await.ok();
    assert_eq!(content(&reply), ("aaab", "stop"));
    let tokens = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(tokens.last().unwrap()["token"], "<|end|>");
    // With ends ignored the text runs on within its shape.
    let fields = json!({ "ignore_eos": true, "max_tokens": 9 });
    let reply = server.post(CHAT, &ask(fields)).await.ok();
    assert_eq!(content(&reply), ("aaabbbbbb", "length"));
    let fields = json!({ "guided_regex": "a{2}b{3}", "ignore_eos": true });
    let reply = server.post(CHAT, &chat("aab", &fields)).await.ok();
    assert_eq!(content(&reply), ("aabbb", "stop"), "a complete text ends all the same");
}

/// Fields, the `param` that the error must name, and its `code`.
type Row = (Value, &'static str, &'static str);

async fn check_rows(rows: Vec<Row>) {
    let server = Server::start();
    for (fields, param, code) in rows {
        let what = fields.to_string();
        let reply = server.post(CHAT, &chat("x", &fields)).await;
        check(&reply, (400, &param.into(), code), &what);
        let reply = server.post(COMPLETIONS, &completion("x", &fields)).await;
        check(&reply, (400, &param.into(), code), &what);
    }
    assert_eq!(server.gauges().totals.num_steps, 0);
}

#[tokio::test]
async fn bad_formats_are_refused_by_their_field() {
    let (value, kind, missing) = ("invalid_value", "invalid_type", "missing_required_parameter");
    let (unsupported, unknown) = ("unsupported_parameter", "unknown_parameter");
    let response = |format: Value| json!({ "response_format": format });
    let named = |schema: Value| response(json!({ "type": "json_schema", "json_schema": schema }));
    let deep = (0..80).fold(json!({}), |inner, _| json!({ "not": inner }));
    check_rows(vec![
        (response(json!("json")), "response_format", kind),
        (response(json!({})), "response_format.type", missing),
        (response(json!({ "type": "xml" })), "response_format.type", value),
        (response(json!({ "type": "json_schema" })), "response_format.json_schema", missing),
        (response(json!({ "type": "text", "x": 1 })), "response_format.x", unknown),
        (
            response(json!({ "type": "json_object", "json_schema": { "name": "x" } })),
            "response_format.json_schema",
            value,
        ),
        (named(json!({ "schema": {} })), "response_format.json_schema.name", missing),
        (named(json!({ "name": "a b", "schema": {} })), "response_format.json_schema.name", value),
        (named(json!({ "name": "a" })), "response_format.json_schema.schema", missing),
        (named(json!({ "name": "a", "schema": 3 })), "response_format.json_schema.schema", kind),
        (
            named(json!({ "name": "a", "schema": {}, "strict": 1 })),
            "response_format.json_schema.strict",
            kind,
        ),
        (format(&json!({ "not": {} })), "response_format.json_schema.schema.not", unsupported),
        (format(&json!({ "type": "x" })), "response_format.json_schema.schema", value),
        (format(&deep), "response_format.json_schema.schema.not", unsupported),
    ])
    .await;
}

#[tokio::test]
async fn bad_structured_outputs_are_refused_by_their_field() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let (unsupported, unknown) = ("unsupported_parameter", "unknown_parameter");
    let outputs = |fields: Value| json!({ "structured_outputs": fields });
    check_rows(vec![
        (outputs(json!(1)), "structured_outputs", kind),
        (outputs(json!({})), "structured_outputs", value),
        (outputs(json!({ "json": "{" })), "structured_outputs.json", value),
        (outputs(json!({ "json": "[]" })), "structured_outputs.json", value),
        (outputs(json!({ "json": [] })), "structured_outputs.json", kind),
        (outputs(json!({ "json": "{\"a\":1,\"a\":2}" })), "structured_outputs.json", value),
        (outputs(json!({ "regex": "(" })), "structured_outputs.regex", value),
        (outputs(json!({ "regex": "" })), "structured_outputs.regex", value),
        (outputs(json!({ "choice": [] })), "structured_outputs.choice", value),
        (outputs(json!({ "choice": ["a", 1] })), "structured_outputs.choice[1]", kind),
        (outputs(json!({ "choice": ["a", ""] })), "structured_outputs.choice[1]", value),
        (outputs(json!({ "choice": "a" })), "structured_outputs.choice", kind),
        (outputs(json!({ "grammar": "root ::= x" })), "structured_outputs.grammar", unsupported),
        (outputs(json!({ "grammar": "start: x" })), "structured_outputs.grammar", value),
        (
            outputs(json!({ "structural_tag": "x" })),
            "structured_outputs.structural_tag",
            unsupported,
        ),
        (
            outputs(json!({ "regex": "a", "whitespace_pattern": " " })),
            "structured_outputs.whitespace_pattern",
            value,
        ),
        (
            outputs(json!({ "json_object": true, "whitespace_pattern": " ",
                            "disable_any_whitespace": true })),
            "structured_outputs.whitespace_pattern",
            value,
        ),
        (
            outputs(json!({ "json": {}, "disable_additional_properties": true })),
            "structured_outputs.disable_additional_properties",
            unsupported,
        ),
        (outputs(json!({ "regex": "a", "choice": ["b"] })), "structured_outputs.choice", value),
        (outputs(json!({ "regexp": "a" })), "structured_outputs.regexp", unknown),
    ])
    .await;
}

#[tokio::test]
async fn bad_guides_are_refused_by_their_field() {
    let (value, kind) = ("invalid_value", "invalid_type");
    check_rows(vec![
        (json!({ "guided_json": 5 }), "guided_json", kind),
        (json!({ "guided_regex": ["a"] }), "guided_regex", kind),
        (json!({ "guided_regex": "a", "guided_choice": ["a"] }), "guided_choice", value),
        (json!({ "guided_decoding_backend": "outlines" }), "guided_decoding_backend", value),
        (json!({ "guided_decoding_backend": "auto" }), "guided_decoding_backend", value),
        (json!({ "guided_whitespace_pattern": " " }), "guided_whitespace_pattern", value),
        (
            json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }),
            "guided_regex",
            value,
        ),
        (
            json!({ "guided_regex": "a", "structured_outputs": { "regex": "a" } }),
            "guided_regex",
            value,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_costs_too_much_is_refused_with_the_limit() {
    let server = Server::start();
    let many: Vec<_> = (0..30_000).collect();
    let patterns: Vec<_> =
        (0..40).map(|i| json!({ "pattern": format!("(a|b)*a(a|b){{{i}}}") })).collect();
    let deep = (0..100).fold(json!({}), |inner, _| json!({ "items": inner }));
    for (schema, words) in [
        (json!({ "enum": ["x".repeat(300_000)] }), "at most 262144"),
        (json!({ "enum": many }), "more than 20000 values"),
        (json!({ "type": "string", "allOf": patterns }), "combines 40 patterns"),
        (json!({ "type": "string", "pattern": "a".repeat(1001) }), "at most 1000"),
        (deep, "more than 64 deep"),
    ] {
        let reply = server.post(CHAT, &chat("x", &format(&schema))).await;
        check(&reply, (400, &"response_format.json_schema.schema".into(), "invalid_value"), words);
        assert!(reply.text().contains(words), "{}", reply.text());
    }
    let fields = json!({ "guided_choice": (0..10_001).map(|i| i.to_string()).collect::<Vec<_>>() });
    let reply = server.post(CHAT, &chat("x", &fields)).await;
    assert!(reply.text().contains("at most 10000"), "{}", reply.text());
}

#[tokio::test]
async fn an_embedding_has_no_shape() {
    let server = Server::start();
    let body = json!({ "model": "sines", "input": "x", "response_format": { "type": "text" } });
    let reply = server.post("/v1/embeddings", &body).await;
    check(&reply, (400, &"response_format".into(), "unknown_parameter"), "embedding");
}
