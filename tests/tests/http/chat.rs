//! `POST /v1/chat/completions`: answers, streams, choices, stop strings, log-probabilities.

use std::task::Poll;

use serde_json::{Value, json};

use crate::fake;
use crate::support::{Options, Reply, Server, wait_until};

const CHAT: &str = "/v1/chat/completions";

fn say(text: &str) -> Value {
    json!({ "model": "echo", "messages": [{ "role": "user", "content": text }] })
}

/// `body` with the fields of `more`.
fn with(mut body: Value, more: Value) -> Value {
    let Value::Object(more) = more else {
        panic!("an object is needed");
    };
    body.as_object_mut().unwrap().extend(more);
    body
}

/// Text of a stream's choice, which must come in order: role, content, finish.
fn streamed(chunks: &[Value], index: u64) -> (String, String) {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let mut choices = choices.filter(|choice| choice["index"] == index);
    let first = choices.next().expect("a role chunk");
    assert_eq!(first["delta"], json!({ "role": "assistant", "content": "" }));
    let mut text = String::new();
    let mut finish = None;
    for choice in choices {
        assert!(finish.is_none(), "a chunk after the finish: {choice}");
        assert!(choice["delta"].get("role").is_none());
        match choice["finish_reason"].as_str() {
            Some(reason) => {
                assert_eq!(choice["delta"], json!({}));
                finish = Some(reason.to_owned());
            }
            None => text.push_str(choice["delta"]["content"].as_str().unwrap()),
        }
    }
    (text, finish.expect("a finish chunk"))
}

fn content(reply: &Reply) -> String {
    let answer = reply.ok();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_answer_has_every_field() {
    let server = Server::start();
    let answer = server.post(CHAT, &say("Hi!")).await.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert!(answer["created"].as_u64().unwrap() > 1_600_000_000);
    assert_eq!(answer["model"], "echo");
    assert_eq!(answer["system_fingerprint"], "fp_test");
    assert_eq!(
        answer["choices"],
        json!([{ "index": 0, "finish_reason": "stop", "logprobs": null,
                 "message": { "role": "assistant", "content": "Hi!", "refusal": null } }])
    );
    // <|user|> H i ! <|end|> <|assistant|>, and H i ! <|end|>.
    assert_eq!(
        answer["usage"],
        json!({ "prompt_tokens": 6, "completion_tokens": 4, "total_tokens": 10,
                "prompt_tokens_details": { "cached_tokens": 0 } })
    );
}

#[tokio::test]
async fn messages_may_be_a_string() {
    let server = Server::start();
    for (messages, expected) in [
        ("Hello there", "Hello there"),
        ("[1] is a footnote", "[1] is a footnote"),
        (r#"[{"role":"system","content":"x"},{"role":"user","content":"y"}]"#, "y"),
    ] {
        let body = json!({ "model": "echo", "messages": messages });
        assert_eq!(content(&server.post(CHAT, &body).await), expected);
    }
}

#[tokio::test]
async fn roles_and_parts_reach_the_template() {
    let server = Server::start();
    let messages = json!([
        { "role": "developer", "content": "be brief" },
        { "role": "user", "content": [{ "type": "text", "text": "a" },
                                      { "type": "text", "text": "b" }] },
    ]);
    let body = json!({ "messages": messages });
    let tokens = server.post("/tokenize", &body).await.ok();
    let back = json!({ "tokens": tokens["tokens"] });
    let text = server.post("/detokenize", &back).await.ok();
    let expected = "<|system|>be brief<|end|><|user|>a\nb<|end|><|assistant|>";
    assert_eq!(text["prompt"], expected);
}

#[tokio::test]
async fn a_stream_says_what_a_plain_answer_says() {
    let server = Server::start();
    for text in ["Hi!", "日本語とemoji 👩‍👩‍👧 → ok", "a\u{0}b\n\n", "data: x\n\ndata: y"]
    {
        let plain = server.post(CHAT, &say(text)).await;
        assert_eq!(content(&plain), text);
        let body = with(say(text), json!({ "stream": true }));
        let chunks = server.post(CHAT, &body).await.chunks();
        assert_eq!(streamed(&chunks, 0), (text.to_owned(), "stop".to_owned()));
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["id"], chunks[0]["id"]);
            assert_eq!(chunk["system_fingerprint"], "fp_test");
            assert!(chunk.get("usage").is_none());
            assert!(!chunk.to_string().contains('\u{fffd}'), "a split character: {chunk}");
        }
    }
}

