//! `POST /v1/rerank` and `POST /v1/score`, by the cosine of an embedding model's vectors.

use serde_json::{Value, json};

use crate::fake;
use crate::support::{MAX_EMBED_LEN, Server};

/// What the fake model's vectors say of two texts.
fn cosine(a: &str, b: &str) -> f64 {
    let vector = |text: &str| {
        let bytes = text.bytes().map(u32::from);
        fake::embedding(&std::iter::once(256).chain(bytes).chain([257]).collect::<Vec<_>>())
    };
    vector(a).iter().zip(&vector(b)).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn assert_close(found: &Value, expected: f64) {
    let found = found.as_f64().expect("a number");
    assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
}

fn rerank(more: Value) -> Value {
    let mut body =
        json!({ "model": "sines", "query": "where", "documents": ["here", "now", "where"] });
    let Value::Object(more) = more else { panic!("an object is needed") };
    body.as_object_mut().unwrap().extend(more);
    body
}

#[tokio::test]
async fn documents_come_best_first_under_every_address() {
    let server = Server::start();
    let documents = ["here", "now", "where", "there", "now"];
    let mut expected: Vec<usize> = (0..documents.len()).collect();
    let score = |index: usize| cosine("where", documents[index]);
    expected.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
    assert_eq!(expected[0], 2, "nothing is closer to a text than itself");
    for path in ["/v1/rerank", "/v2/rerank", "/rerank"] {
        let answer = server.post(path, &rerank(json!({ "documents": documents }))).await.ok();
        let results = answer["results"].as_array().unwrap();
        let order: Vec<usize> =
            results.iter().map(|one| one["index"].as_u64().unwrap() as usize).collect();
        assert_eq!(order, expected, "equal documents keep their order");
        for (result, &index) in results.iter().zip(&order) {
            assert_close(&result["relevance_score"], score(index));
            assert_eq!(result["document"]["text"], documents[index]);
        }
        assert_eq!(answer["model"], "sines");
        assert!(answer["id"].as_str().unwrap().starts_with("rerank-"));
        // Each text with a token before and after it, the query once.
        assert_eq!(answer["usage"]["total_tokens"], 5 + 4 + 3 + 5 + 5 + 3 + 6 * 2);
    }
    server.wait_for_idle().await;
}

#[tokio::test]
async fn the_best_few_without_their_text() {
    let server = Server::start();
    let more = json!({ "top_n": 2, "return_documents": false,
                       "query": { "text": "where" },
                       "documents": ["now", { "text": "where" }, "x"] });
    let answer = server.post("/v1/rerank", &rerank(more)).await.ok();
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!(results[0]["index"], 1);
    assert_close(&results[0]["relevance_score"], 1.0);
    assert!(results[0].get("document").is_none());
    let all = server.post("/v1/rerank", &rerank(json!({ "top_n": 99 }))).await.ok();
    assert_eq!(all["results"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn pairs_are_scored_one_with_each_or_place_by_place() {
    let server = Server::start();
    for (path, first, second, pairs) in [
        ("/v1/score", json!("a"), json!("b"), vec![("a", "b")]),
        ("/score", json!("a"), json!(["b", "c"]), vec![("a", "b"), ("a", "c")]),
        ("/v1/score", json!(["a", "b"]), json!(["b", "c"]), vec![("a", "b"), ("b", "c")]),
        ("/v1/score", json!(["a"]), json!([{ "text": "b" }]), vec![("a", "b")]),
    ] {
        let body = json!({ "model": "sines", "text_1": first, "text_2": second });
        let answer = server.post(path, &body).await.ok();
        assert_eq!(answer["object"], "list");
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), pairs.len());
        for (index, (item, (a, b))) in data.iter().zip(pairs).enumerate() {
            assert_eq!((&item["index"], &item["object"]), (&json!(index), &json!("score")));
            assert_close(&item["score"], cosine(a, b));
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = Server::start();
    let long = "x".repeat(MAX_EMBED_LEN as usize);
    for (more, param) in [
        (json!({ "query": "" }), "query"),
        (json!({ "query": null }), "query"),
        (json!({ "query": 1 }), "query"),
        (json!({ "query": {} }), "query.text"),
        (json!({ "documents": [] }), "documents"),
        (json!({ "documents": "a" }), "documents"),
        (json!({ "documents": ["a", ""] }), "documents[1]"),
        (json!({ "documents": ["a", 3] }), "documents[1]"),
        (json!({ "documents": [{ "text": "a", "title": "b" }] }), "documents[0].title"),
        (json!({ "documents": [{ "text": 1 }] }), "documents[0].text"),
        (json!({ "documents": vec!["a"; 1025] }), "documents"),
        (json!({ "documents": ["a", long] }), "documents[1]"),
        (json!({ "top_n": 0 }), "top_n"),
        (json!({ "return_documents": 1 }), "return_documents"),
        (json!({ "max_chunks_per_doc": 10 }), "max_chunks_per_doc"),
        (json!({ "truncate_prompt_tokens": 5 }), "truncate_prompt_tokens"),
        (json!({ "model": "echo" }), "model"),
        (json!({ "priority": 1 }), "priority"),
        (json!({ "x": 1 }), "x"),
    ] {
        let reply = server.post("/v1/rerank", &rerank(more.clone())).await;
        assert_eq!(reply.status, 400, "{more}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param, "{more}");
    }
    for (first, second, param) in [
        (json!(["a", "b"]), json!("c"), "text_1"),
        (json!([]), json!("c"), "text_1"),
        (json!("a"), json!([]), "text_2"),
        (json!("a"), Value::Null, "text_2"),
    ] {
        let body = json!({ "model": "sines", "text_1": first, "text_2": second });
        let reply = server.post("/v1/score", &body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text());
        assert_eq!(reply.json()["error"]["param"], param, "{body}");
    }
    let reply = server.post("/v1/rerank", &rerank(json!({ "model": "none" }))).await;
    assert_eq!(reply.status, 404);
    server.wait_for_idle().await;
}
