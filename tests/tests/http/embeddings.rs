//! `POST /v1/embeddings`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::fake;
use crate::support::{Options, Server};

const EMBEDDINGS: &str = "/v1/embeddings";

fn input(input: Value) -> Value {
    json!({ "model": "multilingual-e5-large", "input": input })
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}

/// The vectors of an answer, whose order must be that of the inputs.
fn vectors(answer: &Value) -> Vec<Vec<u32>> {
    let items = answer["data"].as_array().unwrap();
    let vector = |(index, item): (usize, &Value)| {
        assert_eq!(item["index"], index);
        assert_eq!(item["object"], "embedding");
        let values: Vec<f32> = serde_json::from_value(item["embedding"].clone()).unwrap();
        bits(&values)
    };
    items.iter().enumerate().map(vector).collect()
}

fn tokens(text: &str) -> Vec<u32> {
    let bytes = text.bytes().map(u32::from);
    [256].into_iter().chain(bytes).chain([257]).collect()
}

#[tokio::test]
async fn all_four_shapes_keep_their_order() {
    let server = Server::start();
    let of_text = |text: &str| bits(&fake::embedding(&tokens(text)));
    let of_tokens = |ids: &[u32]| bits(&fake::embedding(ids));
    for (shape, expected, num_tokens) in [
        (json!("one"), vec![of_text("one")], 5),
        (json!(["b", "aa", "b"]), vec![of_text("b"), of_text("aa"), of_text("b")], 10),
        (json!([5, 6, 7]), vec![of_tokens(&[5, 6, 7])], 3),
        (json!([[5], [6, 7]]), vec![of_tokens(&[5]), of_tokens(&[6, 7])], 3),
    ] {
        let answer = server.post(EMBEDDINGS, &input(shape)).await.ok();
        assert_eq!(vectors(&answer), expected);
        assert_eq!(answer["object"], "list");
        assert_eq!(answer["model"], "multilingual-e5-large");
        let usage = json!({ "prompt_tokens": num_tokens, "total_tokens": num_tokens });
        assert_eq!(answer["usage"], usage);
    }
}

#[tokio::test]
async fn a_full_batch_of_mixed_lengths_comes_back_in_order() {
    let server = Server::start();
    let texts: Vec<String> =
        (0..2048).map(|at| format!("{at} {}", "x".repeat(at * 37 % 500))).collect();
    let answer = server.post(EMBEDDINGS, &input(json!(texts))).await.ok();
    let expected: Vec<_> = texts.iter().map(|t| bits(&fake::embedding(&tokens(t)))).collect();
    assert_eq!(vectors(&answer), expected);
}

#[tokio::test]
async fn base64_is_exact() {
    let server = Server::start();
    let mut body = input(json!(["one", "two"]));
    body["encoding_format"] = "base64".into();
    let answer = server.post(EMBEDDINGS, &body).await.ok();
    for (item, text) in answer["data"].as_array().unwrap().iter().zip(["one", "two"]) {
        let bytes = STANDARD.decode(item["embedding"].as_str().unwrap()).unwrap();
        let expected: Vec<u8> =
            fake::embedding(&tokens(text)).iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(bytes, expected);
    }
}

#[tokio::test]
async fn the_longest_text_fits_and_one_more_token_does_not() {
    let server = Server::start();
    let longest = "x".repeat(510);
    let answer = server.post(EMBEDDINGS, &input(json!(longest))).await.ok();
    assert_eq!(answer["usage"]["prompt_tokens"], 512);
    let reply = server.post(EMBEDDINGS, &input(json!(format!("{longest}x")))).await;
    assert_eq!(reply.status, 400);
    let message = reply.json()["error"]["message"].to_string();
    assert!(message.contains("513") && message.contains("512"), "{message}");
}

#[tokio::test]
async fn the_models_own_dimensions_may_be_asked_for() {
    let server = Server::start();
    let mut body = input(json!("x"));
    body["dimensions"] = fake::HIDDEN_SIZE.into();
    body["user"] = "somebody".into();
    body["encoding_format"] = "float".into();
    server.post(EMBEDDINGS, &body).await.ok();
}

#[tokio::test]
async fn more_texts_than_the_queue_holds_are_refused_for_good() {
    let server = Server::with(Options { max_queued_requests: 3, ..Options::default() });
    let reply = server.post(EMBEDDINGS, &input(json!(vec!["x"; 4]))).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["param"], "input");
    server.post(EMBEDDINGS, &input(json!(vec!["x"; 3]))).await.ok();
}
