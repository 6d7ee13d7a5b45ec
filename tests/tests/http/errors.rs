//! Bad input that is more than one bad field: status, `param` and `code`.

use serde_json::{Map, Value, json};

use crate::support::{Options, Reply, Server};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const COMPLETIONS: &str = "/v1/completions";
pub(crate) const EMBEDDINGS: &str = "/v1/embeddings";

pub(crate) fn base(path: &str) -> Map<String, Value> {
    let body = match path {
        CHAT => json!({ "model": "echo", "messages": [{ "role": "user", "content": "x" }] }),
        COMPLETIONS => json!({ "model": "echo", "prompt": "x" }),
        _ => json!({ "model": "sines", "input": "x" }),
    };
    let Value::Object(body) = body else {
        unreachable!("an object");
    };
    body
}

pub(crate) fn check(reply: &Reply, (status, param, code): (u16, &Value, &str), what: &str) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{what}: {text}");
    assert_eq!(reply.headers["content-type"], "application/json", "{what}");
    let error = &reply.json()["error"];
    let fields: Vec<_> = error.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["message", "type", "param", "code"], "{what}: {text}");
    assert_eq!(error["code"], code, "{what}: {text}");
    assert_eq!(error["param"], *param, "{what}: {text}");
    assert_eq!(error["type"], "invalid_request_error", "{what}: {text}");
    assert!(!error["message"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn what_openai_offers_and_this_server_does_not_is_refused_by_name() {
    let server = Server::start();
    for (field, refused, accepted) in [
        ("audio", json!({ "voice": "x" }), Value::Null),
        ("function_call", json!({ "name": "f" }), json!("none")),
        ("functions", json!([{ "name": "f" }]), json!([])),
        ("metadata", json!({ "a": "b" }), json!({})),
        ("modalities", json!(["text", "audio"]), json!(["text"])),
        ("prediction", json!({ "type": "content" }), Value::Null),
        ("prompt_cache_key", json!("k"), Value::Null),
        ("reasoning_effort", json!("high"), json!("none")),
        ("service_tier", json!("flex"), json!("auto")),
        ("store", json!(true), json!(false)),
        ("verbosity", json!("low"), json!("medium")),
        ("web_search_options", json!({}), Value::Null),
        ("logit_bias", json!({ "1": 200 }), json!({})),
        ("somebodys_extension", json!(0), Value::Null),
    ] {
        let mut body = base(CHAT);
        body.insert(field.to_owned(), refused);
        let reply = server.post(CHAT, &body.clone().into()).await;
        assert_eq!(reply.status, 400, "{field}");
        let param = reply.json()["error"]["param"].as_str().unwrap().to_owned();
        assert_eq!(param.split('.').next(), Some(field));
        body.insert(field.to_owned(), accepted);
        server.post(CHAT, &body.into()).await.ok();
    }
}

#[tokio::test]
async fn contradictions_between_fields() {
    let server = Server::start();
    for (more, param) in [
        (json!({ "max_tokens": 5, "max_completion_tokens": 6 }), "max_completion_tokens"),
        (json!({ "max_tokens": 5, "min_tokens": 6 }), "min_tokens"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options"),
        (json!({ "stream": false, "stream_options": {} }), "stream_options"),
        (json!({ "stream": true, "stream_options": 1 }), "stream_options"),
        (
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
        ),
        (
            json!({ "stream": true, "stream_options": { "include_obfuscation": true } }),
            "stream_options.include_obfuscation",
        ),
        (json!({ "stream": true, "stream_options": { "usage": true } }), "stream_options.usage"),
    ] {
        let mut body = base(CHAT);
        let Value::Object(more) = more else {
            unreachable!("an object");
        };
        body.extend(more);
        let reply = server.post(CHAT, &body.into()).await;
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param, "{}", reply.text());
    }
    let mut body = base(CHAT);
    body.insert("max_tokens".into(), 3.into());
    body.insert("max_completion_tokens".into(), 3.into());
    server.post(CHAT, &body.into()).await.ok();
    let mut body = base(COMPLETIONS);
    body.insert("max_tokens".into(), 0.into());
    let reply = server.post(COMPLETIONS, &body.into()).await;
    assert_eq!(reply.json()["error"]["param"], "max_tokens");
}

#[tokio::test]
async fn malformed_bodies_name_the_field_they_break_in() {
    let server = Server::start();
    for (body, param) in [
        ("", Value::Null),
        ("{", Value::Null),
        ("[]", Value::Null),
        ("\"x\"", Value::Null),
        ("{} trailing", Value::Null),
        (r#"{"model":"echo","temperature":NaN}"#, json!("temperature")),
        (r#"{"model":"echo","top_p":1e999}"#, json!("top_p")),
        (r#"{"model":"echo","presence_penalty":-Infinity}"#, json!("presence_penalty")),
        (r#"{"messages":[{"role":"user","content":nil}]}"#, json!("messages[0].content")),
        (r#"{"logit_bias":{"5":Infinity}}"#, json!("logit_bias.5")),
        (r#"{"model":"echo","model":"echo"}"#, json!("model")),
        (r#"{"messages":[{"role":"user","content":"\ud800"}]}"#, json!("messages[0].content")),
    ] {
        let reply = server.post_text(CHAT, body).await;
        check(&reply, (400, &param, "invalid_json"), body);
    }
}

#[tokio::test]
async fn models_that_do_not_fit() {
    let server = Server::start();
    for (path, model, status, code) in [
        (CHAT, "gpt-4o", 404, "model_not_found"),
        (COMPLETIONS, "", 404, "model_not_found"),
        (EMBEDDINGS, "echo2", 404, "model_not_found"),
        (CHAT, "sines", 400, "invalid_value"),
        (COMPLETIONS, "multilingual-e5-large", 400, "invalid_value"),
        (EMBEDDINGS, "echo", 400, "invalid_value"),
    ] {
        let mut body = base(path);
        body.insert("model".into(), model.into());
        let reply = server.post(path, &body.into()).await;
        check(&reply, (status, &"model".into(), code), &format!("{path} {model}"));
    }
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let mut body = base(path);
        body.remove("model");
        let reply = server.post(path, &body.into()).await;
        check(&reply, (400, &"model".into(), "missing_required_parameter"), path);
    }
}

#[tokio::test]
async fn too_long_for_context_or_cache() {
    let server = Server::start();
    let text = "x".repeat(5000);
    for (path, field, value) in [
        (CHAT, "messages", json!(text)),
        (COMPLETIONS, "prompt", json!(text)),
        (COMPLETIONS, "prompt", json!(vec![1; 4096])),
    ] {
        let mut body = base(path);
        body.insert(field.into(), value);
        let reply = server.post(path, &body.into()).await;
        check(&reply, (400, &field.into(), "context_length_exceeded"), field);
    }
    let mut body = base(CHAT);
    body.insert("max_tokens".into(), 4096.into());
    body.insert("stream".into(), true.into());
    let reply = server.post(CHAT, &body.into()).await;
    check(&reply, (400, &"messages".into(), "context_length_exceeded"), "max_tokens");
    assert!(reply.text().contains("4096"), "{}", reply.text());
    let small = Server::with(Options { num_blocks: 5, ..Options::default() });
    let mut body = base(CHAT);
    body.insert("max_tokens".into(), 100.into());
    let reply = small.post(CHAT, &body.into()).await;
    check(&reply, (400, &"messages".into(), "context_length_exceeded"), "cache");
    assert!(reply.text().contains("64"), "{}", reply.text());
    let answer = small.post(CHAT, &base(CHAT).into()).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn priority_is_taken_where_the_policy_looks_at_it() {
    let server = Server::with(Options { policy: "priority", ..Options::default() });
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let mut body = base(path);
        body.insert("priority".into(), (-5).into());
        server.post(path, &body.into()).await.ok();
    }
}

#[tokio::test]
async fn more_choices_than_the_queue_holds_are_refused_for_good() {
    let server = Server::with(Options { max_queued_requests: 7, ..Options::default() });
    let mut body = base(COMPLETIONS);
    body.insert("prompt".into(), json!(["a", "b"]));
    body.insert("n".into(), 4.into());
    let reply = server.post(COMPLETIONS, &body.clone().into()).await;
    check(&reply, (400, &"n".into(), "invalid_value"), "n");
    body.insert("n".into(), 3.into());
    server.post(COMPLETIONS, &body.into()).await.ok();
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_by_its_bytes() {
    let server = Server::start();
    let text = "x".repeat(4 << 20);
    for (path, field, value, param) in [
        (CHAT, "messages", json!(text), "messages"),
        (COMPLETIONS, "prompt", json!(["a", text]), "prompt[1]"),
        (EMBEDDINGS, "input", json!(["a", text]), "input[1]"),
    ] {
        let mut body = base(path);
        body.insert(field.into(), value);
        let reply = server.post(path, &body.into()).await;
        check(&reply, (400, &param.into(), "context_length_exceeded"), path);
        assert!(reply.text().contains("41943"), "the number of bytes: {}", reply.text());
    }
    for (field, value) in [("prompt", json!(text)), ("messages", json!(text))] {
        let reply = server.post("/tokenize", &json!({ "model": "echo", field: value })).await;
        check(&reply, (400, &field.into(), "invalid_value"), field);
        assert!(reply.text().contains("2097152"), "the limit: {}", reply.text());
    }
}
