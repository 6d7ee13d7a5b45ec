//! Bad input of every field: status, `param` and `code`, and nothing of it reaches the engine.

use serde_json::{Map, Value, json};

use crate::support::{Options, Reply, Server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";

/// A field with a bad value, the `param` that the error must name, and its `code`.
type Row = (&'static str, Value, &'static str, &'static str);

fn base(path: &str) -> Map<String, Value> {
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

fn check(reply: &Reply, (status, param, code): (u16, &Value, &str), what: &str) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{what}: {text}");
    assert_eq!(reply.headers["content-type"], "application/json", "{what}");
    let error = &reply.json()["error"];
    let fields: Vec<_> = error.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        ["message", "type", "param", "code"],
        "{what}: {text}"
    );
    assert_eq!(error["code"], code, "{what}: {text}");
    assert_eq!(error["param"], *param, "{what}: {text}");
    assert_eq!(error["type"], "invalid_request_error", "{what}: {text}");
    assert!(!error["message"].as_str().unwrap().is_empty());
}

async fn check_table(path: &str, rows: Vec<Row>) {
    let server = Server::start();
    for (field, value, param, code) in rows {
        let mut body = base(path);
        body.insert(field.to_owned(), value.clone());
        let what = format!("{path} {field} = {value}");
        let streams = path != EMBEDDINGS && !body.contains_key("stream");
        let reply = server.post(path, &body.clone().into()).await;
        check(&reply, (400, &param.into(), code), &what);
        if streams {
            body.insert("stream".to_owned(), true.into());
            let reply = server.post(path, &body.into()).await;
            check(
                &reply,
                (400, &param.into(), code),
                &format!("{what}, streamed"),
            );
        }
    }
    assert_eq!(server.gauges().totals.num_steps, 0);
}

fn generation_rows() -> Vec<Row> {
    let value = "invalid_value";
    let kind = "invalid_type";
    let many: Map<String, Value> = (0..1025).map(|id| (id.to_string(), 0.into())).collect();
    vec![
        ("model", json!(3), "model", kind),
        ("temperature", json!(-0.1), "temperature", value),
        ("temperature", json!(2.1), "temperature", value),
        ("temperature", json!("hot"), "temperature", kind),
        ("temperature", json!(true), "temperature", kind),
        ("top_p", json!(0), "top_p", value),
        ("top_p", json!(1.01), "top_p", value),
        ("top_p", json!([1]), "top_p", kind),
        ("min_p", json!(-0.5), "min_p", value),
        ("min_p", json!(1.5), "min_p", value),
        ("top_k", json!(-2), "top_k", value),
        ("top_k", json!(1.5), "top_k", kind),
        ("frequency_penalty", json!(2.5), "frequency_penalty", value),
        ("frequency_penalty", json!("1"), "frequency_penalty", kind),
        ("presence_penalty", json!(-2.5), "presence_penalty", value),
        ("presence_penalty", json!({}), "presence_penalty", kind),
        ("repetition_penalty", json!(0), "repetition_penalty", value),
        ("repetition_penalty", json!(-1), "repetition_penalty", value),
        ("logit_bias", json!([1]), "logit_bias", kind),
        ("logit_bias", json!({ "5": 101 }), "logit_bias.5", value),
        ("logit_bias", json!({ "5": "x" }), "logit_bias.5", kind),
        ("logit_bias", json!({ "a": 1 }), "logit_bias.a", value),
        ("logit_bias", json!({ "05": 1 }), "logit_bias.05", value),
        ("logit_bias", json!({ "-1": 1 }), "logit_bias.-1", value),
        ("logit_bias", json!({ "272": 1 }), "logit_bias.272", value),
        ("logit_bias", many.into(), "logit_bias", value),
        ("n", json!(0), "n", value),
        ("n", json!(129), "n", value),
        ("n", json!("2"), "n", kind),
        ("n", json!(1.0), "n", kind),
        ("max_tokens", json!(0), "max_tokens", value),
        ("max_tokens", json!(-1), "max_tokens", value),
        ("max_tokens", json!(1e3), "max_tokens", kind),
        ("max_tokens", json!(99_999_999_999_u64), "max_tokens", value),
        ("min_tokens", json!(-1), "min_tokens", value),
        ("min_tokens", json!(100_000), "min_tokens", value),
        ("seed", json!(1.5), "seed", kind),
        ("seed", json!("7"), "seed", kind),
        ("seed", json!(u64::MAX), "seed", value),
        ("stop", json!(""), "stop", value),
        ("stop", json!(["a", ""]), "stop[1]", value),
        ("stop", json!(["a", 1]), "stop[1]", kind),
        ("stop", json!(["a", "b", "c", "d", "e"]), "stop", value),
        ("stop", json!(7), "stop", kind),
        ("stop", json!("x".repeat(1025)), "stop", value),
        ("stop_token_ids", json!(5), "stop_token_ids", kind),
        (
            "stop_token_ids",
            json!([1, 272]),
            "stop_token_ids[1]",
            value,
        ),
        ("stop_token_ids", json!([1, -1]), "stop_token_ids[1]", value),
        ("stop_token_ids", json!(["a"]), "stop_token_ids[0]", kind),
        (
            "stop_token_ids",
            json!(vec![1; 129]),
            "stop_token_ids",
            value,
        ),
        ("ignore_eos", json!(1), "ignore_eos", kind),
        ("stream", json!("yes"), "stream", kind),
        ("user", json!(1), "user", kind),
        ("cache_salt", json!(""), "cache_salt", value),
        ("cache_salt", json!(1), "cache_salt", kind),
        ("priority", json!(1), "priority", "unsupported_parameter"),
        ("priority", json!(1e2), "priority", kind),
        ("priority", json!(3_000_000_000_u64), "priority", value),
        ("temprature", json!(1), "temprature", "unknown_parameter"),
    ]
}

#[tokio::test]
async fn fields_of_a_generation() {
    check_table(CHAT, generation_rows()).await;
    check_table(COMPLETIONS, generation_rows()).await;
}

#[tokio::test]
async fn fields_of_a_chat() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let missing = "missing_required_parameter";
    let unsupported = "unsupported_parameter";
    let unknown = "unknown_parameter";
    let user = json!({ "role": "user", "content": "x" });
    let second = |message: Value| json!([user, message]);
    let part = |part: Value| json!([{ "role": "user", "content": [part] }]);
    check_table(
        CHAT,
        vec![
            ("messages", json!(7), "messages", kind),
            ("messages", json!({}), "messages", kind),
            ("messages", json!([]), "messages", value),
            ("messages", json!(""), "messages", value),
            ("messages", json!(["x"]), "messages[0]", kind),
            ("messages", second(json!({})), "messages[1].role", missing),
            (
                "messages",
                second(json!({ "role": 1 })),
                "messages[1].role",
                kind,
            ),
            (
                "messages",
                second(json!({ "role": "wizard", "content": "x" })),
                "messages[1].role",
                value,
            ),
            (
                "messages",
                json!(r#"[{"role":"wizard","content":"x"}]"#),
                "messages[0].role",
                value,
            ),
            (
                "messages",
                second(json!({ "role": "user" })),
                "messages[1].content",
                missing,
            ),
            (
                "messages",
                second(json!({ "role": "assistant", "content": null })),
                "messages[1].content",
                missing,
            ),
            (
                "messages",
                second(json!({ "role": "user", "content": 5 })),
                "messages[1].content",
                kind,
            ),
            (
                "messages",
                second(json!({ "role": "user", "content": [] })),
                "messages[1].content",
                value,
            ),
            ("messages", part(json!("x")), "messages[0].content[0]", kind),
            (
                "messages",
                part(json!({})),
                "messages[0].content[0].type",
                missing,
            ),
            (
                "messages",
                part(json!({ "type": "image_url", "image_url": { "url": "x" } })),
                "messages[0].content[0].type",
                unsupported,
            ),
            (
                "messages",
                part(json!({ "type": "text" })),
                "messages[0].content[0].text",
                missing,
            ),
            (
                "messages",
                part(json!({ "type": "text", "text": 1 })),
                "messages[0].content[0].text",
                kind,
            ),
            (
                "messages",
                part(json!({ "type": "text", "text": "x", "bold": true })),
                "messages[0].content[0].bold",
                unknown,
            ),
            (
                "messages",
                second(json!({ "role": "user", "content": "x", "colour": "red" })),
                "messages[1].colour",
                unknown,
            ),
            (
                "messages",
                second(json!({ "role": "tool", "content": "x" })),
                "messages[1].tool_call_id",
                missing,
            ),
            (
                "messages",
                second(json!({ "role": "assistant", "tool_calls": [{ "id": "1" }] })),
                "messages[1].tool_calls[0].function",
                missing,
            ),
            (
                "messages",
                second(json!({ "role": "assistant", "tool_calls": [{ "id": "1",
                    "function": { "name": "f", "arguments": {} } }] })),
                "messages[1].tool_calls[0].function.arguments",
                kind,
            ),
            ("logprobs", json!(1), "logprobs", kind),
            ("top_logprobs", json!(21), "top_logprobs", value),
            ("top_logprobs", json!(-1), "top_logprobs", value),
            ("top_logprobs", json!(2), "top_logprobs", value),
            (
                "max_completion_tokens",
                json!(0),
                "max_completion_tokens",
                value,
            ),
            (
                "chat_template_kwargs",
                json!([]),
                "chat_template_kwargs",
                kind,
            ),
            ("suffix", json!("x"), "suffix", unknown),
            ("echo", json!(true), "echo", unknown),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_openai_offers_and_this_server_does_not_is_refused_by_name() {
    let server = Server::start();
    let function = json!([{ "type": "function", "function": { "name": "f" } }]);
    for (field, refused, accepted) in [
        ("audio", json!({ "voice": "x" }), Value::Null),
        ("function_call", json!({ "name": "f" }), json!("none")),
        ("functions", json!([{ "name": "f" }]), json!([])),
        ("metadata", json!({ "a": "b" }), json!({})),
        ("modalities", json!(["text", "audio"]), json!(["text"])),
        ("parallel_tool_calls", json!(false), json!(true)),
        ("prediction", json!({ "type": "content" }), Value::Null),
        ("prompt_cache_key", json!("k"), Value::Null),
        ("reasoning_effort", json!("high"), json!("none")),
        (
            "response_format",
            json!({ "type": "json_object" }),
            json!({ "type": "text" }),
        ),
        ("service_tier", json!("flex"), json!("auto")),
        ("store", json!(true), json!(false)),
        ("tool_choice", json!("required"), json!("none")),
        ("tools", function, json!([])),
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
async fn fields_of_a_completion() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let unsupported = "unsupported_parameter";
    check_table(
        COMPLETIONS,
        vec![
            (
                "prompt",
                json!(null),
                "prompt",
                "missing_required_parameter",
            ),
            ("prompt", json!(""), "prompt", value),
            ("prompt", json!([]), "prompt", value),
            ("prompt", json!(["a", ""]), "prompt[1]", value),
            ("prompt", json!(["a", 1]), "prompt[1]", kind),
            ("prompt", json!([1, "a"]), "prompt[1]", kind),
            ("prompt", json!([[1], []]), "prompt[1]", value),
            ("prompt", json!([1, 272]), "prompt[1]", value),
            ("prompt", json!([[1], [2, 272]]), "prompt[1][1]", value),
            ("prompt", json!({}), "prompt", kind),
            ("logprobs", json!(6), "logprobs", value),
            ("logprobs", json!(true), "logprobs", kind),
            ("best_of", json!(2), "best_of", unsupported),
            ("best_of", json!(0), "best_of", value),
            ("suffix", json!("x"), "suffix", unsupported),
            ("echo", json!("yes"), "echo", kind),
            ("messages", json!([]), "messages", "unknown_parameter"),
        ],
    )
    .await;
}

#[tokio::test]
async fn fields_of_an_embedding() {
    let (value, kind) = ("invalid_value", "invalid_type");
    check_table(
        EMBEDDINGS,
        vec![
            ("input", json!(null), "input", "missing_required_parameter"),
            ("input", json!(""), "input", value),
            ("input", json!([]), "input", value),
            ("input", json!(["a", "", "b"]), "input[1]", value),
            ("input", json!([[1], []]), "input[1]", value),
            ("input", json!(["a", 1]), "input[1]", kind),
            ("input", json!([1, "a"]), "input[1]", kind),
            ("input", json!([["a"]]), "input[0][0]", kind),
            ("input", json!([true]), "input[0]", kind),
            ("input", json!([1, 272]), "input[1]", value),
            ("input", json!([[1], [300]]), "input[1][0]", value),
            ("input", json!(vec!["a"; 2049]), "input", value),
            (
                "input",
                json!("a".repeat(511)),
                "input",
                "context_length_exceeded",
            ),
            (
                "input",
                json!(["a", "a".repeat(600)]),
                "input[1]",
                "context_length_exceeded",
            ),
            (
                "input",
                json!([vec![1; 513]]),
                "input[0]",
                "context_length_exceeded",
            ),
            ("encoding_format", json!("int8"), "encoding_format", value),
            ("encoding_format", json!(8), "encoding_format", kind),
            (
                "dimensions",
                json!(4),
                "dimensions",
                "unsupported_parameter",
            ),
            ("dimensions", json!(0), "dimensions", value),
            ("dimensions", json!("8"), "dimensions", kind),
            ("user", json!(5), "user", kind),
            ("truncate", json!(true), "truncate", "unknown_parameter"),
        ],
    )
    .await;
}

#[tokio::test]
async fn contradictions_between_fields() {
    let server = Server::start();
    for (more, param) in [
        (
            json!({ "max_tokens": 5, "max_completion_tokens": 6 }),
            "max_completion_tokens",
        ),
        (json!({ "max_tokens": 5, "min_tokens": 6 }), "min_tokens"),
        (
            json!({ "stream_options": { "include_usage": true } }),
            "stream_options",
        ),
        (
            json!({ "stream": false, "stream_options": {} }),
            "stream_options",
        ),
        (
            json!({ "stream": true, "stream_options": 1 }),
            "stream_options",
        ),
        (
            json!({ "stream": true, "stream_options": { "include_usage": 1 } }),
            "stream_options.include_usage",
        ),
        (
            json!({ "stream": true, "stream_options": { "include_obfuscation": true } }),
            "stream_options.include_obfuscation",
        ),
        (
            json!({ "stream": true, "stream_options": { "usage": true } }),
            "stream_options.usage",
        ),
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
    body.insert("echo".into(), true.into());
    body.insert("logprobs".into(), 1.into());
    let reply = server.post(COMPLETIONS, &body.into()).await;
    assert_eq!(reply.json()["error"]["param"], "echo");
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
        (
            r#"{"model":"echo","temperature":NaN}"#,
            json!("temperature"),
        ),
        (r#"{"model":"echo","top_p":1e999}"#, json!("top_p")),
        (
            r#"{"model":"echo","presence_penalty":-Infinity}"#,
            json!("presence_penalty"),
        ),
        (
            r#"{"messages":[{"role":"user","content":nil}]}"#,
            json!("messages[0].content"),
        ),
        (r#"{"logit_bias":{"5":Infinity}}"#, json!("logit_bias.5")),
        (r#"{"model":"echo","model":"echo"}"#, Value::Null),
        (
            r#"{"messages":[{"role":"user","content":"\ud800"}]}"#,
            json!("messages[0].content"),
        ),
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
        check(
            &reply,
            (status, &"model".into(), code),
            &format!("{path} {model}"),
        );
    }
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let mut body = base(path);
        body.remove("model");
        let reply = server.post(path, &body.into()).await;
        check(
            &reply,
            (400, &"model".into(), "missing_required_parameter"),
            path,
        );
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
        check(
            &reply,
            (400, &field.into(), "context_length_exceeded"),
            field,
        );
    }
    let mut body = base(CHAT);
    body.insert("max_tokens".into(), 4096.into());
    body.insert("stream".into(), true.into());
    let reply = server.post(CHAT, &body.into()).await;
    check(
        &reply,
        (400, &"messages".into(), "context_length_exceeded"),
        "max_tokens",
    );
    assert!(reply.text().contains("4096"), "{}", reply.text());
    let small = Server::with(Options {
        num_blocks: 5,
        ..Options::default()
    });
    let mut body = base(CHAT);
    body.insert("max_tokens".into(), 100.into());
    let reply = small.post(CHAT, &body.into()).await;
    check(
        &reply,
        (400, &"messages".into(), "context_length_exceeded"),
        "cache",
    );
    assert!(reply.text().contains("64"), "{}", reply.text());
    let answer = small.post(CHAT, &base(CHAT).into()).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn priority_is_taken_where_the_policy_looks_at_it() {
    let server = Server::with(Options {
        policy: "priority",
        ..Options::default()
    });
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let mut body = base(path);
        body.insert("priority".into(), (-5).into());
        server.post(path, &body.into()).await.ok();
    }
}
