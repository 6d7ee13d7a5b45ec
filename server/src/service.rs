//! What requests need to be computed, whichever way they came in: HTTP or the command line.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use folio_engine::EngineHandle;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::models::{Models, ServedModel};
use crate::openai::Header;

/// The engine, the models it runs, and what is counted about them.
#[derive(Debug)]
pub struct Service {
    /// Computes requests.
    pub engine: EngineHandle,
    /// Tokenisers, templates and names.
    pub models: Models,
    /// Counts requests.
    pub metrics: Arc<Metrics>,
    /// Whether the scheduling policy looks at priorities.
    priorities: Priorities,
    ids: Ids,
}

/// Whether the scheduling policy looks at the priority of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priorities {
    /// It does.
    Honoured,
    /// It does not: a request that sets one is refused.
    Refused,
}

impl Service {
    /// Puts the pieces together.
    pub fn new(
        engine: EngineHandle,
        models: Models,
        priorities: Priorities,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            metrics: Arc::new(Metrics::new(&models)?),
            engine,
            models,
            priorities,
            ids: Ids::new(),
        })
    }

    /// Refuses a priority that would change nothing.
    pub fn check_priority(&self, priority: i32) -> Result<(), ApiError> {
        if priority == 0 || self.priorities == Priorities::Honoured {
            return Ok(());
        }
        let message = format!(
            "priority = {priority} would change nothing: the server was not started with \
             --scheduling-policy priority"
        );
        Err(ApiError::unsupported("priority", message))
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
        let number = self.ids.next.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{:016x}{number:08x}", self.ids.run)
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

/// Makes ids that differ between runs and within one.
#[derive(Debug)]
struct Ids {
    run: u64,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self {
            run: RandomState::new().build_hasher().finish(),
            next: AtomicU64::new(0),
        }
    }
}

/// Seconds since 1970, UTC.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
