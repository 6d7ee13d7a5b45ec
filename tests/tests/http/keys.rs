//! Keys from a file: what each of them may do, and how much.

use std::time::Instant;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};

use crate::support::{Options, Reply, Server};

const CHAT: &str = "/v1/chat/completions";

const FILE: &str = r#"
[[key]]
name = "search"
key = "sk-key-of-the-search-team"
requests-per-minute = 2

[[key]]
name = "batch"
key = "sk-key-of-nightly-batches"
tokens-per-minute = 600
priority = 5
most-urgent-priority = 2

[[key]]
name = "ops"
key = "sk-key-of-the-operators"
admin = true
"#;

const SEARCH: &str = "sk-key-of-the-search-team";
const BATCH: &str = "sk-key-of-nightly-batches";
const OPS: &str = "sk-key-of-the-operators";

fn server() -> Server {
    Server::with(Options { key_file: Some(FILE), policy: "priority", ..Options::default() })
}

async fn ask(server: &Server, key: &str, path: &str, body: Option<&Value>) -> Reply {
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json");
    server.send(request.body(body).unwrap()).await
}

fn chat(text: &str) -> Value {
    json!({ "model": "echo", "messages": text })
}

fn header(reply: &Reply, name: &str) -> String {
    reply.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn only_administrators_look_at_the_server_itself() {
    let server = server();
    for path in ["/metrics", "/v1/engine/live"] {
        let reply = ask(&server, SEARCH, path, None).await;
        assert_eq!(reply.status, 403, "{path}");
        assert_eq!(reply.json()["error"]["code"], "permission_denied");
        assert_eq!(ask(&server, OPS, path, None).await.status, 200, "{path}");
        assert_eq!(server.get(path).await.status, 401, "{path}");
    }
    assert_eq!(ask(&server, SEARCH, "/v1/models", None).await.status, 200);
}

#[tokio::test]
async fn the_health_and_the_page_need_no_key_and_metrics_need_none_when_told_so() {
    use folio::app::MetricsAccess;
    let options = || Options { key_file: Some(FILE), ..Options::default() };
    let server = Server::with(options());
    for path in ["/health", "/health/live", "/health/ready", "/"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in ["/health/", "/health/live/", "//health", "/healthy", "/metrics/"] {
        assert_eq!(server.get(path).await.status, 401, "{path}");
    }
    let open = Server::with(Options { metrics: MetricsAccess::Open, ..options() });
    assert_eq!(open.get("/metrics").await.status, 200);
    assert_eq!(open.get("/version").await.status, 401);
}

#[tokio::test]
async fn requests_beyond_the_rate_are_told_when_to_come_back() {
    let server = server();
    for left in ["1", "0"] {
        let reply = ask(&server, SEARCH, CHAT, Some(&chat("hi"))).await;
        reply.ok();
        assert_eq!(header(&reply, "x-ratelimit-limit-requests"), "2");
        assert_eq!(header(&reply, "x-ratelimit-remaining-requests"), left);
        assert!(header(&reply, "x-ratelimit-reset-requests").ends_with('s'));
    }
    let refused = ask(&server, SEARCH, CHAT, Some(&chat("hi"))).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    let error = &refused.json()["error"];
    assert_eq!(error["code"], "rate_limit_exceeded");
    assert_eq!(error["type"], "rate_limit_error");
    // Two a minute: the next is there after half a minute at most.
    let seconds: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), "0");
    // Looking is not asking for work, and other keys have their own rates.
    assert_eq!(ask(&server, SEARCH, "/v1/models", None).await.status, 200);
    let other = ask(&server, OPS, CHAT, Some(&chat("hi"))).await;
    other.ok();
    assert!(!other.headers.contains_key("x-ratelimit-limit-requests"));
}

