//! What may wait, and what a client is told that may not.

use folio_engine::types::Protection;
use serde_json::{Value, json};

use crate::errors::{CHAT, COMPLETIONS, EMBEDDINGS};
use crate::support::{Options, Reply, Server, post, wait_until};

/// A completion whose prompt has `num_tokens` tokens.
fn prompt(num_tokens: usize) -> Value {
    json!({ "model": "echo", "prompt": "x".repeat(num_tokens), "max_tokens": 1 })
}

/// One seat, and room for 50 tokens to wait.
fn server() -> Server {
    let protection = Protection { max_queued_tokens: Some(50), ..Protection::default() };
    Server::with(Options { max_num_seqs: 1, protection, ..Options::default() })
}

fn seconds_to_wait(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 429, "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("queue_full"), &json!("rate_limit_error"))
    );
    reply.headers["retry-after"].to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_tokens_may_wait_and_no_more() {
    let server = server();
    server.pace.hold();
    // Longer than all that may wait, but nothing waits.
    let running = server.spawn(post(CHAT, &json!({ "model": "echo", "messages": "forever" })));
    wait_until("the step", || server.pace.is_waiting()).await;
    let long = server.spawn(post(COMPLETIONS, &prompt(60)));
    server.wait_for("the long one", |gauges| gauges.num_waiting_tokens == 60).await;
    let reply = server.post(COMPLETIONS, &prompt(1)).await;
    assert!((1..=600).contains(&seconds_to_wait(&reply)));
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    for number in ["60 tokens are waiting", "has 1 more", "limit is 50"] {
        assert!(message.contains(number), "{number}: {message}");
    }
    server.pace.release();
    running.await.unwrap().ok();
    long.await.unwrap().ok();
    server.wait_for_idle().await;
    server.pace.hold();
    let running = server.spawn(post(CHAT, &json!({ "model": "echo", "messages": "forever" })));
    wait_until("the step", || server.pace.is_waiting()).await;
    let first = server.spawn(post(COMPLETIONS, &prompt(30)));
    server.wait_for("the first", |gauges| gauges.num_waiting_tokens == 30).await;
    let second = server.spawn(post(COMPLETIONS, &prompt(20)));
    server.wait_for("the second", |gauges| gauges.num_waiting_tokens == 50).await;
    seconds_to_wait(&server.post(COMPLETIONS, &prompt(1)).await);
    // Choices share their prompt; texts to embed count like prompts, all together.
    let body = json!({ "model": "sines", "input": ["a", "b"] });
    seconds_to_wait(&server.post(EMBEDDINGS, &body).await);
    let metrics = server.get("/metrics").await;
    let line = r#"folio:num_tokens_waiting{engine="0",model_name="echo"} 50"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
    server.pace.release();
    for reply in [running, first, second] {
        reply.await.unwrap().ok();
    }
    server.wait_for_idle().await;
    server.post(COMPLETIONS, &prompt(1)).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_each_expected_wait_is_observed() {
    let server = server();
    for num_tokens in [1, 10, 50] {
        server.post(COMPLETIONS, &prompt(num_tokens)).await.ok();
    }
    let metrics = server.get("/metrics").await;
    let name = "folio:queue_wait_prediction_error_seconds";
    let line = format!("{name}_count{{engine=\"0\",model_name=\"echo\"}} 3");
    assert!(metrics.text().contains(&line), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_is_what_runs_and_waits() {
    let server = server();
    let idle = server.get("/load").await.ok();
    assert_eq!((&idle["server_load"], &idle["kv_cache_usage"]), (&json!(0), &json!(0.0)));
    server.pace.hold();
    let running = server.spawn(post(CHAT, &json!({ "model": "echo", "messages": "forever" })));
    wait_until("the step", || server.pace.is_waiting()).await;
    let waiting = server.spawn(post(COMPLETIONS, &prompt(30)));
    server.wait_for("the second", |gauges| gauges.num_waiting_tokens == 30).await;
    let load = server.get("/load").await.ok();
    assert_eq!(load["server_load"], 2);
    assert_eq!(
        (&load["num_requests_running"], &load["num_requests_waiting"]),
        (&json!(1), &json!(1))
    );
    assert!(load["kv_cache_usage"].as_f64().unwrap() > 0.0, "{load}");
    server.pace.release();
    running.await.unwrap().ok();
    waiting.await.unwrap().ok();
}