#[tokio::test]
async fn random_bytes_stream_as_they_decode_whole() {
    let server = Server::start();
    for seed in [0, 1, 2, -7] {
        let body = with(say("bytes:300"), json!({ "seed": seed, "n": 3 }));
        let plain = server.post(CHAT, &body).await.ok();
        let again = server.post(CHAT, &body).await.ok();
        assert_eq!(plain["choices"], again["choices"], "seed {seed} is not reproducible");
        let chunks = server.post(CHAT, &with(body, json!({ "stream": true }))).await.chunks();
        let mut texts = Vec::new();
        for index in 0..3 {
            let text = plain["choices"][index as usize]["message"]["content"].as_str().unwrap();
            assert_eq!(streamed(&chunks, index).0, text, "seed {seed} choice {index}");
            let bytes: Vec<u8> =
                (0..300).map(|at| fake::random_byte(seed as u64, index as u32, at) as u8).collect();
            assert_eq!(text, String::from_utf8_lossy(&bytes), "seed {seed} choice {index}");
            texts.push(text.to_owned());
        }
        assert!(texts[0] != texts[1] && texts[1] != texts[2]);
        assert_eq!(plain["usage"]["completion_tokens"], 3 * 301);
    }
}

#[tokio::test]
async fn without_a_seed_answers_differ() {
    let server = Server::start();
    let first = content(&server.post(CHAT, &say("bytes:40")).await);
    let second = content(&server.post(CHAT, &say("bytes:40")).await);
    assert_ne!(first, second);
}

#[tokio::test]
async fn the_servers_seed_makes_starts_alike_but_not_requests() {
    let mut starts = Vec::new();
    for _ in 0..2 {
        let server = Server::with(Options { seed: Some(7), ..Options::default() });
        let first = content(&server.post(CHAT, &say("bytes:40")).await);
        let second = content(&server.post(CHAT, &say("bytes:40")).await);
        assert_ne!(first, second);
        starts.push((first, second));
    }
    assert_eq!(starts[0], starts[1]);
}

#[tokio::test]
async fn prompts_are_counted_once_whatever_n() {
    let server = Server::start();
    let body = with(say("Hi!"), json!({ "n": 4 }));
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["usage"]["prompt_tokens"], 6);
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let indices: Vec<_> =
        answer["choices"].as_array().unwrap().iter().map(|c| &c["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
}

#[tokio::test]
async fn streamed_usage_counts_tokens_in_one_last_chunk() {
    let server = Server::start();
    let options = json!({ "stream": true, "stream_options": { "include_usage": true }, "n": 2 });
    let body = with(say("日本語"), options);
    let chunks = server.post(CHAT, &body).await.chunks();
    let (last, rest) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["prompt_tokens"], 12);
    assert_eq!(last["usage"]["completion_tokens"], 20);
    for chunk in rest {
        assert_eq!(chunk["usage"], Value::Null);
        assert_eq!(chunk["choices"].as_array().unwrap().len(), 1);
    }
    assert_eq!(streamed(rest, 1).0, "日本語");
}

#[tokio::test]
async fn a_repeated_prompt_reports_cached_tokens() {
    let server = Server::start();
    let text = "x".repeat(100);
    let first = server.post(CHAT, &say(&text)).await.ok();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let second = server.post(CHAT, &say(&text)).await.ok();
    assert_eq!(second["usage"]["prompt_tokens_details"]["cached_tokens"], 96);
    let salted = with(say(&text), json!({ "cache_salt": "mine" }));
    let third = server.post(CHAT, &salted).await.ok();
    assert_eq!(third["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn stop_strings_end_a_choice_and_are_never_sent() {
    let server = Server::start();
    for (said, stop, text, num_tokens) in [
        ("one two three", json!("two"), "one ", 7),
        ("one two three", json!(["three", "two"]), "one ", 7),
        ("abcabd", json!(["abd"]), "abc", 6),
        ("aaab", json!(["aab"]), "a", 4),
        ("no match", json!(["match!"]), "no match", 9),
        ("日本語", json!(["本"]), "日", 6),
        ("stop", json!(["stop"]), "", 4),
        ("abcx", json!(["abcdef", "bc"]), "a", 4),
        ("x", json!([]), "x", 2),
    ] {
        let body = with(say(said), json!({ "stop": stop }));
        let answer = server.post(CHAT, &body).await.ok();
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], text, "{body}");
        assert_eq!(choice["finish_reason"], "stop", "{body}");
        assert_eq!(answer["usage"]["completion_tokens"], num_tokens, "{body}");
        let chunks = server.post(CHAT, &with(body, json!({ "stream": true }))).await.chunks();
        assert_eq!(streamed(&chunks, 0), (text.to_owned(), "stop".to_owned()));
    }
    server.wait_for_idle().await;
}

