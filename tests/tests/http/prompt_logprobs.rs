//! What answers say about the prompt and about tokens: log-probabilities, ids, reasons to stop.

use serde_json::{Value, json};

use crate::fake;
use crate::support::{Reply, Server};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

async fn complete(server: &Server, more: Value) -> Reply {
    let mut body = json!({ "model": "echo", "prompt": "abc" });
    let Value::Object(more) = more else { panic!("an object is needed") };
    body.as_object_mut().unwrap().extend(more);
    server.post(COMPLETIONS, &body).await
}

/// The log-probability that the fake model gives a token, wherever it stands.
fn logprob(id: u32) -> f32 {
    fake::logprobs_of(id, 0).logprob
}

#[tokio::test]
async fn an_echo_has_the_log_probabilities_of_its_prompt() {
    let server = Server::start();
    let answer = complete(&server, json!({ "echo": true, "logprobs": 2, "n": 2 })).await.ok();
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["text"], "abcabc");
        let logprobs = &choice["logprobs"];
        assert_eq!(logprobs["tokens"], json!(["a", "b", "c", "a", "b", "c", "<|end|>"]));
        assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3, 4, 5, 6]));
        let of = |id: u32| json!(logprob(id));
        let own = [of(98), of(99), of(97), of(98), of(99), of(fake::END)];
        assert_eq!(logprobs["token_logprobs"][0], Value::Null, "nothing comes before the first");
        assert_eq!(logprobs["token_logprobs"].as_array().unwrap()[1..], own);
        assert_eq!(logprobs["top_logprobs"][0], Value::Null);
        assert_eq!(logprobs["top_logprobs"][1], json!({ "b": logprob(98), "c": logprob(99) }));
    }
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    server.wait_for_idle().await;
}

#[tokio::test]
async fn lm_eval_gets_what_it_sums_up() {
    let server = Server::start();
    // As lm-eval's local-completions asks: contexts with continuations, as lists of tokens.
    let body = json!({ "model": "echo", "prompt": [[97, 98, 99, 100], [101, 102]], "max_tokens": 1,
                       "temperature": 0, "seed": 1234, "logprobs": 1, "echo": true });
    let answer = server.post(COMPLETIONS, &body).await.ok();
    for (index, (context_len, tokens)) in [(2, vec![99, 100]), (1, vec![102])].iter().enumerate() {
        let logprobs = &answer["choices"][index]["logprobs"];
        let token_logprobs = logprobs["token_logprobs"].as_array().unwrap();
        let continuation = &token_logprobs[*context_len..token_logprobs.len() - 1];
        let expected: Vec<Value> = tokens.iter().map(|&id| json!(logprob(id))).collect();
        assert_eq!(continuation, expected);
        for place in *context_len..token_logprobs.len() - 1 {
            let top = logprobs["top_logprobs"][place].as_object().unwrap();
            let best = top.values().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
            assert_eq!(token_logprobs[place], json!(best), "the greedy token");
        }
    }
}

#[tokio::test]
async fn nothing_is_generated_where_only_the_prompt_is_asked_about() {
    let server = Server::start();
    let more = json!({ "echo": true, "logprobs": 0, "max_tokens": 0 });
    let answer = complete(&server, more).await.ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("abc"), &json!("length")));
    let own = json!([null, logprob(98), logprob(99)]);
    assert_eq!(choice["logprobs"]["token_logprobs"], own);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    let answer = complete(&server, json!({ "echo": true, "max_tokens": 0 })).await.ok();
    assert_eq!(answer["choices"][0]["text"], "abc");
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    let refused = complete(&server, json!({ "max_tokens": 0 })).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "max_tokens");
    server.wait_for_idle().await;
}

#[tokio::test]
async fn streams_begin_with_the_prompt_that_they_echo() {
    let server = Server::start();
    let more = json!({ "echo": true, "logprobs": 1, "n": 2, "stream": true,
                       "return_token_ids": true });
    let chunks = complete(&server, more).await.chunks();
    for index in 0..2 {
        let own: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        let text: String = own.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(text, "abcabc");
        assert_eq!(own[0]["logprobs"]["tokens"], json!(["a", "b", "c"]));
        assert_eq!(own[0]["prompt_token_ids"], json!([97, 98, 99]));
        assert!(own[1..].iter().all(|choice| choice.get("prompt_token_ids").is_none()));
        let column = |name: &str| -> Vec<Value> {
            let parts = own.iter().filter_map(|choice| choice["logprobs"][name].as_array());
            parts.flatten().cloned().collect()
        };
        assert_eq!(json!(column("text_offset")), json!([0, 1, 2, 3, 4, 5, 6]));
        let ids: Vec<Value> = own
            .iter()
            .filter_map(|choice| choice.get("token_ids")?.as_array())
            .flatten()
            .cloned()
            .collect();
        assert_eq!(json!(ids), json!([97, 98, 99, fake::END]));
    }
    server.wait_for_idle().await;
}

