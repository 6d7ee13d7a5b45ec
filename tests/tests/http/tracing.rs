//! What requests leave behind: lines in the log, and spans at a collector.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use folio::telemetry::{LogFormat, Tracer, subscriber};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::trace::v1::{
    Span, span::SpanKind, status::StatusCode as SpanStatus,
};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::{self, Options, Server};

const CHAT: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
/// Longest time that a test waits for what it knows will come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Begins to log in this thread, until the guard is dropped.
    fn start(format: LogFormat, level: &str) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = subscriber(format, level.parse().unwrap(), move || writer.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The access lines of a JSON log.
    fn lines(&self) -> Vec<Value> {
        let lines = self.text();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["target"] == "folio::access").collect()
    }
}

fn with_headers(path: &str, body: &Value, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = support::post(path, body);
    for &(name, value) in headers {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn each_request_is_one_line_with_what_it_cost() {
    let (log, _guard) = Log::start(LogFormat::Json, "info");
    let server = Server::start();
    let body = json!({ "model": "echo", "messages": "hello", "stream": true });
    server.send(with_headers(CHAT, &body, &[("x-request-id", "mine-1")])).await.chunks();
    let body = json!({ "model": "sines", "input": ["a", "b"] });
    server.post(EMBEDDINGS, &body).await.ok();
    server.get("/health").await.ok();
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "one a request, none for who only watches: {lines:?}");
    let chat = &lines[0];
    let expected = [
        ("level", json!("INFO")),
        ("request_id", json!("mine-1")),
        ("method", json!("POST")),
        ("path", json!(CHAT)),
        ("status", json!(200)),
        ("client", json!("default")),
        ("model", json!("echo")),
        ("prompt_tokens", json!(8)),
        ("cached_tokens", json!(0)),
        ("completion_tokens", json!(6)),
    ];
    for (name, value) in expected {
        assert_eq!(chat[name], value, "{name} of {chat}");
    }
    let time = |name: &str| chat[name].as_f64().unwrap_or_else(|| panic!("no {name}: {chat}"));
    assert!(time("queue_seconds") <= time("ttft_seconds"), "{chat}");
    assert!(time("ttft_seconds") <= time("seconds"), "{chat}");
    assert_eq!(
        (&lines[1]["prompt_tokens"], &lines[1]["completion_tokens"]),
        (&json!(6), &json!(0))
    );
    assert!(lines[1]["request_id"].as_str().unwrap().starts_with("req-"), "{}", lines[1]);
}

#[tokio::test]
async fn refusals_and_failures_are_logged_with_their_code_and_level() {
    let (log, _guard) = Log::start(LogFormat::Json, "info");
    let server = Server::start();
    let body = json!({ "model": "gpt-4o", "messages": "hi" });
    assert_eq!(server.post(CHAT, &body).await.status, 404);
    let body = json!({ "model": "echo", "messages": "explode" });
    assert_eq!(server.post(CHAT, &body).await.status, 500);
    let body = json!({ "model": "echo", "messages": "explode", "stream": true });
    assert_eq!(server.post(CHAT, &body).await.status, 200);
    let lines = log.lines();
    let seen = |line: &Value| ["level", "status", "error", "cause"].map(|name| line[name].clone());
    let seen: Vec<_> = lines.iter().map(seen).collect();
    let cause = json!("the numbers are not finite");
    assert_eq!(
        seen,
        [
            [json!("INFO"), json!(404), json!("model_not_found"), Value::Null],
            [json!("ERROR"), json!(500), json!("internal_error"), cause.clone()],
            [json!("ERROR"), json!(200), json!("internal_error"), cause],
        ]
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_a_line_too() {
    let (log, _guard) = Log::start(LogFormat::Json, "info");
    let server = Server::start();
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "forever" });
    let mut request = Box::pin(server.post(CHAT, &body));
    while !server.pace.is_waiting() {
        assert!(futures_util::poll!(&mut request).is_pending());
        tokio::task::yield_now().await;
    }
    drop(request);
    let lines = log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["status"], &lines[0]["model"]), (&json!(499), &json!("echo")));
}

