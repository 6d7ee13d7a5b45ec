//! Sends spans to a collector: OTLP over HTTP, in protobuf.
//!
//! Requests put their spans into a bounded queue and never wait; a task sends what is in it, many
//! at a time. What finds the queue full, or what the collector does not take in time, is lost and
//! counted.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::{Metrics, SpanLoss};

/// Where OTLP collectors take spans when an endpoint names no path.
const DEFAULT_PATH: &str = "/v1/traces";
/// Most traces that wait to be sent.
const MAX_QUEUED_TRACES: usize = 2048;
/// Spans that are sent together, about.
const NUM_BATCH_SPANS: usize = 512;
/// Longest time that a span waits for others to be sent with.
const BATCH_DELAY: Duration = Duration::from_millis(500);
/// Longest time that the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes the spans of requests. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Tracer {
    queue: mpsc::Sender<Message>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum Message {
    /// The spans of a request.
    Trace(Vec<SpanData>),
    /// Send what came before, and say when that is done.
    Flush(oneshot::Sender<()>),
}

/// Why traces cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The endpoint is no address.
    #[error("{0:?} is not a URL such as http://localhost:4318/v1/traces")]
    NotAUrl(String),
    /// The endpoint is not one that this program can talk to.
    #[error("{0:?}: only http:// is spoken; for TLS, run a collector next to the server")]
    NotHttp(String),
    /// The exporter could not be made.
    #[error("{0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

impl Tracer {
    /// Sends to `endpoint` from now on, in a task of the current runtime. Without a path, that of
    /// the protocol is added. Nothing is sent before there is something to send, so a collector
    /// may come later.
    pub fn start(endpoint: &str, metrics: &Arc<Metrics>) -> Result<Self, TracerError> {
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint_url(endpoint)?)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        exporter.set_resource(&resource());
        let (queue, messages) = mpsc::channel(MAX_QUEUED_TRACES);
        let sending = Sending { exporter, metrics: Arc::clone(metrics), state: State::Untried };
        tokio::spawn(sending.run(messages));
        Ok(Self { queue, metrics: Arc::clone(metrics) })
    }

    /// Queues the spans of a request, or loses them.
    pub(super) fn offer(&self, spans: Vec<SpanData>) {
        let num_spans = spans.len() as u64;
        if self.queue.try_send(Message::Trace(spans)).is_err() {
            self.metrics.lose_spans(SpanLoss::QueueFull, num_spans);
        }
    }

    /// Waits until all spans so far are sent or lost, but no longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                // An error means that the task has ended, with nothing left to wait for.
                let _ = is_done.await;
            }
        };
        // What is not sent by then is lost with the process.
        let _ = timeout(limit, flushed).await;
    }
}

/// Who sends: what the environment says, else this program.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let builder = || Resource::builder().with_attribute(version.clone());
    let told = builder().build();
    let name = told.get(&Key::from_static_str("service.name")).map(|name| name.to_string());
    match name {
        Some(name) if !name.starts_with("unknown_service") => told,
        _ => builder().with_service_name("folio").build(),
    }
}

/// The endpoint with a path, if it is one that this program can talk to.
pub fn endpoint_url(endpoint: &str) -> Result<String, TracerError> {
    let not_a_url = || TracerError::NotAUrl(endpoint.to_owned());
    let uri: Uri = endpoint.parse().map_err(|_| not_a_url())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(_)) => {}
        (Some(_), Some(_)) => return Err(TracerError::NotHttp(endpoint.to_owned())),
        _ => return Err(not_a_url()),
    }
    Ok(match uri.path() {
        "" | "/" => format!("{}{DEFAULT_PATH}", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    })
}

/// The task that sends.
struct Sending {
    exporter: SpanExporter,
    metrics: Arc<Metrics>,
    state: State,
}

/// How the latest batch went, so that the log tells changes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Untried,
    Taken,
    Refused,
}

impl Sending {
    /// Sends until every sender is gone and the queue is empty.
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        while let Some(first) = messages.recv().await {
            let mut batch = Batch::default();
            batch.add(first);
            let deadline = Instant::now() + BATCH_DELAY;
            while batch.is_open() {
                match timeout_at(deadline, messages.recv()).await {
                    Ok(Some(message)) => batch.add(message),
                    Ok(None) | Err(_) => break,
                }
            }
            self.send(batch.spans).await;
            for waiting in batch.waiting {
                // Whoever waited may have given up.
                let _ = waiting.send(());
            }
        }
    }

    async fn send(&mut self, spans: Vec<SpanData>) {
        if spans.is_empty() {
            return;
        }
        let num_spans = spans.len() as u64;
        let problem = match timeout(EXPORT_TIMEOUT, self.exporter.export(spans)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", EXPORT_TIMEOUT.as_secs())),
        };
        let state = if problem.is_none() { State::Taken } else { State::Refused };
        if let Some(problem) = problem {
            self.metrics.lose_spans(SpanLoss::NotTaken, num_spans);
            if self.state != State::Refused {
                tracing::warn!(problem, "traces are lost: the collector does not take them");
            }
        } else if self.state == State::Refused {
            tracing::info!("the collector takes traces again");
        }
        self.state = state;
    }
}

/// Spans to be sent together.
#[derive(Default)]
struct Batch {
    spans: Vec<SpanData>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Batch {
    fn add(&mut self, message: Message) {
        match message {
            Message::Trace(spans) => self.spans.extend(spans),
            Message::Flush(done) => self.waiting.push(done),
        }
    }

    /// Whether it waits for more.
    fn is_open(&self) -> bool {
        self.spans.len() < NUM_BATCH_SPANS && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_http_url_and_gets_the_protocols_path() {
        assert_eq!(
            endpoint_url("http://localhost:4318").unwrap(),
            "http://localhost:4318/v1/traces"
        );
        assert_eq!(
            endpoint_url("http://localhost:4318/").unwrap(),
            "http://localhost:4318/v1/traces"
        );
        let own = "http://collector.example/in/traces";
        assert_eq!(endpoint_url(own).unwrap(), own);
        for (endpoint, expected) in [
            ("https://collector.example", "only http://"),
            ("grpc://localhost:4317", "only http://"),
            ("localhost:4318", "not a URL"),
            ("/v1/traces", "not a URL"),
            ("", "not a URL"),
            ("http://a b", "not a URL"),
        ] {
            let error = endpoint_url(endpoint).unwrap_err().to_string();
            assert!(error.contains(expected), "{endpoint}: {error}");
        }
    }
}
