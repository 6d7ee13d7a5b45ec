//! Who gets in, and everything about a request but its body.

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::support::{Options, Reply, Server, post};

const CHAT: &str = "/v1/chat/completions";
const ADDRESSES: [(&str, &str); 11] = [
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/echo"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/metrics"),
    ("GET", "/load"),
    ("GET", "/version"),
    ("GET", "/no/such/address"),
];

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

fn error(reply: &Reply) -> Value {
    let error = reply.json()["error"].clone();
    let fields: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["message", "type", "param", "code"]);
    error
}

fn locked() -> Server {
    Server::with(Options { keys: vec!["sesame", "open"], ..Options::default() })
}

#[tokio::test]
async fn every_address_but_health_needs_a_key() {
    let server = locked();
    for (method, path) in ADDRESSES {
        for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "open")]]
        {
            let reply = server.send(request(method, path, headers)).await;
            assert_eq!(reply.status, 401, "{method} {path}");
            assert_eq!(error(&reply)["code"], "invalid_api_key");
            assert!(reply.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        }
        let key = [("authorization", "Bearer open")];
        let reply = server.send(request(method, path, &key)).await;
        assert_ne!(reply.status, 401, "{method} {path}");
    }
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn the_key_is_checked_before_the_body() {
    let server = locked();
    let endless = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, String>>());
    let request = Request::post(CHAT).body(endless).unwrap();
    assert_eq!(server.send(request).await.status, 401);
}

#[tokio::test]
async fn a_preflight_needs_no_key() {
    let server = locked();
    let headers = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-stainless-os"),
    ];
    let reply = server.send(request("OPTIONS", CHAT, &headers)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let allowed = reply.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("authorization") && allowed.contains("x-stainless-os"));
    assert!(reply.headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
}

#[tokio::test]
async fn errors_carry_the_headers_of_cors() {
    let server = locked();
    let origin = ("origin", "https://app.example");
    let key = ("authorization", "Bearer open");
    for (method, path, headers, status) in [
        ("POST", CHAT, vec![origin], 401),
        ("GET", "/nowhere", vec![origin, key], 404),
        ("GET", CHAT, vec![origin, key], 405),
        ("POST", CHAT, vec![origin, key], 415),
    ] {
        let reply = server.send(request(method, path, &headers)).await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
    }
}