#[tokio::test]
async fn neither_text_nor_keys_are_logged_at_any_level() {
    for format in [LogFormat::Text, LogFormat::Json] {
        let (log, _guard) = Log::start(format, "trace");
        let server = Server::with(Options { keys: vec!["sk-secret-1"], ..Options::default() });
        let body = json!({ "model": "echo", "messages": "my-prompt", "user": "my-user",
                           "cache_salt": "my-salt", "stop": ["my-stop"] });
        let key = ("authorization", "Bearer sk-secret-1");
        server.send(with_headers(CHAT, &body, &[key])).await.ok();
        let wrong = ("authorization", "Bearer sk-secret-2");
        assert_eq!(server.send(with_headers(CHAT, &body, &[wrong])).await.status, 401);
        let body = json!({ "model": "echo", "messages": "my-prompt", "temperature": "my-heat" });
        assert_eq!(server.send(with_headers(CHAT, &body, &[key])).await.status, 400);
        let text = log.text();
        assert!(text.contains("folio::access"), "{text}");
        for secret in ["my-", "sk-"] {
            assert!(!text.contains(secret), "{secret} is in\n{text}");
        }
    }
}

#[tokio::test]
async fn the_text_log_is_one_readable_line() {
    let (log, _guard) = Log::start(LogFormat::Text, "info,folio::access=debug");
    let server = Server::start();
    server.get("/version").await.ok();
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    for part in ["DEBUG", "folio::access", "method=\"GET\"", "path=\"/version\"", "status=200"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

/// A collector that answers each batch with a status of the test's.
struct Collector {
    endpoint: String,
    batches: mpsc::UnboundedReceiver<(HeaderMap, ExportTraceServiceRequest)>,
}

impl Collector {
    async fn start(status: StatusCode) -> Self {
        let (sender, batches) = mpsc::unbounded_channel();
        let router = Router::new().route("/v1/traces", post(take)).with_state((sender, status));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, batches }
    }

    /// The next spans that arrive.
    async fn next(&mut self) -> Vec<Span> {
        let next = tokio::time::timeout(PATIENCE, self.batches.recv()).await;
        let (headers, batch) = next.expect("spans in time").unwrap();
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let resources = batch.resource_spans;
        assert_eq!(resources.len(), 1);
        let resource = attributes(&resources[0].resource.as_ref().unwrap().attributes);
        assert_eq!(resource["service.name"], "folio");
        assert_eq!(resource["service.version"], json!(env!("CARGO_PKG_VERSION")));
        let scopes = resources.into_iter().flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }
}

type Taken = (mpsc::UnboundedSender<(HeaderMap, ExportTraceServiceRequest)>, StatusCode);

async fn take(
    State((batches, status)): State<Taken>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let batch = ExportTraceServiceRequest::decode(body).expect("a batch of spans");
    let _ = batches.send((headers, batch));
    status
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, Value> {
    let value = |any: &Any| match any {
        Any::StringValue(text) => json!(text),
        Any::IntValue(number) => json!(number),
        Any::DoubleValue(number) => json!(number),
        Any::ArrayValue(values) => {
            let texts = values.values.iter().map(|value| match &value.value {
                Some(Any::StringValue(text)) => json!(text),
                other => panic!("unexpected in an array: {other:?}"),
            });
            json!(texts.collect::<Vec<_>>())
        }
        other => panic!("unexpected attribute: {other:?}"),
    };
    let pairs = pairs.iter().map(|pair| {
        let any = pair.value.as_ref().and_then(|any| any.value.as_ref()).expect("a value");
        (pair.key.clone(), value(any))
    });
    pairs.collect()
}

fn traced(collector: &Collector) -> Server {
    Server::with(Options { traces: Some(collector.endpoint.clone()), ..Options::default() })
}

/// The root, and the spans under it by name.
fn tree(spans: &[Span]) -> (&Span, BTreeMap<&str, Vec<&Span>>) {
    let root = spans.iter().find(|span| span.name == "llm_request").expect("a root");
    let mut children: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.span_id != root.span_id) {
        assert_eq!(span.trace_id, root.trace_id);
        assert_eq!(span.parent_span_id, root.span_id, "{span:?}");
        assert!(span.start_time_unix_nano >= root.start_time_unix_nano, "{span:?} in {root:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano, "{span:?} in {root:?}");
        children.entry(span.name.as_str()).or_default().push(span);
    }
    (root, children)
}

#[tokio::test]
async fn a_request_is_one_tree_of_spans() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let server = traced(&collector);
    // A prompt of more than one step's tokens: 2048 and the rest.
    let said = "x".repeat(2500);
    let body = json!({ "model": "echo", "messages": said, "max_tokens": 4, "temperature": 0.5,
                       "top_p": 0.25, "stream": true });
    let request = with_headers(CHAT, &body, &[("x-request-id", "mine-2")]);
    server.send(request).await.chunks();
    let spans = collector.next().await;
    let (root, children) = tree(&spans);
    assert_eq!(root.kind, SpanKind::Server as i32);
    assert!(root.parent_span_id.is_empty());
    let named = attributes(&root.attributes);
    let expected = json!({
        "gen_ai.request.id": "mine-2",
        "gen_ai.response.model": "echo",
        "gen_ai.request.n": 1,
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.25,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.num_sequences": 1,
        "gen_ai.usage.prompt_tokens": 2503,
        "gen_ai.usage.cached_tokens": 0,
        "gen_ai.usage.completion_tokens": 4,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "url.path": CHAT,
        "folio.client": "default",
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&named[name], value, "{name}");
    }
    let latency = |name: &str| named[&format!("gen_ai.latency.{name}")].as_f64().unwrap();
    let (prefill, decode) = (latency("time_in_model_prefill"), latency("time_in_model_decode"));
    let parts = latency("time_in_queue") + prefill;
    assert!(parts <= latency("time_to_first_token"), "{named:?}");
    assert!((prefill + decode - latency("time_in_model_inference")).abs() < 1e-6, "{named:?}");
    assert!(latency("time_to_first_token") <= latency("e2e"), "{named:?}");
    let names: Vec<_> = children.keys().copied().collect();
    assert_eq!(names, ["decode", "prefill", "queue", "tokenize"]);
    let tokens = |span: &Span| attributes(&span.attributes)["folio.num_tokens"].as_i64().unwrap();
    let chunks: Vec<_> = children["prefill"].iter().map(|span| tokens(span)).collect();
    assert_eq!(chunks, [2048, 455], "each chunk with its tokens");
    assert_eq!(tokens(children["decode"][0]), 4);
    let end = |name: &str| children[name].last().unwrap().end_time_unix_nano;
    let begin = |name: &str| children[name][0].start_time_unix_nano;
    assert!(end("tokenize") <= begin("queue") && end("queue") <= begin("prefill"));
    assert_eq!(end("prefill"), begin("decode"));
}

#[tokio::test]
async fn each_choice_and_each_text_has_its_spans() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let server = traced(&collector);
    let body = json!({ "model": "echo", "messages": "hi", "n": 3 });
    server.post(CHAT, &body).await.ok();
    let spans = collector.next().await;
    let (root, children) = tree(&spans);
    let named = attributes(&root.attributes);
    assert_eq!(named["gen_ai.usage.num_sequences"], 3);
    assert_eq!(named["gen_ai.usage.completion_tokens"], 9);
    for name in ["queue", "prefill", "decode"] {
        let choices = children[name].iter();
        let choices = choices.map(|s| attributes(&s.attributes)["folio.choice.index"].clone());
        assert_eq!(choices.collect::<Vec<_>>(), [0, 1, 2], "{name}");
    }
    let body = json!({ "model": "sines", "input": ["a", "b"] });
    server.post(EMBEDDINGS, &body).await.ok();
    let spans = collector.next().await;
    let (root, children) = tree(&spans);
    assert_eq!(attributes(&root.attributes)["gen_ai.response.model"], "sines");
    assert_eq!(children["prefill"].len(), 2);
    assert!(!children.contains_key("decode"));
}

