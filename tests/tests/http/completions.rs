//! `POST /v1/completions`, and the endpoints about tokens.

use serde_json::{Value, json};

use crate::fake;
use crate::support::Server;

const COMPLETIONS: &str = "/v1/completions";

fn prompt(prompt: Value, more: Value) -> Value {
    let mut body = json!({ "model": "echo", "prompt": prompt });
    let Value::Object(more) = more else {
        panic!("an object is needed");
    };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn all_shapes_of_prompts() {
    let server = Server::start();
    for (shape, expected) in [
        (json!("ab"), vec!["ab"]),
        (json!(["ab", "c"]), vec!["ab", "c"]),
        (json!([97, 98]), vec!["ab"]),
        (json!([[97, 98], [99]]), vec!["ab", "c"]),
    ] {
        let answer = server.post(COMPLETIONS, &prompt(shape, json!({}))).await.ok();
        assert_eq!(texts(&answer), expected);
        assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
        assert_eq!(answer["object"], "text_completion");
        let num: usize = expected.iter().map(|text| text.len()).sum();
        assert_eq!(answer["usage"]["prompt_tokens"], num);
        assert_eq!(answer["usage"]["completion_tokens"], num + expected.len());
    }
}

#[tokio::test]
async fn sixteen_tokens_are_the_default() {
    let server = Server::start();
    let answer = server.post(COMPLETIONS, &prompt(json!("forever"), json!({}))).await.ok();
    assert_eq!(texts(&answer), ["a".repeat(16)]);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn echo_leads_with_the_prompt() {
    let server = Server::start();
    let more = json!({ "echo": true, "n": 2 });
    for (shape, expected) in [
        (json!(["é", "b"]), ["éé", "éé", "bb", "bb"]),
        (json!([[0xc3, 0xa9], [98]]), ["éé", "éé", "bb", "bb"]),
    ] {
        let body = prompt(shape, more.clone());
        let answer = server.post(COMPLETIONS, &body).await.ok();
        assert_eq!(texts(&answer), expected);
        let mut body = body;
        body["stream"] = true.into();
        let chunks = server.post(COMPLETIONS, &body).await.chunks();
        for (index, expected) in expected.iter().enumerate() {
            let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
            let own = choices.filter(|choice| choice["index"] == index);
            let text: String = own.map(|choice| choice["text"].as_str().unwrap()).collect();
            assert_eq!(text, *expected);
        }
    }
}

#[tokio::test]
async fn logprobs_come_in_columns() {
    let server = Server::start();
    let body = prompt(json!("aé"), json!({ "logprobs": 2 }));
    let answer = server.post(COMPLETIONS, &body).await.ok();
    let logprobs = &answer["choices"][0]["logprobs"];
    let end = "<|end|>";
    assert_eq!(logprobs["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9", end]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 2]));
    let expected: Vec<f32> =
        [97, 0xc3, 0xa9, fake::END].map(|id| fake::logprobs_of(id, 0).logprob).to_vec();
    assert_eq!(logprobs["token_logprobs"], json!(expected));
    let first = &logprobs["top_logprobs"][0];
    assert_eq!(first, &json!({ "a": expected[0], "b": fake::logprobs_of(98, 0).logprob }));
    let mut body = prompt(json!("aé"), json!({ "logprobs": 0, "stream": true }));
    let chunks = server.post(COMPLETIONS, &body).await.chunks();
    let tokens: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["tokens"].as_array())
        .flatten()
        .collect();
    assert_eq!(json!(tokens), logprobs["tokens"]);
    body["logprobs"] = Value::Null;
    let chunks = server.post(COMPLETIONS, &body).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["logprobs"].is_null()));
}

#[tokio::test]
async fn streams_end_with_reason_usage_and_done() {
    let server = Server::start();
    let more = json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2 });
    let chunks = server.post(COMPLETIONS, &prompt(json!(["ab", "c"]), more)).await.chunks();
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], 3);
    assert_eq!(usage["usage"]["completion_tokens"], 10);
    for index in 0..4 {
        let own = rest.iter().map(|chunk| &chunk["choices"][0]);
        let last = own.filter(|choice| choice["index"] == index).next_back().unwrap();
        assert_eq!(last["finish_reason"], "stop");
    }
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null()));
}

#[tokio::test]
async fn what_is_accepted_because_it_asks_for_nothing() {
    let server = Server::start();
    let more = json!({ "suffix": null, "best_of": 1, "echo": false, "logit_bias": null,
                       "user": "u", "stop": null, "seed": -1, "top_k": -1, "min_p": 0 });
    let answer = server.post(COMPLETIONS, &prompt(json!("x"), more)).await.ok();
    assert_eq!(texts(&answer), ["x"]);
}

#[tokio::test]
async fn tokens_of_texts_and_conversations() {
    let server = Server::start();
    let body = json!({ "prompt": "é!", "return_token_strs": true });
    let answer = server.post("/tokenize", &body).await.ok();
    assert_eq!(answer["tokens"], json!([0xc3, 0xa9, 33]));
    assert_eq!(answer["count"], 3);
    assert_eq!(answer["max_model_len"], 4096);
    assert_eq!(answer["token_strs"], json!(["Ã", "©", "!"]));
    let body = json!({ "model": "sines", "prompt": "a" });
    let answer = server.post("/tokenize", &body).await.ok();
    assert_eq!(answer["tokens"], json!([256, 97, 257]));
    assert_eq!(answer["token_strs"], Value::Null);
    let body = json!({ "model": "sines", "prompt": "a", "add_special_tokens": false });
    assert_eq!(server.post("/tokenize", &body).await.ok()["tokens"], json!([97]));
    let body = json!({ "messages": "hi", "add_generation_prompt": false });
    let answer = server.post("/tokenize", &body).await.ok();
    assert_eq!(answer["tokens"], json!([258, 104, 105, 256]));
    let body = json!({ "tokens": [0xc3, 0xa9, 256] });
    assert_eq!(server.post("/detokenize", &body).await.ok()["prompt"], "é<|end|>");
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({ "prompt": "a", "messages": "b" }), "messages"),
        ("/tokenize", json!({ "prompt": 1 }), "prompt"),
        ("/tokenize", json!({ "prompt": "a", "x": 1 }), "x"),
        ("/tokenize", json!({ "model": "sines", "messages": "b" }), "messages"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({ "tokens": "a" }), "tokens"),
        ("/detokenize", json!({ "tokens": [1, 272] }), "tokens[1]"),
        ("/detokenize", json!({ "tokens": [1.5] }), "tokens[0]"),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, 400, "{path} {body}");
        assert_eq!(reply.json()["error"]["param"], param, "{path} {body}");
    }
}
