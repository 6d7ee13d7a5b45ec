//! One request, from its head to the end of its answer.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use folio_engine::types::{Mark, Nanos, RequestStats};
use opentelemetry::trace::{SpanContext, Status};
use opentelemetry::{Array, KeyValue, StringValue, Value};

use super::spans::{Plan, Tree, attribute};
use crate::error::ErrorNote;
use crate::metrics::{Exchange, seconds};
use crate::service::Service;

/// Stands for the status of an answer that nobody waited for, as other servers write it.
const STATUS_GONE: u16 = 499;
/// Most choices of a request whose spans are kept.
const MAX_TRACED_CHOICES: usize = 16;

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
    /// The caller's place in its own trace, if it has one.
    pub caller: SpanContext,
}

/// What a request asks for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Name of the model.
    pub model: String,
    /// Tokens of all prompts together.
    pub num_prompt_tokens: u64,
    /// Choices of each prompt.
    pub num_choices: u32,
    /// Most tokens of a choice; `None` if nothing is generated.
    pub max_tokens: Option<u32>,
    /// Temperature and `top_p`; `None` if nothing is generated.
    pub sampling: Option<(f32, f32)>,
}

/// What is known of a choice that has ended.
#[derive(Clone, Debug)]
pub struct ChoiceFacts {
    /// Why it ended.
    pub reason: &'static str,
    /// How it fared, as far as the engine has said.
    pub stats: RequestStats,
    /// When tokens of it were last read.
    pub last_read: Option<Nanos>,
    /// Tokens generated.
    pub num_tokens: u32,
    /// What happened to it when, if the request is traced.
    pub marks: Vec<Mark>,
}

impl ChoiceFacts {
    /// When its last token was known: by the engine, else when it was read.
    pub fn last_token(&self) -> Option<Nanos> {
        self.stats.last_token.or(self.last_read).or(self.stats.first_token)
    }

    /// Whether the engine never said anything of it.
    pub(super) fn is_unknown(&self) -> bool {
        self.stats == RequestStats::default()
    }
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
    /// Status of the answer, and the error that it is.
    answer: Option<(u16, Option<ErrorNote>)>,
    /// An error that came after the answer had begun.
    late_error: Option<ErrorNote>,
    client: Option<Arc<str>>,
    /// What was asked for, and when it was handed to the engine.
    wish: Option<(Wish, Nanos)>,
    num_cached_tokens: u64,
    num_generated_tokens: u64,
    /// The shortest time in the queue of any choice.
    queue: Option<Nanos>,
    /// When the first token of any choice was known.
    first_token: Option<Nanos>,
    /// The first choices that have ended, if the request is traced.
    choices: Vec<ChoiceFacts>,
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

    /// Whether its spans are wanted: somebody collects them, and the caller, if it takes part in
    /// a trace itself, does not say otherwise.
    pub fn is_traced(&self) -> bool {
        let caller = &self.head.caller;
        self.service.tracer().is_some() && (!caller.is_valid() || caller.is_sampled())
    }