#[tokio::test]
async fn the_callers_trace_goes_on() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let server = traced(&collector);
    let body = json!({ "model": "echo", "messages": "hi" });
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = |flags| format!("00-{trace}-b7ad6b7169203331-{flags}");
    // Not sampled by the caller: no spans. The next request's are the first to arrive.
    let header = parent("00");
    server.send(with_headers(CHAT, &body, &[("traceparent", &header)])).await.ok();
    let header = parent("01");
    let headers = [("traceparent", header.as_str()), ("tracestate", "vendor=1")];
    server.send(with_headers(CHAT, &body, &headers)).await.ok();
    let spans = collector.next().await;
    assert_eq!(spans.iter().filter(|span| span.name == "llm_request").count(), 1);
    let (root, _) = tree(&spans);
    assert_eq!(root.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(root.parent_span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(root.trace_state, "vendor=1");
    // A header that is none begins a new trace.
    let headers = [("traceparent", "00-nonsense-01")];
    server.send(with_headers(CHAT, &body, &headers)).await.ok();
    let spans = collector.next().await;
    let (other, _) = tree(&spans);
    assert!(other.parent_span_id.is_empty());
    assert_ne!(other.trace_id, root.trace_id);
}

#[tokio::test]
async fn errors_and_clients_that_leave_are_traced() {
    let mut collector = Collector::start(StatusCode::OK).await;
    let server = traced(&collector);
    let body = json!({ "model": "echo", "messages": "explode" });
    assert_eq!(server.post(CHAT, &body).await.status, 500);
    let spans = collector.next().await;
    let (root, _) = tree(&spans);
    let status = root.status.as_ref().unwrap();
    assert_eq!(status.code, SpanStatus::Error as i32);
    assert_eq!(attributes(&root.attributes)["error.type"], "internal_error");
    let body = json!({ "model": "gpt-4o", "messages": "hi" });
    assert_eq!(server.post(CHAT, &body).await.status, 404);
    let spans = collector.next().await;
    assert_eq!(spans.len(), 1, "never work for the engine: {spans:?}");
    assert_eq!(attributes(&spans[0].attributes)["error.type"], "model_not_found");
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "forever" });
    let mut request = Box::pin(server.post(CHAT, &body));
    while !server.pace.is_waiting() {
        assert!(futures_util::poll!(&mut request).is_pending());
        tokio::task::yield_now().await;
    }
    drop(request);
    let spans = collector.next().await;
    let named = attributes(&tree(&spans).0.attributes);
    assert_eq!(named["http.response.status_code"], 499);
    assert_eq!(named["gen_ai.response.finish_reasons"], json!(["abort"]));
}