#[tokio::test]
async fn a_stop_string_cancels_the_choices_within_one_step() {
    let server = Server::start();
    server.pace.hold();
    let body = with(say("forever"), json!({ "stop": "aaaaa", "n": 3 }));
    let mut answer = Box::pin(server.post(CHAT, &body));
    let reply = loop {
        match futures_util::poll!(&mut answer) {
            Poll::Ready(reply) => break reply,
            Poll::Pending => {
                if server.pace.is_waiting() {
                    server.pace.allow(1);
                }
                tokio::task::yield_now().await;
            }
        }
    };
    assert_eq!(reply.ok()["usage"]["completion_tokens"], 15);
    server.pace.allow(1);
    server.wait_for_idle().await;
}

#[tokio::test]
async fn a_held_back_beginning_is_given_back_at_the_limit() {
    let server = Server::start();
    let body = with(say("forever"), json!({ "stop": "aaab", "max_tokens": 5 }));
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "aaaaa");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn stop_tokens_and_the_end_token() {
    let server = Server::start();
    let body = with(say("abc"), json!({ "stop_token_ids": [98] }));
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "a");
    assert_eq!(answer["choices"][0]["stop_reason"], 98);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let body = with(say("abc"), json!({ "ignore_eos": true, "max_tokens": 6 }));
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "abc");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn a_stop_string_may_begin_before_min_tokens_and_end_after() {
    let server = Server::start();
    for (min_tokens, expected) in [(0, "a"), (3, "a"), (4, "a<>b"), (6, "a<>b"), (7, "a<>b<>c")] {
        let body = with(say("a<>b<>c"), json!({ "stop": "<>", "min_tokens": min_tokens }));
        let answer = server.post(CHAT, &body).await.ok();
        let text = &answer["choices"][0]["message"]["content"];
        assert_eq!(text, expected, "min_tokens = {min_tokens}");
    }
}

#[tokio::test]
async fn min_tokens_keeps_stop_strings_away() {
    let server = Server::start();
    let body = with(say("a.b.c.d"), json!({ "stop": ".", "min_tokens": 4 }));
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["choices"][0]["message"]["content"], "a.b");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn logprobs_come_for_every_token_also_for_those_held_back() {
    let server = Server::start();
    let wanted = json!({ "logprobs": true, "top_logprobs": 2, "stop": "語!" });
    let body = with(say("é日本語!"), wanted);
    let plain = server.post(CHAT, &body).await.ok();
    let choice = &plain["choices"][0];
    assert_eq!(choice["message"]["content"], "é日本");
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    let bytes = "é日本語!".as_bytes();
    assert_eq!(plain["usage"]["completion_tokens"], bytes.len());
    assert_eq!(entries.len(), bytes.len());
    for (entry, &byte) in entries.iter().zip(bytes) {
        let expected = fake::logprobs_of(byte.into(), 2);
        assert_eq!(entry["bytes"], json!([byte]));
        let bits = |value: &Value| (value.as_f64().unwrap() as f32).to_bits();
        assert_eq!(bits(&entry["logprob"]), expected.logprob.to_bits());
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!(bits(&top[1]["logprob"]), expected.top[1].1.to_bits());
    }
    assert_eq!(entries[0]["token"], "\u{fffd}");
    assert_eq!(entries[bytes.len() - 1]["token"], "!");
    let chunks = server.post(CHAT, &with(body, json!({ "stream": true }))).await.chunks();
    let streamed: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(streamed, entries.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_failure_in_the_engine_is_an_error_not_an_answer() {
    let server = Server::start();
    let reply = server.post(CHAT, &say("explode")).await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.json()["error"]["type"], "server_error");
    let body = with(say("explode"), json!({ "stream": true }));
    let events = server.post(CHAT, &body).await.events();
    let error: Value = serde_json::from_str(&events[1]).unwrap();
    assert_eq!(error["error"]["message"], "the numbers are not finite");
    assert_eq!(events[2..], ["[DONE]"]);
    assert_eq!(content(&server.post(CHAT, &say("still here")).await), "still here");
}

#[tokio::test]
async fn an_engine_that_is_gone_is_no_secret() {
    let server = Server::start();
    let body = with(say("panic"), json!({ "stream": true }));
    for _ in 0..3 {
        let events = server.post(CHAT, &body).await.events();
        let error: Value = serde_json::from_str(&events[1]).unwrap();
        assert_eq!(error["error"]["code"], "step_failed");
    }
    wait_until("the thread's end", || !server.app.service.is_running()).await;
    for reply in [server.post(CHAT, &say("hi")).await, server.get("/health").await] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "engine_stopped");
    }
}

#[tokio::test]
async fn without_max_tokens_the_context_is_the_limit() {
    let server = Server::start();
    let answer = server.post(CHAT, &say("forever")).await.ok();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["total_tokens"], crate::support::MAX_CHAT_LEN);
}