    /// The request's id, as its answer's `X-Request-Id` says it.
    pub fn request_id(&self) -> &str {
        &self.head.request_id
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

    /// It became work for the engine at `now`.
    pub fn submit(&self, wish: Wish, now: Nanos) {
        let mut facts = self.facts();
        match &mut facts.wish {
            Some((first, _)) => first.num_prompt_tokens += wish.num_prompt_tokens,
            first => *first = Some((wish, now)),
        }
    }

    /// The answer begins.
    pub fn answer(&self, status: u16, error: Option<ErrorNote>) {
        self.facts().answer = Some((status, error));
    }

    /// The answer had begun and ends with an error.
    pub fn fail(&self, error: ErrorNote) {
        self.facts().late_error = Some(error);
    }

    /// A choice ended, well or not.
    pub fn end_choice(&self, choice: ChoiceFacts) {
        let stats = &choice.stats;
        let mut facts = self.facts();
        facts.num_generated_tokens += u64::from(choice.num_tokens);
        facts.num_cached_tokens += u64::from(stats.num_cached_tokens);
        let queue = stats.first_scheduled.map(|scheduled| scheduled.since(stats.arrival));
        facts.queue = earlier(facts.queue, queue);
        facts.first_token = earlier(facts.first_token, stats.first_token);
        if self.is_traced() && facts.choices.len() < MAX_TRACED_CHOICES {
            facts.choices.push(choice);
        }
    }

    /// Held only to read or write a few numbers.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line in the log. What only watches the server is left out at the level of `info`.
    fn write(&self, facts: &Facts, outcome: &Outcome) {
        let Outcome { status, error, end } = outcome;
        let code = error.as_ref().map(|error| error.code);
        let cause = error.as_ref().and_then(|error| error.cause.as_deref());
        let wish = facts.wish.as_ref().map(|(wish, _)| wish);
        let to_first = facts.first_token.map(|first| seconds(first.since(self.arrival())));
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "folio::access",
                    request_id = &*self.head.request_id,
                    method = self.head.method,
                    path = self.head.path,
                    status,
                    error = code,
                    cause,
                    client = facts.client.as_deref(),
                    model = wish.map(|wish| &*wish.model),
                    prompt_tokens = wish.map(|wish| wish.num_prompt_tokens),
                    cached_tokens = wish.map(|_| facts.num_cached_tokens),
                    completion_tokens = wish.map(|_| facts.num_generated_tokens),
                    queue_seconds = facts.queue.map(seconds),
                    ttft_seconds = to_first,
                    seconds = seconds(end.since(self.begun)),
                )
            };
        }
        match status {
            500.. => line!(error),
            _ if facts.late_error.is_some() => line!(error),
            _ if is_watching(&self.head.route) => line!(debug),
            _ => line!(info),
        }
    }

    /// Hands the spans of a request that is more than a look at the server to whoever collects
    /// them.
    fn trace(&self, mut facts: Facts, outcome: &Outcome) {
        let Some(tracer) = self.service.tracer().filter(|_| self.is_traced()) else {
            return;
        };
        if facts.wish.is_none() && self.head.method != "POST" {
            return;
        }
        let choices = std::mem::take(&mut facts.choices);
        let mut tree = Tree::new(&self.head.caller, outcome.end);
        if let Some((_, submitted)) = facts.wish {
            let (begin, attributes) = (self.arrival(), Vec::new());
            // The engine may have it before who submitted it goes on.
            let known = choices.iter().filter(|choice| !choice.is_unknown());
            let end = known.map(|choice| choice.stats.arrival).fold(submitted, Nanos::min);
            tree.add(Plan { name: "tokenize", begin, end, attributes });
        }
        for (index, choice) in choices.iter().enumerate() {
            tree.add_choice(index, choice, outcome.end);
        }
        let mut attributes = self.http_attributes(&facts, outcome);
        attributes.extend(self.ai_attributes(&facts, &choices, outcome.end));
        let (begin, end) = (self.begun, outcome.end);
        let root = Plan { name: "llm_request", begin, end, attributes };
        let has_failed = outcome.status >= 500 || facts.late_error.is_some();
        let status = match &outcome.error {
            Some(error) if has_failed => Status::error(error.code),
            _ => Status::Unset,
        };
        tracer.offer(tree.finish(root, &choices, status));
    }

    fn http_attributes(&self, facts: &Facts, outcome: &Outcome) -> Vec<KeyValue> {
        let client = facts.client.as_deref().map(str::to_owned);
        [
            attribute("http.request.method", Some(self.head.method.clone())),
            attribute("http.route", Some(self.head.route.clone())),
            attribute("url.path", Some(self.head.path.clone())),
            attribute("http.response.status_code", Some(i64::from(outcome.status))),
            attribute("error.type", outcome.error.as_ref().map(|error| error.code)),
            attribute("folio.client", client),
            attribute("gen_ai.request.id", Some(self.head.request_id.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn ai_attributes(&self, facts: &Facts, choices: &[ChoiceFacts], end: Nanos) -> Vec<KeyValue> {
        let Some((wish, _)) = &facts.wish else {
            return Vec::new();
        };
        let first = choices.first();
        let stats = first.map(|choice| &choice.stats);
        let span = |from: Option<Nanos>, to: Option<Nanos>| {
            from.zip(to).map(|(from, to)| seconds(to.since(from)))
        };
        let scheduled = stats.and_then(|stats| stats.first_scheduled);
        let first_token = stats.and_then(|stats| stats.first_token);
        let last_token = first.and_then(ChoiceFacts::last_token);
        let sampling = |pick: fn((f32, f32)) -> f32| wish.sampling.map(pick).map(f64::from);
        let reasons = choices.iter().map(|choice| StringValue::from(choice.reason));
        let reasons = Value::Array(Array::String(reasons.collect()));
        [
            attribute("gen_ai.response.model", Some(wish.model.clone())),
            attribute("gen_ai.request.n", Some(i64::from(wish.num_choices))),
            attribute("gen_ai.request.max_tokens", wish.max_tokens.map(i64::from)),
            attribute("gen_ai.request.temperature", sampling(|(temperature, _)| temperature)),
            attribute("gen_ai.request.top_p", sampling(|(_, top_p)| top_p)),
            attribute("gen_ai.response.finish_reasons", first.map(|_| reasons)),
            attribute("gen_ai.usage.num_sequences", Some(choices.len() as i64)),
            attribute("gen_ai.usage.prompt_tokens", Some(wish.num_prompt_tokens as i64)),
            attribute("gen_ai.usage.cached_tokens", Some(facts.num_cached_tokens as i64)),
            attribute("gen_ai.usage.completion_tokens", Some(facts.num_generated_tokens as i64)),
            attribute("gen_ai.latency.time_in_queue", facts.queue.map(seconds)),
            attribute(
                "gen_ai.latency.time_to_first_token",
                span(Some(self.arrival()), facts.first_token),
            ),
            attribute("gen_ai.latency.time_in_model_prefill", span(scheduled, first_token)),
            attribute("gen_ai.latency.time_in_model_decode", span(first_token, last_token)),
            attribute("gen_ai.latency.time_in_model_inference", span(scheduled, last_token)),
            attribute("gen_ai.latency.e2e", span(Some(self.arrival()), Some(end))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// How a request ended.
#[derive(Clone, Debug)]
struct Outcome {
    status: u16,
    error: Option<ErrorNote>,
    end: Nanos,
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut facts = std::mem::take(&mut *self.facts());
        let end = self.service.engine.now();
        let (status, error) = match facts.answer.take() {
            Some(answer) => answer,
            None if std::thread::panicking() => {
                (500, Some(ErrorNote { code: "internal_error", cause: Some("a panic".into()) }))
            }
            None => (STATUS_GONE, None),
        };
        let error = facts.late_error.clone().or(error);
        self.service.metrics.count_exchange(&Exchange {
            method: &self.head.method,
            route: &self.head.route,
            status,
            error: error.as_ref().map(|error| error.code),
            duration: Duration::from_nanos(end.since(self.begun).0),
        });
        let outcome = Outcome { status, error, end };
        self.write(&facts, &outcome);
        self.trace(facts, &outcome);
    }
}

fn earlier(one: Option<Nanos>, other: Option<Nanos>) -> Option<Nanos> {
    one.into_iter().chain(other).min()
}

/// Whether a route is for whoever watches the server, and asked for every few seconds.
fn is_watching(route: &str) -> bool {
    route.starts_with("/health") || matches!(route, "/metrics" | "/version")
}