/// The value of the counter of lost spans for `reason`.
fn num_lost(server: &Server, reason: &str) -> u64 {
    let service = &server.app.service;
    let text = service.metrics.render(&service.engine, &service.policy).unwrap();
    let prefix = format!("folio:trace_spans_lost_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&prefix)).expect("the counter");
    value.parse().unwrap()
}

#[tokio::test]
async fn a_collector_that_refuses_or_is_not_there_costs_its_spans_and_nothing_else() {
    let mut refusing = Collector::start(StatusCode::BAD_REQUEST).await;
    let absent = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    for endpoint in [refusing.endpoint.clone(), absent] {
        let server = Server::with(Options { traces: Some(endpoint.clone()), ..Options::default() });
        let body = json!({ "model": "echo", "messages": "hi" });
        server.post(CHAT, &body).await.ok();
        // The root, tokenize, queue, prefill, decode.
        support::wait_until("the loss to count", || num_lost(&server, "not_taken") == 5).await;
        server.post(CHAT, &body).await.ok();
    }
    refusing.next().await;
}

/// Nobody answers: the queue fills up, requests go on, and what does not fit is counted.
#[tokio::test]
async fn a_collector_that_never_answers_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::with(Options { traces: Some(endpoint), ..Options::default() });
    let body = json!({ "model": "gpt-4o", "messages": "hi" });
    let mut num_requests = 0;
    while num_lost(&server, "queue_full") == 0 {
        assert_eq!(server.post(CHAT, &body).await.status, 404);
        num_requests += 1;
        assert!(num_requests < 20_000, "the queue has no end");
    }
    assert!(num_requests > 2048, "{num_requests}");
    drop(listener);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_is_refused() {
    let server = Server::start();
    for endpoint in ["localhost:4318", "https://collector.example"] {
        assert!(Tracer::start(endpoint, &server.app.service.metrics).is_err(), "{endpoint}");
    }
}
