//! What a client can hold: connections, heads, bodies, answers that it does not read. And what it
//! meets while the server begins or ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use folio::listen::{ConnectionLimits, Front, Socket};
use futures_util::StreamExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::support::{Options, Reply, Server, events_in, post, wait_until};

const CHAT: &str = "/v1/chat/completions";
const SHORT: Duration = Duration::from_millis(50);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// Limits that never pass by themselves.
fn patient() -> ConnectionLimits {
    ConnectionLimits {
        head_timeout: LONG,
        idle_timeout: LONG,
        stall_timeout: LONG,
        ..ConnectionLimits::default()
    }
}

async fn serve(front: Arc<Front>, limits: ConnectionLimits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Socket { listener, limits, tls: None }.serve(front));
    address
}

async fn start(connections: ConnectionLimits) -> (Server, SocketAddr) {
    let options = Options { connections, num_blocks: 2 * 1024 + 1, ..Options::default() };
    let server = Server::with(options);
    let limits = server.app.settings.connections.clone();
    let address = serve(Arc::new(Front::serving(&server.app)), limits).await;
    (server, address)
}

async fn send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").into_bytes()
}

/// Reads what comes until the server closes the connection.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is as good an end as any.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Asks for `path` on a connection that stays open; the answer ends with a brace.
async fn ask(stream: &mut TcpStream, path: &str) -> (u16, String) {
    stream.write_all(&get(path)).await.unwrap();
    let mut seen = String::new();
    while !seen.ends_with('}') {
        let mut buffer = [0; 1024];
        let num = stream.read(&mut buffer).await.unwrap();
        assert!(num > 0, "closed after {seen:?}");
        seen.push_str(std::str::from_utf8(&buffer[..num]).unwrap());
    }
    let status = seen.split(' ').nth(1).unwrap().parse().unwrap();
    (status, seen)
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let (server, address) = start(ConnectionLimits { head_timeout: SHORT, ..patient() }).await;
    for bytes in [&b""[..], b"P", b"POST /v1/chat/comp", b"GET / HTTP/1.1\r\nhost: x\r\n"] {
        assert_eq!(rest(send(address, bytes).await).await, "");
    }
    // The beginning of HTTP/2, and nothing more.
    rest(send(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await).await;
    drop(server);
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed() {
    let (server, address) = start(ConnectionLimits { idle_timeout: SHORT, ..patient() }).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "/health").await.0, 200);
    assert_eq!(rest(stream).await, "");
    drop(server);
}

#[tokio::test]
async fn heads_have_a_bounded_length_and_number_of_fields() {
    let limits = ConnectionLimits { max_head_bytes: 16 << 10, ..patient() };
    let (server, address) = start(limits).await;
    let long = "x".repeat(20 << 10);
    let many = "x-field: y\r\n".repeat(101);
    for head in [
        format!("GET /health HTTP/1.1\r\nhost: test\r\nx-long: {long}\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nhost: test\r\n{many}\r\n"),
    ] {
        let answer = rest(send(address, head.as_bytes()).await).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let head = format!("GET /{long} HTTP/1.1\r\nhost: test\r\n\r\n");
    let answer = rest(send(address, head.as_bytes()).await).await;
    assert!(["HTTP/1.1 414", "HTTP/1.1 431"].iter().any(|s| answer.starts_with(s)), "{answer}");
    drop(server);
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_may_ask_for_the_health() {
    let (server, address) = start(ConnectionLimits { max_connections: 1, ..patient() }).await;
    let mut only = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut only, "/version").await.0, 200);
    let refused = rest(send(address, &get("/version")).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("too_many_connections"), "{refused}");
    let health = rest(send(address, &get("/health/live")).await).await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert_eq!(ask(&mut only, "/version").await.0, 200, "the first one goes on");
    drop(only);
    // Its place is free as soon as the server has seen the end.
    loop {
        let mut next = TcpStream::connect(address).await.unwrap();
        if ask(&mut next, "/version").await.0 == 200 {
            break;
        }
    }
    drop(server);
}