#[tokio::test]
async fn prompt_logprobs_are_by_token_id() {
    let server = Server::start();
    let answer = complete(&server, json!({ "prompt_logprobs": 1 })).await.ok();
    let at = |id: u32, text: &str| {
        let (logprob, rank) = (logprob(id), id + 1);
        json!({ "logprob": logprob, "rank": rank, "decoded_token": text })
    };
    let expected = json!([null, { "98": at(98, "b") }, { "99": at(99, "c") }]);
    assert_eq!(answer["choices"][0]["prompt_logprobs"], expected);
    assert_eq!(answer["choices"][0]["logprobs"], Value::Null);
    let body = json!({ "model": "echo", "messages": [{ "role": "user", "content": "a" }],
                       "prompt_logprobs": 0, "return_token_ids": true, "logprobs": true,
                       "return_tokens_as_token_ids": true });
    let answer = server.post(CHAT, &body).await.ok();
    assert_eq!(answer["prompt_token_ids"], json!([258, 97, 256, 259]));
    let logprobs = answer["prompt_logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 4);
    assert_eq!(logprobs[1]["97"]["logprob"], json!(logprob(97)));
    assert_eq!(answer["choices"][0]["token_ids"], json!([97, 256]));
    assert_eq!(answer["choices"][0]["logprobs"]["content"][0]["token"], "token_id:97");
}

#[tokio::test]
async fn chats_stream_ids_of_tokens() {
    let server = Server::start();
    let body = json!({ "model": "echo", "messages": [{ "role": "user", "content": "ab" }],
                       "return_token_ids": true, "stream": true });
    let chunks = server.post(CHAT, &body).await.chunks();
    assert_eq!(chunks[0]["prompt_token_ids"], json!([258, 97, 98, 256, 259]));
    assert!(chunks[1..].iter().all(|chunk| chunk.get("prompt_token_ids").is_none()));
    let ids = chunks.iter().filter_map(|chunk| chunk["choices"][0].get("token_ids")?.as_array());
    let ids: Vec<&Value> = ids.flatten().collect();
    assert_eq!(json!(ids), json!([97, 98, 256]));
}

#[tokio::test]
async fn an_answer_says_what_stopped_it_and_shows_it_if_asked() {
    let server = Server::start();
    for (stop, kept, reason) in [
        (json!({ "stop": ["zz", "b"] }), "ab", json!("b")),
        (json!({ "stop_token_ids": [98] }), "ab", json!(98)),
        (json!({}), "abc", Value::Null),
    ] {
        let answer = complete(&server, stop.clone()).await.ok();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(choice["stop_reason"], reason, "{stop}");
        let dropped = if reason.is_null() { "abc" } else { "a" };
        assert_eq!(choice["text"], dropped, "{stop}");
        let mut more = stop.clone();
        more["include_stop_str_in_output"] = true.into();
        let answer = complete(&server, more.clone()).await.ok();
        assert_eq!(answer["choices"][0]["text"], kept, "{stop}");
        more["stream"] = true.into();
        let chunks = complete(&server, more).await.chunks();
        let texts = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap());
        assert_eq!(texts.collect::<String>(), kept);
        assert_eq!(chunks.last().unwrap()["choices"][0]["stop_reason"], reason);
    }
    let more = json!({ "include_stop_str_in_output": true, "skip_special_tokens": false });
    let answer = complete(&server, more).await.ok();
    assert_eq!(answer["choices"][0]["text"], "abc<|end|>");
}

#[tokio::test]
async fn prompts_are_cut_from_the_left() {
    let server = Server::start();
    for (tokens, expected) in [(2, "bc"), (9, "abc"), (-1, "abc")] {
        let more = json!({ "truncate_prompt_tokens": tokens, "echo": true, "max_tokens": 0 });
        let answer = complete(&server, more).await.ok();
        assert_eq!(answer["choices"][0]["text"], expected);
        assert_eq!(answer["usage"]["prompt_tokens"], expected.len());
    }
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_by_name() {
    let server = Server::start();
    for (more, param) in [
        (json!({ "prompt_logprobs": -1 }), "prompt_logprobs"),
        (json!({ "prompt_logprobs": 21 }), "prompt_logprobs"),
        (json!({ "prompt_logprobs": 1, "stream": true }), "prompt_logprobs"),
        (json!({ "prompt_logprobs": true }), "prompt_logprobs"),
        (json!({ "logprobs": 21 }), "logprobs"),
        (json!({ "suffix": "x" }), "suffix"),
        (json!({ "best_of": 2 }), "best_of"),
        (json!({ "truncate_prompt_tokens": 0 }), "truncate_prompt_tokens"),
        (json!({ "spaces_between_special_tokens": false }), "spaces_between_special_tokens"),
        (json!({ "return_token_ids": 1 }), "return_token_ids"),
    ] {
        let reply = complete(&server, more.clone()).await;
        assert_eq!(reply.status, 400, "{more}");
        assert_eq!(reply.json()["error"]["param"], param, "{more}");
    }
}
