//! How long a request may take: the header, the field, the server's limit, and what is computed.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use folio_engine::types::Nanos;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::errors::{CHAT, COMPLETIONS, EMBEDDINGS, base, check};
use crate::support::{Options, Reply, Server, post, wait_until};

/// Seconds: enough for anything here, and far too few.
const LONG: f64 = 1000.0;
const SHORT: f64 = 0.001;

fn with_header(path: &str, timeout_ms: &str, body: &Value) -> Request<Body> {
    let request = Request::post(path)
        .header("content-type", "application/json")
        .header("x-request-timeout-ms", timeout_ms);
    request.body(Body::from(body.to_string())).unwrap()
}

fn with(path: &str, fields: &Value) -> Value {
    let mut body = base(path);
    body.extend(fields.as_object().unwrap().clone());
    body.into()
}

fn assert_expired(reply: &Reply, message: &str) {
    assert_eq!(reply.status, 504, "{}", reply.text());
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("deadline_exceeded"), &json!("server_error"))
    );
    assert!(error["message"].as_str().unwrap().contains(message), "{error}");
}

/// A server with one seat, which a request without end has taken; the step waits to be allowed.
async fn occupied() -> (Server, JoinHandle<Reply>) {
    let server = Server::with(Options { max_num_seqs: 1, ..Options::default() });
    server.pace.hold();
    let body = with(CHAT, &json!({ "messages": "forever" }));
    let running = server.spawn(post(CHAT, &body));
    wait_until("the step", || server.pace.is_waiting()).await;
    (server, running)
}