#[tokio::test]
async fn origins_can_be_limited() {
    let server =
        Server::with(Options { origins: vec!["https://app.example"], ..Options::default() });
    let from = |origin| request("GET", "/version", &[("origin", origin)]);
    let reply = server.send(from("https://app.example")).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example");
    let reply = server.send(from("https://other.example")).await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn request_ids_are_given_back_or_made() {
    let server = locked();
    let id_of = |reply: &Reply| reply.headers["x-request-id"].to_str().unwrap().to_owned();
    let with_id = |id| request("GET", "/health", &[("x-request-id", id)]);
    assert_eq!(id_of(&server.send(with_id("abc-1")).await), "abc-1");
    let made = id_of(&server.get("/health").await);
    assert!(made.starts_with("req-"));
    assert_ne!(made, id_of(&server.get("/health").await));
    let too_long = "x".repeat(129);
    assert!(id_of(&server.send(with_id(&too_long)).await).starts_with("req-"));
    assert!(id_of(&server.send(with_id("a b")).await).starts_with("req-"));
    assert!(id_of(&server.get("/nowhere").await).starts_with("req-"));
}

#[tokio::test]
async fn addresses_and_methods_that_do_not_exist() {
    let server = Server::start();
    let reply = server.get("/v2/chat").await;
    assert_eq!(reply.status, 404);
    assert_eq!(error(&reply)["code"], "unknown_url");
    for (method, path, allowed) in [
        ("GET", CHAT, "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("DELETE", "/v1/models/echo", "GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
    ] {
        let reply = server.send(request(method, path, &[])).await;
        assert_eq!(reply.status, 405, "{method} {path}");
        assert_eq!(error(&reply)["code"], "method_not_allowed");
        assert_eq!(reply.headers["allow"], allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_must_be_json_of_bounded_length() {
    let server = Server::with(Options { max_body_bytes: 100, ..Options::default() });
    let body = json!({ "model": "echo", "prompt": "x" }).to_string();
    for (kind, status) in [
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (None, 415),
        (Some("application/json"), 200),
        (Some("Application/JSON; charset=utf-8"), 200),
        (Some("application/vnd.api+json"), 200),
    ] {
        let mut request = Request::post("/v1/completions");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let reply = server.send(request.body(Body::from(body.clone())).unwrap()).await;
        assert_eq!(reply.status, status, "{kind:?}");
    }
    let long = json!({ "model": "echo", "prompt": "x".repeat(100) });
    let reply = server.post("/v1/completions", &long).await;
    assert_eq!(reply.status, 413);
    assert_eq!(error(&reply)["code"], "request_too_large");
    // The same without a content-length.
    let parts = [Ok::<_, String>(vec![b' '; 90]), Ok(vec![b' '; 90])];
    let request = Request::post("/v1/completions").header("content-type", "application/json");
    let stream = Body::from_stream(futures_util::stream::iter(parts));
    let reply = server.send(request.body(stream).unwrap()).await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn bodies_of_several_megabytes_are_fine() {
    let server = Server::start();
    let text = "x".repeat(8 << 20);
    let body = json!({ "model": "echo", "messages": text });
    let reply = server.post(CHAT, &body).await;
    assert_eq!(reply.status, 400);
    let error = error(&reply);
    assert_eq!(error["code"], "context_length_exceeded");
    // With the marks of the template around it; no token has more than 13 bytes.
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("8388636 bytes") && message.contains("53248 bytes"), "{error}");
}

#[tokio::test]
async fn models_are_listed_under_all_their_names() {
    let server = Server::start();
    let list = server.get("/v1/models").await.ok();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["echo", "org/echo-1", "sines", "multilingual-e5-large"]);
    let card = server.get("/v1/models/org/echo-1").await.ok();
    let expected = json!({ "id": "org/echo-1", "object": "model", "created": 1_700_000_000,
                           "owned_by": "folio", "root": "echo", "parent": null,
                           "max_model_len": 4096 });
    assert_eq!(card, expected);
    assert_eq!(server.get("/v1/models/org%2Fecho-1").await.ok(), expected);
    let reply = server.get("/v1/models/%ff").await;
    assert_eq!((reply.status.as_u16(), error(&reply)["param"].as_str()), (400, Some("model")));
    let reply = server.get("/v1/models/gpt-4o").await;
    assert_eq!(reply.status, 404);
    assert_eq!(error(&reply)["code"], "model_not_found");
    let body = json!({ "model": "org/echo-1", "messages": "hi" });
    assert_eq!(server.post(CHAT, &body).await.ok()["model"], "org/echo-1");
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let server = Server::with(Options { max_queued_requests: 2, ..Options::default() });
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "forever", "n": 2 });
    let mut first = Box::pin(server.post(CHAT, &body));
    while server.gauges().num_running < 2 {
        assert!(futures_util::poll!(&mut first).is_pending());
        if server.pace.is_waiting() {
            server.pace.allow(1);
        }
        tokio::task::yield_now().await;
    }
    let mut second = Box::pin(server.post(CHAT, &body));
    while server.gauges().num_waiting < 2 {
        assert!(futures_util::poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
    }
    let reply = server.post(CHAT, &body).await;
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(error(&reply)["type"], "rate_limit_error");
    let seconds: u32 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1);
    server.pace.release();
    first.await.ok();
    second.await.ok();
    server.post(CHAT, &body).await.ok();
}

/// Whatever is read at the same time, only what waits in the engine counts.
#[tokio::test]
async fn requests_that_come_together_are_refused_by_the_engines_queue_alone() {
    let server = Server::with(Options { max_queued_requests: 2, ..Options::default() });
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "hi" });
    let mut replies: FuturesUnordered<_> = (0..12).map(|_| server.post(CHAT, &body)).collect();
    let mut num_taken = 0;
    while let Some(reply) = replies.next().await {
        if reply.status == 429 {
            let error = error(&reply);
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("are waiting and the limit is 2"), "{message}");
        } else {
            reply.ok();
            num_taken += 1;
        }
        // What was taken can only end once the steps go on.
        if replies.len() <= 8 {
            server.pace.release();
        }
    }
    assert!(num_taken >= 2, "{num_taken} were taken");
}

