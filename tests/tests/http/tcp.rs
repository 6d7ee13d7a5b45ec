//! Over real sockets: many clients at once, clients that leave, clients that read slowly.

use std::net::SocketAddr;
use std::sync::Arc;

use folio::app::serve;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::fake;
use crate::support::{MAX_CHAT_LEN, Options, Server, events_in, wait_until};

const CHAT: &str = "/v1/chat/completions";

async fn listen(server: &Server) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::clone(&server.app)));
    address
}

/// Sends a request and leaves the answer to be read.
async fn open(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// Reads an answer to its end: status and body, chunked or not.
async fn read(stream: &mut TcpStream) -> (u16, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("the end of the head");
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = &bytes[end + 4..];
    let body =
        if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_vec() };
    (status, String::from_utf8(body).unwrap())
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a chunk's length");
        let length = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + length]);
        bytes = &bytes[end + 4 + length..];
    }
}

pub(crate) async fn exchange(address: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    read(&mut open(address, path, body).await).await
}

/// Text of the first choice of a stream.
fn streamed_text(body: &str) -> String {
    let events = events_in(body);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{body}");
    events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str::<Value>(event).unwrap())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_chat_and_embed_at_once() {
    let server = Server::start();
    let address = listen(&server).await;
    let mut clients = JoinSet::new();
    for number in 0..64usize {
        clients.spawn(async move {
            let said = format!("client {number}: {}", "日本".repeat(number));
            let chat = json!({ "model": "echo", "messages": said, "stream": number % 4 == 1 });
            match number % 4 {
                0 => {
                    let (status, body) = exchange(address, CHAT, &chat).await;
                    assert_eq!(status, 200, "{body}");
                    let answer: Value = serde_json::from_str(&body).unwrap();
                    assert_eq!(answer["choices"][0]["message"]["content"], said);
                }
                1 => {
                    let (status, body) = exchange(address, CHAT, &chat).await;
                    assert_eq!(status, 200, "{body}");
                    assert_eq!(streamed_text(&body), said);
                }
                2 => {
                    let texts: Vec<String> = (0..number).map(|at| "x".repeat(at + 1)).collect();
                    let body = json!({ "model": "sines", "input": texts });
                    let (status, body) = exchange(address, "/v1/embeddings", &body).await;
                    assert_eq!(status, 200, "{body}");
                    let answer: Value = serde_json::from_str(&body).unwrap();
                    for (at, item) in answer["data"].as_array().unwrap().iter().enumerate() {
                        let tokens: Vec<u32> = [256]
                            .into_iter()
                            .chain(std::iter::repeat_n(u32::from(b'x'), at + 1))
                            .chain([257])
                            .collect();
                        let vector: Vec<f32> =
                            serde_json::from_value(item["embedding"].clone()).unwrap();
                        assert_eq!(vector, fake::embedding(&tokens));
                    }
                }
                _ => {
                    let body = json!({ "model": "echo", "prompt": ["forever", said], "n": 2,
                                       "max_tokens": 8 + number });
                    let (status, body) = exchange(address, "/v1/completions", &body).await;
                    assert_eq!(status, 200, "{body}");
                    let answer: Value = serde_json::from_str(&body).unwrap();
                    let expected = "a".repeat(8 + number);
                    assert_eq!(answer["choices"][1]["text"], expected);
                }
            }
        });
    }
    clients.join_all().await;
    server.wait_for_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_a_stream_frees_its_blocks_within_a_step() {
    let server = Server::start();
    let address = listen(&server).await;
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "forever", "n": 3, "stream": true });
    let client = open(address, CHAT, &body).await;
    // Steps go on until the client has seen text of the stream.
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\"content\":\"a\"") {
        if server.pace.is_waiting() {
            server.pace.allow(1);
        }
        let mut buffer = [0; 4096];
        match client.try_read(&mut buffer) {
            Ok(num) => seen.extend_from_slice(&buffer[..num]),
            Err(_) => tokio::task::yield_now().await,
        }
    }
    assert!(server.gauges().num_used_blocks > 0);
    drop(client);
    let lifecycle = &server.app.lifecycle;
    wait_until("the server to notice", || lifecycle.num_active() == 0).await;
    // At most the step that is under way ends; none begins.
    let num_steps = server.gauges().totals.num_steps;
    server.pace.allow(1);
    server.wait_for_idle().await;
    assert!(server.gauges().totals.num_steps <= num_steps + 1);
    let metrics = server.get("/metrics").await;
    let aborted =
        r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="echo"} 3"#;
    assert!(metrics.text().contains(aborted), "{}", metrics.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_a_plain_request_stops_it_too() {
    let server = Server::start();
    let address = listen(&server).await;
    server.pace.hold();
    for (path, body) in [
        (CHAT, json!({ "model": "echo", "messages": "forever", "n": 2 })),
        ("/v1/embeddings", json!({ "model": "sines", "input": vec!["x"; 100] })),
    ] {
        let client = open(address, path, &body).await;
        wait_until("the work to begin", || server.pace.is_waiting()).await;
        drop(client);
        let lifecycle = &server.app.lifecycle;
        wait_until("the server to notice", || lifecycle.num_active() == 0).await;
        server.pace.allow(1);
        server.wait_for_idle().await;
    }
    assert!(server.gauges().totals.num_generated_tokens <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_slowly_slows_nobody_and_loses_nothing() {
    let server = Server::with(Options { num_blocks: 2 * 1024 + 1, ..Options::default() });
    let address = listen(&server).await;
    // More than sockets buffer: some hundred bytes for each token.
    let body = json!({ "model": "echo", "messages": "forever", "n": 8, "stream": true,
                       "logprobs": true, "top_logprobs": 10 });
    let mut slow = open(address, CHAT, &body).await;
    wait_until("the slow client's work", || server.gauges().totals.num_generated_tokens > 0).await;
    for number in 0..8 {
        let said = format!("quick {number}");
        let body = json!({ "model": "echo", "messages": said, "stream": true });
        let (status, body) = exchange(address, CHAT, &body).await;
        assert_eq!(status, 200);
        assert_eq!(streamed_text(&body), said);
    }
    // The engine is done with the slow client before it has read anything.
    server.wait_for_idle().await;
    let (status, body) = read(&mut slow).await;
    assert_eq!(status, 200);
    let mut lengths = [0; 8];
    let mut num_logprobs = 0;
    let events = events_in(&body);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    for event in &events[..events.len() - 1] {
        let chunk: Value = serde_json::from_str(event).unwrap();
        let choice = &chunk["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap_or("");
        lengths[choice["index"].as_u64().unwrap() as usize] += text.len();
        num_logprobs += choice["logprobs"]["content"].as_array().map_or(0, Vec::len);
    }
    // The prompt: <|user|>, seven letters, <|end|>, <|assistant|>.
    let expected = MAX_CHAT_LEN as usize - 10;
    assert_eq!(lengths, [expected; 8]);
    assert_eq!(num_logprobs, 8 * expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_many_requests_and_survives_errors() {
    let server = Server::start();
    let address = listen(&server).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for (path, expected) in [("/health", "200"), ("/nowhere", "404"), ("/version", "200")] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = String::new();
        while !seen.ends_with('}') {
            let mut buffer = [0; 1024];
            let num = stream.read(&mut buffer).await.unwrap();
            assert!(num > 0, "closed after {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..num]).unwrap());
        }
        assert_eq!(seen.split(' ').nth(1), Some(expected), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_ends_when_all_is_drained() {
    let server = Server::with(Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, Arc::clone(&server.app)));
    server.pace.hold();
    let body = json!({ "model": "echo", "messages": "last words", "stream": true });
    let mut client = open(address, CHAT, &body).await;
    wait_until("the work to begin", || server.pace.is_waiting()).await;
    server.app.lifecycle.drain();
    let (status, refused) = exchange(address, CHAT, &body).await;
    assert_eq!(status, 503, "{refused}");
    assert!(!serving.is_finished());
    server.pace.release();
    let (status, answer) = read(&mut client).await;
    assert_eq!(status, 200);
    assert_eq!(streamed_text(&answer), "last words");
    serving.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_stuck_do_not_keep_a_drained_server() {
    let server = Server::with(Options { num_blocks: 2 * 1024 + 1, ..Options::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(serve(listener, Arc::clone(&server.app)));
    let mut half_a_head = TcpStream::connect(address).await.unwrap();
    half_a_head.write_all(b"POST /v1/chat/completions HTT").await.unwrap();
    let mut half_a_body = TcpStream::connect(address).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\n\
                content-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"model\":";
    half_a_body.write_all(head.as_bytes()).await.unwrap();
    // More than sockets buffer, of which nothing is ever read.
    let body = json!({ "model": "echo", "messages": "forever", "n": 8, "stream": true,
                       "logprobs": true, "top_logprobs": 10 });
    let never_reads = open(address, CHAT, &body).await;
    wait_until("the work to begin", || server.gauges().totals.num_generated_tokens > 0).await;
    server.app.lifecycle.drain();
    serving.await.unwrap();
    drop((half_a_head, half_a_body, never_reads));
}