/// Tokens left of `limit` a minute after `num_used` of them, however long the test took.
fn check_left(reply: &Reply, (limit, num_used): (u64, u64), start: Instant) {
    let left: u64 = header(reply, "x-ratelimit-remaining-tokens").parse().unwrap();
    let regained = (start.elapsed().as_secs_f64() * limit as f64 / 60.0).ceil() as u64;
    let least = limit.saturating_sub(num_used);
    assert!((least..=least + regained).contains(&left), "{left} of {limit}, {num_used} used");
}

#[tokio::test]
async fn prompts_and_answers_count_as_the_usage_says() {
    let server = server();
    let start = Instant::now();
    let mut num_used = 0;
    for stream in [false, true] {
        let mut body = chat("what is counted, and when?");
        body["stream"] = stream.into();
        let mut expected = num_used;
        if stream {
            body["stream_options"] = json!({ "include_usage": true });
            let reply = ask(&server, BATCH, CHAT, Some(&body)).await;
            let chunks = reply.chunks();
            num_used += chunks.last().unwrap()["usage"]["total_tokens"].as_u64().unwrap();
            // At the head of a stream the prompt is paid for.
            expected += chunks.last().unwrap()["usage"]["prompt_tokens"].as_u64().unwrap();
            let left: u64 = header(&reply, "x-ratelimit-remaining-tokens").parse().unwrap();
            let regained = (start.elapsed().as_secs_f64() * 10.0).ceil() as u64;
            assert!(left <= 600 - expected + regained, "{left}");
        } else {
            let reply = ask(&server, BATCH, CHAT, Some(&body)).await;
            num_used += reply.ok()["usage"]["total_tokens"].as_u64().unwrap();
            check_left(&reply, (600, num_used), start);
        }
    }
    let body = json!({ "model": "sines", "input": ["one", "two"] });
    let reply = ask(&server, BATCH, "/v1/embeddings", Some(&body)).await;
    num_used += reply.ok()["usage"]["total_tokens"].as_u64().unwrap();
    check_left(&reply, (600, num_used), start);
}

#[tokio::test]
async fn a_prompt_beyond_the_rate_is_taken_once_and_paid_for_afterwards() {
    let server = server();
    let long = "x".repeat(2000);
    let body = json!({ "model": "sines", "input": [&long[..500], &long[..500], &long[..500]] });
    ask(&server, BATCH, "/v1/embeddings", Some(&body)).await.ok();
    let refused = ask(&server, BATCH, CHAT, Some(&chat("hi"))).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    // 1506 of 600 used: 907 tokens at 10 a second.
    let seconds: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((60..=91).contains(&seconds), "{seconds}");
    assert_eq!(header(&refused, "x-ratelimit-remaining-tokens"), "0");
}

#[tokio::test]
async fn a_key_bounds_the_priority() {
    let server = server();
    let with_priority = |priority: i64| {
        let mut body = chat("hi");
        body["priority"] = priority.into();
        body
    };
    let refused = ask(&server, BATCH, CHAT, Some(&with_priority(1))).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "priority");
    ask(&server, BATCH, CHAT, Some(&with_priority(2))).await.ok();
    ask(&server, SEARCH, CHAT, Some(&with_priority(-7))).await.ok();
    let mut body = json!({ "model": "sines", "input": "x", "priority": 1 });
    let refused = ask(&server, BATCH, "/v1/embeddings", Some(&body)).await;
    assert_eq!(refused.json()["error"]["param"], "priority");
    body["priority"] = 9.into();
    ask(&server, BATCH, "/v1/embeddings", Some(&body)).await.ok();
}

#[tokio::test]
async fn pages_elsewhere_may_read_the_rates() {
    let server = server();
    let request = Request::get("/health").header("origin", "https://app.example");
    let reply = server.send(request.body(Body::empty()).unwrap()).await;
    let exposed = header(&reply, "access-control-expose-headers");
    for name in ["retry-after", "x-request-id", "x-ratelimit-remaining-tokens"] {
        assert!(exposed.contains(name), "{name}: {exposed}");
    }
}
