//! A client of an OpenAI-compatible server: plain HTTP/1.1, one connection a request, nothing
//! retried. Dropping a future closes its connection.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Knows where the server is.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As one JSON object.
    Whole,
    /// As server-sent events.
    Stream,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    events: Vec<Value>,
}

/// A stream whose head has arrived.
#[derive(Debug)]
pub struct OpenStream {
    response: Response<Incoming>,
    connection: Connection,
}

/// Ends with what it belongs to.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// A client of the server at `address`, a host and a port.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned() }
    }

    /// The text at `path`.
    pub async fn get(&self, path: &str) -> Result<String> {
        let (response, _connection) = self.send(Method::GET, path, Bytes::new()).await?;
        let bytes = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.to_vec())?)
    }

    /// Sends `body` and reads the answer to its end.
    pub async fn post(&self, path: &str, body: &Value, reading: Reading) -> Result<Answer> {
        let stream = self.open(path, body).await?;
        match reading {
            Reading::Stream => Ok(stream.read(Instant::now()).await?.0),
            Reading::Whole => {
                let bytes = stream.response.into_body().collect().await?.to_bytes();
                Ok(Answer { events: vec![serde_json::from_slice(&bytes)?] })
            }
        }
    }

    /// Sends `body` and waits for the head of the answer, which must be a success.
    pub async fn open(&self, path: &str, body: &Value) -> Result<OpenStream> {
        let (response, connection) = self.send(Method::POST, path, body.to_string().into()).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let bytes = response.into_body().collect().await?.to_bytes();
            anyhow::bail!("{path}: {status}: {}", String::from_utf8_lossy(&bytes));
        }
        Ok(OpenStream { response, connection })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Connection)> {
        let stream = TcpStream::connect(&self.address).await.context("connecting")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection(tokio::spawn(async move {
            // What goes wrong here shows where the answer is read.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.address)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        Ok((sender.send_request(request).await?, connection))
    }
}

impl OpenStream {
    /// Reads all events. Also returns when the first text came, from `began` on.
    pub async fn read(self, began: Instant) -> Result<(Answer, Duration)> {
        let Self { response, connection: _connection } = self;
        let mut body = response.into_body();
        let (mut text, mut first) = (String::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.context("the stream was cut")?;
            let Some(data) = frame.data_ref() else { continue };
            text.push_str(std::str::from_utf8(data)?);
            // The first chunk of a chat tells only the role.
            if first.is_none() && text.matches("data: ").count() > 1 {
                first = Some(began.elapsed());
            }
        }
        let events = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        let mut events: Vec<_> = events.collect();
        let last = events.pop();
        ensure!(last == Some("[DONE]"), "the stream ends with {last:?}");
        let events = events.into_iter().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((Answer { events }, first.unwrap_or_else(|| began.elapsed())))
    }
}

impl Answer {
    /// Whether it is an answer, each choice with its end, and not an error.
    pub fn check(&self) -> Result<()> {
        let error = self.events.iter().find(|event| event.get("error").is_some());
        ensure!(error.is_none(), "{error:?}");
        let is_embedding = self.events.iter().any(|event| event["object"] == "list");
        let choices = self.events.iter().filter_map(|event| event["choices"].as_array()).flatten();
        let has_end = choices.into_iter().any(|choice| !choice["finish_reason"].is_null());
        ensure!(is_embedding || has_end, "an answer without an end: {:?}", self.events.last());
        Ok(())
    }

    /// The text of the first choice of a chat.
    pub fn text(&self) -> Result<String> {
        self.check()?;
        let pieces = self.events.iter().filter_map(|event| {
            let choice = event["choices"].get(0)?;
            choice["message"]["content"].as_str().or_else(|| choice["delta"]["content"].as_str())
        });
        Ok(pieces.collect())
    }
}