#[tokio::test]
async fn a_draining_server_finishes_and_takes_nothing_new() {
    let server = Server::start();
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "hi", "stream": true });
    let mut running = Box::pin(server.post(CHAT, &body));
    while !server.pace.is_waiting() {
        assert!(futures_util::poll!(&mut running).is_pending());
        tokio::task::yield_now().await;
    }
    server.app.lifecycle.drain();
    for (method, path) in ADDRESSES.iter().filter(|(method, _)| *method == "POST") {
        let reply = server.send(post(path, &body)).await;
        assert_eq!(reply.status, 503, "{method} {path}");
        assert_eq!(error(&reply)["code"], "shutting_down");
    }
    assert_eq!(server.get("/health").await.status, 503);
    assert_eq!(server.get("/metrics").await.status, 200);
    let mut drained = Box::pin(server.app.drained());
    assert!(futures_util::poll!(&mut drained).is_pending());
    server.pace.release();
    let chunks = running.await.chunks();
    let last = chunks.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    drained.await;
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    let server = Server::start();
    let body = json!({ "model": "echo", "messages": "hello", "stream": true });
    server.post(CHAT, &body).await.chunks();
    let body = json!({ "model": "sines", "input": ["a", "b"] });
    server.post("/v1/embeddings", &body).await.ok();
    server.wait_for_idle().await;
    let reply = server.get("/metrics").await;
    let headers: &HeaderMap = &reply.headers;
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = reply.text();
    let echo = r#"{engine="0",model_name="echo"}"#;
    for (name, value) in [
        ("vllm:num_requests_running", "0"),
        ("vllm:num_requests_waiting", "0"),
        ("vllm:kv_cache_usage_perc", "0"),
        ("vllm:num_preemptions_total", "0"),
        ("vllm:generation_tokens_total", "6"),
        ("vllm:time_to_first_token_seconds_count", "1"),
        ("vllm:inter_token_latency_seconds_count", "5"),
        ("vllm:request_time_per_output_token_seconds_count", "1"),
        ("vllm:e2e_request_latency_seconds_count", "1"),
        ("vllm:request_queue_time_seconds_count", "1"),
        ("vllm:request_prompt_tokens_sum", "8"),
        ("vllm:request_generation_tokens_sum", "6"),
        ("vllm:prefix_cache_queries_total", ""),
        ("vllm:prefix_cache_hits_total", "0"),
        ("vllm:iteration_tokens_total_count", ""),
    ] {
        let line = format!("\n{name}{echo} {value}");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    for line in [
        r#"vllm:request_success_total{engine="0",finished_reason="stop",model_name="echo"} 1"#,
        r#"vllm:request_success_total{engine="0",finished_reason="stop",model_name="sines"} 2"#,
        r#"vllm:request_prompt_tokens_sum{engine="0",model_name="sines"} 6"#,
        concat!(
            r#"vllm:cache_config_info{block_size="16",enable_prefix_caching="True","#,
            r#"engine="0",model_name="echo",num_cpu_blocks="0",num_gpu_blocks="1024"} 1"#
        ),
        "# TYPE vllm:iteration_tokens_total histogram",
        "# TYPE vllm:prompt_tokens_total counter",
        "# TYPE vllm:num_requests_running gauge",
        r#"vllm:time_to_first_token_seconds_bucket{engine="0",model_name="echo",le="0.001"}"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_version_is_the_programs() {
    let server = Server::start();
    let version = server.get("/version").await.ok();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

/// The clock is the test's: it jumps to the timeout when nothing else is left to do.
#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_given_up() {
    let server = Server::start();
    let half = futures_util::stream::iter([Ok::<_, String>("{\"model\":")]);
    let half = half.chain(futures_util::stream::pending());
    let request = Request::post(CHAT).header("content-type", "application/json");
    let reply = server.send(request.body(Body::from_stream(half)).unwrap()).await;
    assert_eq!(reply.status, 408);
    let error = error(&reply);
    assert_eq!(error["code"], "request_timeout");
    assert!(error["message"].as_str().unwrap().contains("60 seconds"), "{error}");
    assert_eq!(server.app.lifecycle.num_active(), 0);
}