/// Far more than sockets buffer.
fn endless() -> Value {
    json!({ "model": "echo", "messages": "forever", "n": 8, "stream": true,
            "logprobs": true, "top_logprobs": 10 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_is_cancelled() {
    let (server, address) = start(ConnectionLimits { stall_timeout: SHORT, ..patient() }).await;
    let body = endless().to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let stream = send(address, head.as_bytes()).await;
    wait_until("the work to begin", || server.gauges().totals.num_generated_tokens > 0).await;
    wait_until("the work to be let go", || server.app.lifecycle.num_active() == 0).await;
    server.wait_for_idle().await;
    drop(stream);
}

/// An HTTP/2 client without TLS.
async fn http_2(address: SocketAddr, window: u32) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

fn request(path: &str) -> axum::http::request::Builder {
    Request::builder().uri(format!("http://test{path}")).header("content-type", "application/json")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_only_the_stream_that_nobody_reads_is_cancelled() {
    let (server, address) = start(ConnectionLimits { stall_timeout: SHORT, ..patient() }).await;
    let client = http_2(address, 1000).await;
    let mut client = client.ready().await.unwrap();
    let post = || request(CHAT).method("POST").body(()).unwrap();
    // Another request on the same connection, whose body is not here yet.
    let (other, mut others_body) = client.send_request(post(), false).unwrap();
    let (response, mut body) = client.send_request(post(), false).unwrap();
    body.send_data(endless().to_string().into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    wait_until("the work to be let go", || server.app.lifecycle.num_active() == 0).await;
    others_body.send_data(r#"{"model":"echo","messages":"x"}"#.into(), true).unwrap();
    assert_eq!(other.await.unwrap().status(), 200);
    let mut body = response.into_body();
    let end = loop {
        match body.data().await {
            Some(Ok(data)) => body.flow_control().release_capacity(data.len()).unwrap(),
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    assert!(end.is_some(), "the stream is reset, not ended as if it were whole");
    drop(server);
}

#[tokio::test]
async fn http_2_bounds_streams_and_heads() {
    let limits = ConnectionLimits { max_streams: 3, max_head_bytes: 16 << 10, ..patient() };
    let (server, address) = start(limits).await;
    let mut client = http_2(address, 65_535).await.ready().await.unwrap();
    let long = request("/health").header("x-long", "x".repeat(20 << 10)).body(()).unwrap();
    let (response, _) = client.send_request(long, true).unwrap();
    match response.await {
        Ok(response) => assert_eq!(response.status(), 431),
        Err(error) => assert!(error.is_reset() || error.is_go_away(), "{error}"),
    }
    assert_eq!(client.current_max_send_streams(), 3);
    drop(server);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The client sees the answer, not a reset, though nobody reads what it sends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_before_the_body_is_not_followed_by_a_reset() {
    let (server, address) = start(patient()).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    // POST, http, /, from the static table: an address that takes no POST.
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &[0x83, 0x86, 0x84]));
    let mut stream = send(address, &bytes).await;
    let mut kinds = Vec::new();
    let mut has_answer = false;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let (kind, flags) = (head[3], head[4]);
        kinds.push(kind);
        if kind == DATA && flags & 1 == 1 && !has_answer {
            has_answer = true;
            // Only now the rest of the body, and a question to know when it was seen.
            stream.write_all(&frame(DATA, 0, 1, b"{}")).await.unwrap();
            stream.write_all(&frame(DATA, 1, 1, b"")).await.unwrap();
            stream.write_all(&frame(PING, 0, 0, b"question")).await.unwrap();
        }
        if kind == PING && payload == b"question" {
            break;
        }
    }
    assert!(has_answer && kinds.contains(&HEADERS), "{kinds:?}");
    assert!(!kinds.contains(&RESET), "{kinds:?}");
    drop(server);
}

/// Streams that are begun and given up at once, faster than the server can look at them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_resets_ends_its_connection_and_nothing_else() {
    let (server, address) = start(patient()).await;
    // Written at once: the preface, empty settings, then pairs of HEADERS and RST_STREAM.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // GET, http, /, from the static table.
    let headers = [0x82, 0x86, 0x84];
    for number in 0..20_000u32 {
        let stream = (2 * number + 1).to_be_bytes();
        bytes.extend([0, 0, headers.len() as u8, 0x01, 0x05]);
        bytes.extend(stream);
        bytes.extend(headers);
        bytes.extend([0, 0, 4, 0x03, 0]);
        bytes.extend(stream);
        bytes.extend(8u32.to_be_bytes());
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let mut other = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut other, "/health").await.0, 200);
    drop(server);
}

/// The clock is the test's: it jumps to the next time that anybody waits for.
#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_given_up() {
    let server = Server::start();
    let parts = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        Some((Ok::<_, String>(" "), ()))
    });
    let request = Request::post(CHAT).header("content-type", "application/json");
    let reply = server.send(request.body(Body::from_stream(parts)).unwrap()).await;
    assert_eq!(reply.status, 408, "{}", reply.text());
    let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("slower than 1024 bytes a second"), "{message}");
}

