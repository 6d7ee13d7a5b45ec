//! What requests need to be computed, whichever way they came in: HTTP or the command line.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use folio_engine::EngineHandle;
use folio_engine::decisions::DecisionLog;
use folio_engine::sched::PriorityUse;
use folio_engine::types::{Nanos, Request};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::ApiError;
use crate::lifecycle::Cut;
use crate::metrics::Metrics;
use crate::models::{Models, ServedModel};
use crate::openai::Header;
use crate::policy::Seat;
use crate::structured::{Compiler, Limits};
use crate::telemetry::Tracer;
use crate::tools::CallIdStyle;

/// The engine, the models it runs, and what is counted about them.
#[derive(Debug)]
pub struct Service {
    /// Computes requests.
    pub engine: EngineHandle,
    /// The thread behind `engine`.
    engine_thread: JoinHandle<()>,
    /// Tokenisers, templates and names.
    pub models: Models,
    /// Counts requests.
    pub metrics: Arc<Metrics>,
    /// Ends the answers that are left when the server stops.
    pub cut: Cut,
    /// Takes the spans of requests, if anybody wants them.
    tracer: Option<Tracer>,
    /// Where all that the scheduler decides is written, if it is.
    decisions: Option<DecisionLog>,
    /// Compiles the shapes that texts must have.
    pub structures: Compiler,
    /// The scheduling policy that runs.
    pub policy: Seat,
    /// Longest time that a request may take; `None` for any.
    max_timeout: Option<Duration>,
    ids: Counter,
    seeds: Counter,
}

/// Time that the engine has to end a request itself after its deadline: it looks between steps.
const DEADLINE_GRACE: Duration = Duration::from_secs(1);

/// When a request is so long past its deadline that the engine must be standing still; never, for
/// one without a deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overdue(Option<Instant>);

impl Overdue {
    /// Waits until then.
    pub async fn wait(&self) {
        match self.0 {
            Some(time) => tokio::time::sleep_until(time).await,
            None => std::future::pending().await,
        }
    }
}