/// Waits until the engine's clock has gone on by a little more than the short timeout.
async fn let_the_deadline_pass(server: &Server) {
    let engine = &server.app.service.engine;
    let passed = engine.now() + Nanos(5_000_000);
    wait_until("a few milliseconds", || engine.now() > passed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_expires_in_the_queue_costs_no_step() {
    let (server, running) = occupied().await;
    let waiting = [
        (CHAT, "", json!({ "timeout": SHORT })),
        (COMPLETIONS, "1", json!({})),
        (COMPLETIONS, "1", json!({ "timeout": LONG, "n": 2 })),
        (CHAT, "1000000", json!({ "timeout": SHORT })),
        (EMBEDDINGS, "1", json!({ "input": ["a", "b", "c"] })),
        (EMBEDDINGS, "", json!({ "timeout": SHORT })),
    ];
    let mut replies = Vec::new();
    for (path, header, fields) in &waiting {
        let body = with(path, fields);
        let request = match *header {
            "" => post(path, &body),
            timeout => with_header(path, timeout, &body),
        };
        replies.push(server.spawn(request));
    }
    // Three texts and two choices: nine sequences wait beside the one that runs.
    server.wait_for("all in the queue", |gauges| gauges.num_waiting == 9).await;
    let_the_deadline_pass(&server).await;
    server.pace.release();
    for reply in replies {
        assert_expired(&reply.await.unwrap(), "while the request waited; nothing was computed");
    }
    let usage = running.await.unwrap().ok()["usage"].clone();
    server.wait_for_idle().await;
    let totals = server.gauges().totals;
    assert_eq!(usage["prompt_tokens"], totals.num_prefill_tokens, "of the one that ran");
    assert_eq!((totals.queue.num_expired_waiting, totals.queue.num_expired_running), (9, 0));
    let metrics = server.get("/metrics").await;
    let line = r#"folio:deadline_exceeded_total{engine="0",model_name="echo",stage="waiting"} 9"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

#[tokio::test]
async fn a_request_that_expires_while_it_runs_is_ended_and_gives_up_its_blocks() {
    let server = Server::start();
    let body = with(CHAT, &json!({ "messages": "forever", "timeout": 0.5, "max_tokens": 4000 }));
    server.pace.hold();
    let reply = server.post(CHAT, &body).await_with(&server).await;
    assert_expired(&reply, "before the answer was complete");
    server.wait_for_idle().await;
    let queue = server.gauges().totals.queue;
    assert_eq!((queue.num_expired_waiting, queue.num_expired_running), (0, 1));
}

#[tokio::test]
async fn a_stream_that_expires_ends_with_an_error_event() {
    let server = Server::start();
    let fields = json!({ "messages": "forever", "timeout": 0.5, "stream": true });
    server.pace.hold();
    let reply = server.post(CHAT, &with(CHAT, &fields)).await_with(&server).await;
    let events = reply.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let error: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    server.wait_for_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stands_still_holds_no_client_past_its_deadline() {
    let (server, running) = occupied().await;
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let reply = server.post(path, &with(path, &json!({ "timeout": SHORT }))).await;
        assert_expired(&reply, "the engine has not ended a step since");
    }
    server.pace.release();
    running.await.unwrap().ok();
    server.wait_for_idle().await;
}

#[tokio::test]
async fn timeouts_that_make_no_sense_are_refused_by_name() {
    let server = Server::start();
    let paths = [CHAT, COMPLETIONS, EMBEDDINGS, "/tokenize", "/detokenize"];
    for path in paths {
        for timeout in ["", "0", "-5", "1.5", "1e3", "soon", "86400001", "99999999999999999999"] {
            let reply = server.send(with_header(path, timeout, &json!({}))).await;
            let param = json!("X-Request-Timeout-Ms");
            check(&reply, (400, &param, "invalid_value"), &format!("{path} {timeout:?}"));
        }
    }
    for path in &paths[..3] {
        for (timeout, code) in [
            (json!(0), "invalid_value"),
            (json!(-1), "invalid_value"),
            (json!(86401), "invalid_value"),
            (json!("1"), "invalid_type"),
            (json!([1]), "invalid_type"),
        ] {
            let reply = server.post(path, &with(path, &json!({ "timeout": timeout }))).await;
            check(&reply, (400, &json!("timeout"), code), &format!("{path} {timeout}"));
        }
        server.post(path, &with(path, &json!({ "timeout": 86400 }))).await.ok();
        server.post(path, &with(path, &json!({ "timeout": null }))).await.ok();
        server.send(with_header(path, "86400000", &base(path).into())).await.ok();
    }
}

#[tokio::test]
async fn the_server_says_how_long_a_request_may_take() {
    let max_timeout = Some(Duration::from_millis(50));
    let server = Server::with(Options { max_timeout, ..Options::default() });
    for path in [CHAT, COMPLETIONS, EMBEDDINGS] {
        let reply = server.post(path, &with(path, &json!({ "timeout": 0.06 }))).await;
        check(&reply, (400, &json!("timeout"), "invalid_value"), path);
        assert!(reply.text().contains("at most 0.05 s"), "{}", reply.text());
        server.send(with_header(path, "49", &base(path).into())).await;
    }
    server.pace.hold();
    let running = server.spawn(post(CHAT, &with(CHAT, &json!({ "messages": "forever" }))));
    let engine = &server.app.service.engine;
    let passed = engine.now() + Nanos(60_000_000);
    wait_until("the longest time", || engine.now() > passed).await;
    server.pace.release();
    assert_expired(&running.await.unwrap(), "the deadline passed");
}

/// Lets the deadline of half a second of a request pass before its second step ends.
trait Expire: Future<Output = Reply> + Sized {
    async fn await_with(self, server: &Server) -> Self::Output {
        let (reply, ()) = tokio::join!(self, async {
            server.wait_for("a step", |gauges| gauges.num_running == 1).await;
            server.pace.allow(1);
            let engine = &server.app.service.engine;
            let passed = engine.now() + Nanos(600_000_000);
            wait_until("the deadline", || engine.now() > passed).await;
            server.pace.release();
        });
        reply
    }
}

impl<F: Future<Output = Reply>> Expire for F {}
