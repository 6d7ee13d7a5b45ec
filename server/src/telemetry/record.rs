//! One request, from its head to the end of its answer.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use folio_engine::types::{Nanos, RequestStats};

use crate::metrics::Exchange;
use crate::service::Service;

/// Stands for the status of an answer that nobody waited for, as other servers write it.
const STATUS_GONE: u16 = 499;

/// What is known of a request from its head.
#[derive(Clone, Debug)]
pub struct Head {
    /// As the answer's `X-Request-Id` says it.
    pub request_id: Arc<str>,
    /// Such as `POST`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The pattern that the path matches, `none` if none.
    pub route: String,
}

/// What is known of a choice that has ended.
#[derive(Clone, Copy, Debug)]
pub struct ChoiceFacts {
    /// How it fared, as far as the engine has said.
    pub stats: RequestStats,
    /// Tokens generated.
    pub num_tokens: u32,
}

/// Collects what happens to a request; written down when it is dropped.
#[derive(Debug)]
pub struct Record {
    service: Arc<Service>,
    head: Head,
    /// On the engine's clock, as all times here.
    begun: Nanos,
    /// When its body was here.
    received: OnceLock<Nanos>,
    facts: Mutex<Facts>,
}

#[derive(Debug, Default)]
struct Facts {
    /// Status and error code of the answer.
    answer: Option<(u16, Option<&'static str>)>,
    /// Code of an error that came after the answer had begun.
    late_error: Option<&'static str>,
    client: Option<Arc<str>>,
    model: Option<String>,
    num_prompt_tokens: u64,
    num_cached_tokens: u64,
    num_generated_tokens: u64,
    /// The shortest time in the queue of any choice.
    queue: Option<Nanos>,
    /// When the first token of any choice was known.
    first_token: Option<Nanos>,
}

impl Record {
    /// The head of a request is here.
    pub fn begin(service: &Arc<Service>, head: Head) -> Arc<Self> {
        let begun = service.engine.now();
        Arc::new(Self {
            service: Arc::clone(service),
            head,
            begun,
            received: OnceLock::new(),
            facts: Mutex::default(),
        })
    }

    /// The body is here: from now on the server is what keeps the client waiting.
    pub fn receive(&self) {
        let _ = self.received.set(self.service.engine.now());
    }

    /// When all of it was here, on the engine's clock.
    pub fn arrival(&self) -> Nanos {
        self.received.get().copied().unwrap_or(self.begun)
    }

    /// It is known who sent it.
    pub fn identify(&self, client: &Arc<str>) {
        self.facts().client = Some(Arc::clone(client));
    }

    /// It became work for `model`.
    pub fn submit(&self, model: &str, num_prompt_tokens: u64) {
        let mut facts = self.facts();
        facts.model = Some(model.to_owned());
        facts.num_prompt_tokens += num_prompt_tokens;
    }

    /// The answer begins.
    pub fn answer(&self, status: u16, error: Option<&'static str>) {
        self.facts().answer = Some((status, error));
    }

    /// The answer had begun and ends with an error.
    pub fn fail(&self, code: &'static str) {
        self.facts().late_error = Some(code);
    }

    /// A choice ended, well or not.
    pub fn end_choice(&self, choice: &ChoiceFacts) {
        let stats = &choice.stats;
        let mut facts = self.facts();
        facts.num_generated_tokens += u64::from(choice.num_tokens);
        facts.num_cached_tokens += u64::from(stats.num_cached_tokens);
        let queue = stats.first_scheduled.map(|scheduled| scheduled.since(stats.arrival));
        facts.queue = earlier(facts.queue, queue);
        facts.first_token = earlier(facts.first_token, stats.first_token);
    }

    /// Held only to read or write a few numbers.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line in the log. What only watches the server is left out at the level of `info`.
    fn write(&self, facts: &Facts, (status, error): (u16, Option<&str>), duration: Duration) {
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "folio::access",
                    request_id = &*self.head.request_id,
                    method = self.head.method,
                    path = self.head.path,
                    status,
                    error,
                    client = facts.client.as_deref(),
                    model = facts.model.as_deref(),
                    prompt_tokens = facts.model.as_ref().map(|_| facts.num_prompt_tokens),
                    cached_tokens = facts.model.as_ref().map(|_| facts.num_cached_tokens),
                    completion_tokens = facts.model.as_ref().map(|_| facts.num_generated_tokens),
                    queue_seconds = facts.queue.map(Nanos::as_secs_f64),
                    ttft_seconds =
                        facts.first_token.map(|first| first.since(self.arrival()).as_secs_f64()),
                    seconds = duration.as_secs_f64(),
                )
            };
        }
        match status {
            500.. => line!(error),
            _ if is_watching(&self.head.route) => line!(debug),
            _ => line!(info),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let facts = std::mem::take(&mut *self.facts());
        let duration = Duration::from_nanos(self.service.engine.now().since(self.begun).0);
        let (status, error) = match facts.answer {
            Some(answer) => answer,
            None if std::thread::panicking() => (500, Some("internal_error")),
            None => (STATUS_GONE, None),
        };
        let error = facts.late_error.or(error);
        self.service.metrics.count_exchange(&Exchange {
            method: &self.head.method,
            route: &self.head.route,
            status,
            error,
            duration,
        });
        self.write(&facts, (status, error), duration);
    }
}

fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    one.into_iter().chain(other).min()
}

/// Whether a route is for whoever watches the server, and asked for every few seconds.
fn is_watching(route: &str) -> bool {
    route.starts_with("/health") || matches!(route, "/metrics" | "/version")
}
