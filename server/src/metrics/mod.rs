//! Prometheus metrics under vLLM's names, so that existing dashboards and routers read them, and
//! under `folio:` what vLLM has no name for.
//!
//! What the engine counts is copied from its snapshot at each scrape; what a request experiences
//! is observed as its events are read, by [`Meters`]. Every series exists from the start, at zero:
//! a rate then sees the first event too.

mod choices;
mod clients;
mod engine;
mod families;
mod http;
mod policy;
mod protection;
mod requests;

pub use choices::{Handed, Meters, Outcome};
pub use http::Exchange;

use folio_engine::EngineHandle;
use folio_engine::types::Nanos;
use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};

use self::clients::ClientMetrics;
use self::engine::Names;
use self::http::HttpMetrics;
use self::requests::RequestMetrics;
use crate::models::Models;
use crate::policy::Seat;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The number of the engine, a label of everything under vLLM's names; there is one engine.
const ENGINE: &str = "0";

/// All metrics of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: RequestMetrics,
    clients: ClientMetrics,
    http: HttpMetrics,
    lost_spans: IntCounterVec,
    names: Names,
}

/// Why a span never reached the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanLoss {
    /// Too many waited to be sent.
    QueueFull,
    /// The collector did not take it.
    NotTaken,
}

impl Metrics {
    /// Metrics of a server of `models`.
    pub fn new(models: &Models) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let lost_spans =
            Opts::new("folio:trace_spans_lost_total", "Spans that no collector got, by reason.");
        let metrics = Self {
            requests: RequestMetrics::new(&registry, models)?,
            clients: ClientMetrics::new(&registry)?,
            http: HttpMetrics::new(&registry)?,
            lost_spans: register(&registry, IntCounterVec::new(lost_spans, &["reason"])?)?,
            names: Names::new(models),
            registry,
        };
        metrics.lose_spans(SpanLoss::QueueFull, 0);
        metrics.lose_spans(SpanLoss::NotTaken, 0);
        Ok(metrics)
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self, engine: &EngineHandle, seat: &Seat) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        let snapshot = engine.metrics();
        families.extend(engine::families(&snapshot, engine.config(), &self.names));
        families.extend(protection::families(&snapshot, engine.health(), &self.names));
        families.extend(policy::families(&snapshot, seat));
        TextEncoder::new().encode(&families, &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Counts an answered HTTP request.
    pub fn count_exchange(&self, exchange: &Exchange<'_>) {
        self.http.count(exchange);
    }

    /// Counts spans that no collector will get.
    pub fn lose_spans(&self, reason: SpanLoss, num_spans: u64) {
        let reason = match reason {
            SpanLoss::QueueFull => "queue_full",
            SpanLoss::NotTaken => "not_taken",
        };
        self.lost_spans.with_label_values(&[reason]).inc_by(num_spans);
    }
}

/// A time in seconds. Divided, not multiplied: the quotient is written with no more digits than
/// there are, such as 0.075.
pub(crate) fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

fn register<C>(registry: &Registry, collector: C) -> Result<C, prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