impl Service {
    /// Puts the pieces together: an engine with its thread, the models that it runs, the policy
    /// that it runs under. Requests that bring no seed get theirs from `seed`, in order of arrival;
    /// without one, from chance.
    pub fn new(
        (engine, engine_thread): (EngineHandle, JoinHandle<()>),
        models: Models,
        policy: Seat,
        seed: Option<u64>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            metrics: Arc::new(Metrics::new(&models)?),
            cut: Cut::new(),
            structures: Compiler::new(&models, Limits::default()),
            engine,
            engine_thread,
            tracer: None,
            decisions: None,
            models,
            policy,
            max_timeout: None,
            ids: Counter::new(chance()),
            seeds: Counter::new(seed.unwrap_or_else(chance)),
        })
    }

    /// From now on requests are traced, if their callers do not say otherwise.
    pub fn trace_to(&mut self, tracer: Tracer) {
        self.tracer = Some(tracer);
    }

    /// Takes the spans of requests, if anybody wants them.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// From now on requests are entered into `log` under their clients' names for them.
    pub fn log_decisions_to(&mut self, log: DecisionLog) {
        self.decisions = Some(log);
    }

    /// Where all that the scheduler decides is written, if it is.
    pub fn decisions(&self) -> Option<&DecisionLog> {
        self.decisions.as_ref()
    }

    /// Lets no request take longer than `max_timeout`.
    #[must_use]
    pub fn with_max_timeout(self, max_timeout: Option<Duration>) -> Self {
        Self { max_timeout, ..self }
    }

    /// When a request of `client` that asks for this `timeout` must have ended; `None` if it may
    /// take any time. Of the body's timeout and the head's, the shorter holds. One that asks for
    /// none gets the longest, and one that asks for a longer one is refused.
    pub fn deadline(
        &self,
        client: &Client,
        timeout: Option<Duration>,
    ) -> Result<Option<Nanos>, ApiError> {
        let of_head = client.arrival.and_then(|arrival| arrival.timeout);
        let asked = timeout.into_iter().chain(of_head).min();
        let timeout = match (asked, self.max_timeout) {
            (Some(timeout), Some(max)) if timeout > max => {
                let (timeout, max) = (timeout.as_secs_f64(), max.as_secs_f64());
                let message = format!(
                    "timeout = {timeout} s: this server lets a request take at most {max} s"
                );
                return Err(ApiError::invalid_value("timeout", message));
            }
            (timeout, max) => timeout.or(max),
        };
        let began = client.arrival.map_or_else(|| self.engine.now(), |arrival| arrival.at);
        Ok(timeout.map(|timeout| began + timeout.into()))
    }

    /// The time after which nobody should wait any longer for `requests`, which have one deadline.
    pub fn overdue(&self, requests: &[Request]) -> Overdue {
        let deadline = requests.iter().filter_map(|request| request.deadline).min();
        let left = |deadline: Nanos| Duration::from_nanos(deadline.since(self.engine.now()).0);
        Overdue(deadline.map(|deadline| Instant::now() + left(deadline) + DEADLINE_GRACE))
    }

    /// Whether the engine still computes: it ends before the service only if it is broken.
    pub fn is_running(&self) -> bool {
        !self.engine_thread.is_finished()
    }

    /// Waits until the engine has ended, which it does by itself only when it is broken, and says
    /// with what.
    pub async fn engine_failed(&self) -> String {
        self.engine.stopped().await;
        self.engine.last_failure().unwrap_or_else(|| "the engine has stopped".to_owned())
    }

    /// Refuses a priority that would change nothing.
    pub fn check_priority(&self, priority: Option<i32>) -> Result<(), ApiError> {
        let priority = priority.unwrap_or(0);
        if priority == 0 || self.policy.priority_use() == PriorityUse::Read {
            return Ok(());
        }
        let message = format!(
            "priority = {priority} would change nothing under the policy that runs ({}); \
             --scheduling-policy priority looks at it",
            self.policy.seated().policy
        );
        Err(ApiError::unsupported("priority", message))
    }

    /// Hands `requests` of `client` to the engine, all or none. Their prompts are taken out of what
    /// the client may use. An error is about the field `path`.
    pub fn submit(
        &self,
        client: &Client,
        requests: Vec<Request>,
        path: &str,
    ) -> Result<(), ApiError> {
        let num_tokens = requests.iter().map(|request| request.prompt.len() as u64).sum();
        client.take_prompt(num_tokens)?;
        if let (Some(log), Some(record)) = (&self.decisions, &client.record) {
            for request in &requests {
                log.label(request.id, record.request_id());
            }
        }
        self.engine.submit(requests).map_err(|refusal| {
            client.give_back(num_tokens);
            ApiError::from_refusal(&refusal, path)
        })
    }

    /// What an answer begins with. `model` is the name that the client used.
    pub fn header(&self, kind: HeaderKind, model: &ServedModel, name: String) -> Header {
        let (prefix, object) = match kind {
            HeaderKind::Chat => ("chatcmpl", "chat.completion"),
            HeaderKind::ChatChunk => ("chatcmpl", "chat.completion.chunk"),
            HeaderKind::Completion => ("cmpl", "text_completion"),
        };
        Header {
            id: self.unique_id(prefix),
            object,
            created: unix_seconds(),
            model: name,
            system_fingerprint: model.fingerprint.clone(),
        }
    }

    /// An id that no other answer has, of this or of another run.
    pub fn unique_id(&self, prefix: &str) -> String {
        let number = self.ids.next();
        format!("{prefix}-{:016x}{number:08x}", self.ids.key)
    }

    /// An id for a tool call that no other call has.
    pub fn call_id(&self, style: CallIdStyle) -> String {
        const LETTERS: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let number = self.ids.next();
        match style {
            CallIdStyle::Long => format!("call_{:016x}{number:08x}", self.ids.key),
            CallIdStyle::Short => {
                let mut rest = mix(self.ids.key ^ mix(number));
                (0..9)
                    .map(|_| {
                        let letter = LETTERS[(rest % 62) as usize];
                        rest /= 62;
                        char::from(letter)
                    })
                    .collect()
            }
        }
    }

    /// A seed for a request that brings none: each gets another.
    pub fn next_seed(&self) -> u64 {
        mix(self.seeds.key ^ mix(self.seeds.next()))
    }
}

/// What kind of answer a [`Header`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderKind {
    /// A whole chat answer.
    Chat,
    /// A chunk of a streamed one.
    ChatChunk,
    /// A completion, whole or streamed.
    Completion,
}

/// Numbers under a key: together they differ between runs, alone within one.
#[derive(Debug)]
struct Counter {
    key: u64,
    next: AtomicU64,
}

impl Counter {
    fn new(key: u64) -> Self {
        let next = AtomicU64::new(0);
        Self { key, next }
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A number that nobody can foretell.
pub(crate) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Spreads the bits of `value` (the finaliser of SplitMix64): close numbers end up far apart.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Seconds since 1970, UTC.
pub fn unix_seconds() -> u64 {
    unix_time().as_secs()
}

/// Time since 1970, UTC.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
