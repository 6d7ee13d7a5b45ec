//! Plain HTTP/1.1 with connections that are kept open: what a load needs and no more.
//!
//! Nothing is retried, except where the server had closed a kept connection before any of the
//! request was written. Dropping an [`Exchange`] before its end closes its connection.

use std::fmt;
use std::io;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::error::BenchError;
use super::sample::Failure;

/// A connection's bytes.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Opens a connection.
pub type Dial = dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Wire>>> + Send + Sync;

/// A client of one server.
pub struct Http {
    authority: String,
    base_path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    dial: Arc<Dial>,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// An answer whose head has arrived.
pub struct Exchange {
    /// Its head.
    pub status: StatusCode,
    body: Incoming,
    sender: Option<SendRequest<Full<Bytes>>>,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Http {
    /// A client of the server at `base_url`, as `http://127.0.0.1:8000`, which may have a path.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for what is no such URL.
    pub fn new(base_url: &str) -> Result<Self, BenchError> {
        let fail = |why: &str| BenchError::flag("--base-url", format!("{base_url}: {why}"));
        let uri: Uri = base_url.parse().map_err(|_| fail("not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(fail("https is not spoken; use http")),
            _ => return Err(fail("must begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| fail("has no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let port = authority.port_u16().unwrap_or(80);
        let dial = move || {
            let host = host.clone();
            async move {
                let stream = TcpStream::connect((host.as_str(), port)).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Wire>)
            }
            .boxed()
        };
        Ok(Self {
            authority: authority.to_string(),
            base_path: uri.path().trim_end_matches('/').to_owned(),
            headers: Vec::new(),
            dial: Arc::new(dial),
            idle: Arc::default(),
        })
    }

    /// A client whose connections `dial` opens.
    pub fn over(dial: Arc<Dial>) -> Self {
        Self {
            authority: "localhost".to_owned(),
            base_path: String::new(),
            headers: Vec::new(),
            dial,
            idle: Arc::default(),
        }
    }

    /// Sends `name: value` with every request.
    ///
    /// # Errors
    /// [`BenchError::Flag`] for what cannot be in a head.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, BenchError> {
        // The value may be a secret: only the name is shown.
        let fail = || BenchError::flag("--header", format!("{name}: not a header of HTTP"));
        let name: HeaderName = name.parse().map_err(|_| fail())?;
        let value: HeaderValue = value.parse().map_err(|_| fail())?;
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        Ok(self)
    }

    /// The text at `path`, which must be a success.
    ///
    /// # Errors
    /// Of kind `connect`, `http` and `cut`.
    pub async fn get(&self, path: &str) -> Result<String, Failure> {
        let exchange = self.send(Method::GET, path, Bytes::new(), None).await?;
        let (status, bytes) = (exchange.status, exchange.collect().await?);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if status.is_success() { Ok(text) } else { Err(refused(status, text)) }
    }

    /// Sends `body` as JSON, under the id `request_id` if there is one, and waits for the head of
    /// the answer.
    ///
    /// # Errors
    /// Of kind `connect` and `cut`. A refusal is an answer.
    pub async fn post(
        &self,
        path: &str,
        body: Bytes,
        request_id: Option<&str>,
    ) -> Result<Exchange, Failure> {
        self.send(Method::POST, path, body, request_id).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        request_id: Option<&str>,
    ) -> Result<Exchange, Failure> {
        let mut request = self.request(method, path, body, request_id)?;
        let kept = self.idle.lock().pop();
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.exchange(response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::new("cut", whole(error.error()))),
                },
            }
        }
        let wire = (self.dial)().await.map_err(|error| Failure::new("connect", error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(wire))
            .await
            .map_err(|error| Failure::new("connect", whole(&error)))?;
        tokio::spawn(async move {
            // What goes wrong here shows where the answer is read.
            let _ = connection.await;
        });
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| Failure::new("cut", whole(&error)))?;
        Ok(self.exchange(response, sender))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        request_id: Option<&str>,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let uri = format!("{}{path}", self.base_path);
        let mut request =
            Request::builder().method(method).uri(uri).header("host", &self.authority);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if let Some(id) = request_id {
            request = request.header("x-request-id", id);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|error| Failure::new("request", error))
    }

    fn exchange(&self, response: Response<Incoming>, sender: SendRequest<Full<Bytes>>) -> Exchange {
        Exchange {
            status: response.status(),
            body: response.into_body(),
            sender: Some(sender),
            idle: Arc::clone(&self.idle),
        }
    }
}

impl Exchange {
    /// The next bytes of the answer; `None` at its end, after which the connection is free for
    /// another request.
    ///
    /// # Errors
    /// Of kind `cut`.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| Failure::new("cut", whole(&error)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        if let Some(sender) = self.sender.take()
            && !sender.is_closed()
        {
            self.idle.lock().push(sender);
        }
        Ok(None)
    }

    /// All that is left of the answer.
    ///
    /// # Errors
    /// Of kind `cut`.
    pub async fn collect(mut self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(more) = self.next().await? {
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }
}

/// The failure of a request that the server turned away.
pub(super) fn refused(status: StatusCode, body: impl fmt::Display) -> Failure {
    Failure::new(format!("http {}", status.as_u16()), body)
}

/// An error with what caused it: hyper's own words alone say little.
fn whole(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
