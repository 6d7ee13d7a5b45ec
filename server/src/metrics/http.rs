//! Counts of HTTP requests, under the names that vLLM's server has them from its framework.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

use super::register;

/// Seconds from the arrival of a request to the end of its answer.
const SECONDS: &[f64] = &[0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Counters of HTTP requests.
#[derive(Debug)]
pub(super) struct HttpMetrics {
    requests: IntCounterVec,
    durations: HistogramVec,
    refusals: IntCounterVec,
}

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// Such as `POST`.
    pub method: &'a str,
    /// The route, not the path: `/v1/models/{*id}`; `none` when there is none.
    pub route: &'a str,
    /// Status of the answer.
    pub status: u16,
    /// The code of the error that the answer is, such as `queue_full`.
    pub error: Option<&'static str>,
    /// From the head of the request to the end of the answer.
    pub duration: Duration,
}

impl HttpMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new("http_requests_total", "HTTP requests that were answered.");
        let durations = HistogramOpts::new(
            "http_request_duration_seconds",
            "Time from the arrival of an HTTP request to the end of its answer.",
        );
        let refusals = Opts::new("folio:errors_total", "Errors that clients got, by their code.");
        Ok(Self {
            requests: register(
                registry,
                IntCounterVec::new(requests, &["handler", "method", "status"])?,
            )?,
            durations: register(
                registry,
                HistogramVec::new(durations.buckets(SECONDS.to_vec()), &["handler", "method"])?,
            )?,
            refusals: register(registry, IntCounterVec::new(refusals, &["code", "handler"])?)?,
        })
    }

    pub(super) fn count(&self, exchange: &Exchange<'_>) {
        let Exchange { route, status, .. } = *exchange;
        let method = known_method(exchange.method);
        let class = match status {
            ..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.with_label_values(&[route, method, class]).inc();
        let seconds = exchange.duration.as_secs_f64();
        self.durations.with_label_values(&[route, method]).observe(seconds);
        if let Some(code) = exchange.error {
            self.refusals.with_label_values(&[code, route]).inc();
        }
    }
}

/// Clients can make methods up; labels must not follow.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
    KNOWN.into_iter().find(|&known| known == method).unwrap_or("other")
}
