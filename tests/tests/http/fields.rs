//! Bad input of every field, alone and streamed: an error that names it, before anything reaches
//! the engine.

use serde_json::{Map, Value, json};

use crate::errors::{CHAT, COMPLETIONS, EMBEDDINGS, base, check};
use crate::support::Server;

/// A field with a bad value, the `param` that the error must name, and its `code`.
type Row = (&'static str, Value, &'static str, &'static str);

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
            check(&reply, (400, &param.into(), code), &format!("{what}, streamed"));
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
        ("stop_token_ids", json!([1, 272]), "stop_token_ids[1]", value),
        ("stop_token_ids", json!([1, -1]), "stop_token_ids[1]", value),
        ("stop_token_ids", json!(["a"]), "stop_token_ids[0]", kind),
        ("stop_token_ids", json!(vec![1; 129]), "stop_token_ids", value),
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

/// Bad second messages.
fn message_rows() -> Vec<Row> {
    let (value, kind) = ("invalid_value", "invalid_type");
    let (missing, unknown) = ("missing_required_parameter", "unknown_parameter");
    let second = |message: Value, param, code| -> Row {
        let first = json!({ "role": "user", "content": "x" });
        ("messages", json!([first, message]), param, code)
    };
    let call = |call: Value| json!({ "role": "assistant", "tool_calls": [call] });
    let odd_call = call(json!({ "id": "1", "function": { "name": "f", "arguments": {} } }));
    let odd_field = json!({ "role": "user", "content": "x", "colour": "red" });
    vec![
        second(json!("x"), "messages[1]", kind),
        second(json!({}), "messages[1].role", missing),
        second(json!({ "role": 1 }), "messages[1].role", kind),
        second(json!({ "role": "wizard", "content": "x" }), "messages[1].role", value),
        second(json!({ "role": "user" }), "messages[1].content", missing),
        second(json!({ "role": "assistant", "content": null }), "messages[1].content", missing),
        second(json!({ "role": "user", "content": 5 }), "messages[1].content", kind),
        second(json!({ "role": "user", "content": [] }), "messages[1].content", value),
        second(odd_field, "messages[1].colour", unknown),
        second(json!({ "role": "tool", "content": "x" }), "messages[1].tool_call_id", missing),
        second(call(json!({ "id": "1" })), "messages[1].tool_calls[0].function", missing),
        second(odd_call, "messages[1].tool_calls[0].function.arguments", kind),
        ("messages", json!(7), "messages", kind),
        ("messages", json!({}), "messages", kind),
        ("messages", json!([]), "messages", value),
        ("messages", json!(""), "messages", value),
        ("messages", json!(r#"[{"role":"wizard","content":"x"}]"#), "messages[0].role", value),
    ]
}

/// Bad parts of a message.
fn part_rows() -> Vec<Row> {
    let (missing, unknown) = ("missing_required_parameter", "unknown_parameter");
    let part = |part: Value, param, code| -> Row {
        ("messages", json!([{ "role": "user", "content": [part] }]), param, code)
    };
    let image = json!({ "type": "image_url", "image_url": { "url": "x" } });
    let odd_text = json!({ "type": "text", "text": 1 });
    let odd_field = json!({ "type": "text", "text": "x", "bold": true });
    vec![
        part(json!("x"), "messages[0].content[0]", "invalid_type"),
        part(json!({}), "messages[0].content[0].type", missing),
        part(image, "messages[0].content[0].type", "unsupported_parameter"),
        part(json!({ "type": "text" }), "messages[0].content[0].text", missing),
        part(odd_text, "messages[0].content[0].text", "invalid_type"),
        part(odd_field, "messages[0].content[0].bold", unknown),
    ]
}

#[tokio::test]
async fn messages_of_a_chat() {
    check_table(CHAT, message_rows()).await;
    check_table(CHAT, part_rows()).await;
}

#[tokio::test]
async fn fields_of_a_chat() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let unknown = "unknown_parameter";
    check_table(
        CHAT,
        vec![
            ("logprobs", json!(1), "logprobs", kind),
            ("top_logprobs", json!(21), "top_logprobs", value),
            ("top_logprobs", json!(-1), "top_logprobs", value),
            ("top_logprobs", json!(2), "top_logprobs", value),
            ("max_completion_tokens", json!(0), "max_completion_tokens", value),
            ("chat_template_kwargs", json!([]), "chat_template_kwargs", kind),
            ("suffix", json!("x"), "suffix", unknown),
            ("echo", json!(true), "echo", unknown),
        ],
    )
    .await;
}

#[tokio::test]
async fn fields_of_a_completion() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let unsupported = "unsupported_parameter";
    check_table(
        COMPLETIONS,
        vec![
            ("prompt", json!(null), "prompt", "missing_required_parameter"),
            ("prompt", json!(""), "prompt", value),
            ("prompt", json!([]), "prompt", value),
            ("prompt", json!(["a", ""]), "prompt[1]", value),
            ("prompt", json!(["a", 1]), "prompt[1]", kind),
            ("prompt", json!([1, "a"]), "prompt[1]", kind),
            ("prompt", json!([[1], []]), "prompt[1]", value),
            ("prompt", json!([1, 272]), "prompt[1]", value),
            ("prompt", json!([[1], [2, 272]]), "prompt[1][1]", value),
            ("prompt", json!({}), "prompt", kind),
            ("logprobs", json!(21), "logprobs", value),
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
            ("input", json!("a".repeat(511)), "input", "context_length_exceeded"),
            ("input", json!(["a", "a".repeat(600)]), "input[1]", "context_length_exceeded"),
            ("input", json!([vec![1; 513]]), "input[0]", "context_length_exceeded"),
            ("encoding_format", json!("int8"), "encoding_format", value),
            ("encoding_format", json!(8), "encoding_format", kind),
            ("dimensions", json!(4), "dimensions", "unsupported_parameter"),
            ("dimensions", json!(0), "dimensions", value),
            ("dimensions", json!("8"), "dimensions", kind),
            ("user", json!(5), "user", kind),
            ("truncate", json!(true), "truncate", "unknown_parameter"),
        ],
    )
    .await;
}

#[tokio::test]
async fn messages_name_the_limit_that_was_broken() {
    let server = Server::start();
    for (field, value, expected) in [
        ("max_tokens", "0", "must be at least 1"),
        ("max_tokens", "10000000000", "must be from 1 to 4294967295"),
        ("max_tokens", "1e300", "must be from 1 to 4294967295"),
        ("n", "99999999999999999999", "must be from 1 to 128"),
        ("seed", "18446744073709551616", "to 9223372036854775807"),
        ("seed", "-99999999999999999999", "must be from -9223372036854775808"),
    ] {
        let body = format!(r#"{{"model": "echo", "messages": "x", "{field}": {value}}}"#);
        let reply = server.post_text(CHAT, &body).await;
        check(&reply, (400, &field.into(), "invalid_value"), &body);
        assert!(reply.text().contains(expected), "{body}: {}", reply.text());
    }
}