#[tokio::test]
async fn all_bodies_together_have_a_bound() {
    let server = Server::with(Options {
        max_body_bytes: 100 << 10,
        max_total_body_bytes: 100 << 10,
        ..Options::default()
    });
    let with_body = |body| {
        let request = Request::post("/v1/completions").header("content-type", "application/json");
        request.body(body).unwrap()
    };
    let spaces = " ".repeat(60 << 10);
    let begun = futures_util::stream::iter([Ok::<_, String>(spaces.clone())]);
    let begun = Body::from_stream(begun.chain(futures_util::stream::pending()));
    let mut first = Box::pin(server.send(with_body(begun)));
    assert!(futures_util::poll!(&mut first).is_pending());
    let whole = format!("{spaces}{}", json!({ "model": "echo", "prompt": "x" }));
    let refused: Reply = server.send(with_body(Body::from(whole.clone()))).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "no_room_for_body");
    assert!(refused.headers.contains_key("retry-after"));
    // A small one still has room, and the room comes back.
    server.post("/v1/completions", &json!({ "model": "echo", "prompt": "x" })).await.ok();
    drop(first);
    for _ in 0..3 {
        server.send(with_body(Body::from(whole.clone()))).await.ok();
    }
}

#[tokio::test]
async fn what_a_body_may_hold_is_bounded_in_number() {
    let server = Server::start();
    let message = json!({ "role": "user", "content": "x" });
    let part = json!({ "type": "text", "text": "x" });
    for (body, code, words) in [
        (
            json!({ "model": "echo", "messages": vec![message.clone(); 16_385] }),
            "invalid_value",
            "16385 messages, at most 16384",
        ),
        (
            json!({ "model": "echo",
                    "messages": [{ "role": "user", "content": vec![part; 4097] }] }),
            "invalid_value",
            "messages[0].content has 4097 parts, at most 4096",
        ),
        (json!({ "model": "echo", "messages": vec![0; 2_000_001] }), "too_many_values", "2000000"),
        // As text it is what a user says: too much of it, and no array is made of it.
        (
            json!({ "model": "echo", "messages": json!(vec![0; 2_000_001]).to_string() }),
            "context_length_exceeded",
            "4000",
        ),
    ] {
        let reply = server.post(CHAT, &body).await;
        let text = reply.text();
        assert_eq!(reply.status, 400, "{text}");
        assert_eq!(reply.json()["error"]["code"], code, "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test]
async fn while_the_models_load_the_server_lives_and_is_not_ready() {
    let front = Arc::new(Front::loading());
    let address = serve(Arc::clone(&front), patient()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, "/health/live").await.0, 200);
    for path in ["/health/ready", "/health", "/v1/models", "/"] {
        let (status, answer) = ask(&mut stream, path).await;
        assert_eq!(status, 503, "{path}");
        assert!(answer.contains("\"code\":\"loading\""), "{answer}");
    }
    let server = Server::start();
    front.open(&server.app);
    for path in ["/health/live", "/health/ready", "/v1/models"] {
        assert_eq!(ask(&mut stream, path).await.0, 200, "{path}");
    }
    let work = server.app.lifecycle.enter().unwrap();
    server.app.lifecycle.drain();
    assert_eq!(ask(&mut stream, "/health/live").await.0, 200);
    assert_eq!(ask(&mut stream, "/health/ready").await.0, 503);
    drop(work);
}

#[tokio::test]
async fn answers_that_are_cut_off_say_so() {
    let server = Server::start();
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "hi", "stream": true });
    let stream = server.router.clone().oneshot(post(CHAT, &body)).await.unwrap();
    assert_eq!(stream.status(), 200);
    let whole = json!({ "model": "echo", "messages": "hi" });
    let mut whole = Box::pin(server.post(CHAT, &whole));
    let texts = json!({ "model": "sines", "input": "hi" });
    let mut vector = Box::pin(server.post("/v1/embeddings", &texts));
    while server.app.lifecycle.num_active() < 3 || !server.pace.is_waiting() {
        assert!(futures_util::poll!(&mut whole).is_pending());
        assert!(futures_util::poll!(&mut vector).is_pending());
        tokio::task::yield_now().await;
    }
    server.app.lifecycle.drain();
    server.app.service.cut.cut();
    let text = stream.into_body().collect().await.unwrap().to_bytes();
    let mut events = events_in(std::str::from_utf8(&text).unwrap());
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let error: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "shutting_down");
    for reply in [whole.await, vector.await] {
        assert_eq!(reply.status, 503);
        assert_eq!(reply.json()["error"]["code"], "shutting_down");
    }
    server.app.drained().await;
}

#[tokio::test]
async fn a_preflight_allows_every_method_there_is() {
    let server = Server::with(Options { origins: vec!["https://a.example"], ..Options::default() });
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        let request = Request::options(CHAT)
            .header("origin", "https://a.example")
            .header("access-control-request-method", method);
        let reply = server.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.headers["access-control-allow-origin"], "https://a.example");
        let allowed = reply.headers["access-control-allow-methods"].to_str().unwrap();
        assert!(allowed.split(',').any(|one| one == method), "{method}: {allowed}");
    }
    let request = Request::options(CHAT)
        .header("origin", "https://b.example")
        .header("access-control-request-method", "POST");
    let reply = server.send(request.body(Body::empty()).unwrap()).await;
    assert!(!reply.headers.contains_key("access-control-allow-origin"));
}
