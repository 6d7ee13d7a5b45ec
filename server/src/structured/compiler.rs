//! Compiles constraints: once each, a few at a time, in a bounded time.
//!
//! The library counts its own work, but not all of it, and it recurses. So each compilation has a
//! thread of its own, with a stack for the deepest constraint that the limits let through, and
//! nobody waits for it longer than the limit says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::cache::{Cache, Key};
use super::compile;
use super::grammar::{Compiled, Session};
use super::limits::Limits;
use super::vocabulary::Vocabulary;
use crate::error::ApiError;
use crate::models::{Models, ServedModel};
use crate::openai::{Constraint, Structure, Whitespace};

/// Stack of a compilation: address space, of which a usual one touches a few pages.
const STACK_BYTES: usize = 256 << 20;

/// What becomes of a constraint.
pub(super) type Outcome = Result<Arc<Compiled>, Refusal>;

/// Why a constraint is not compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    why: Why,
    /// Where in the constraint, such as `.properties.name`.
    place: String,
    /// What is wrong, to be read after the path.
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Invalid,
    Unsupported,
    TooSlow,
    Busy,
}

impl Refusal {
    pub(super) fn invalid(place: &str, message: impl Into<String>) -> Self {
        Self { why: Why::Invalid, place: place.to_owned(), message: message.into() }
    }

    pub(super) fn unsupported(place: &str, message: impl Into<String>) -> Self {
        Self { why: Why::Unsupported, place: place.to_owned(), message: message.into() }
    }

    pub(super) fn busy(why: &str) -> Self {
        let message = format!("cannot be compiled now: {why}; try again in a moment");
        Self { why: Why::Busy, place: String::new(), message }
    }

    /// Whether it says something about the moment rather than the constraint.
    pub(super) fn is_of_the_moment(&self) -> bool {
        matches!(self.why, Why::TooSlow | Why::Busy)
    }

    fn into_error(self, path: &str) -> ApiError {
        let path = format!("{path}{}", self.place);
        let message = format!("{path} {}", self.message);
        match self.why {
            Why::Invalid | Why::TooSlow => ApiError::invalid_value(path, message),
            Why::Unsupported => ApiError::unsupported(path, message),
            Why::Busy => ApiError::queue_full(message, None),
        }
    }
}

/// Compiles constraints for the served models.
#[derive(Debug)]
pub struct Compiler {
    limits: Limits,
    /// By model, made when first needed.
    vocabularies: Vec<OnceLock<Result<Arc<Vocabulary>, String>>>,
    cache: Cache,
    running: Arc<Running>,
}

impl Compiler {
    /// A compiler for `models`. Costs nothing until it is used.
    pub fn new(models: &Models, limits: Limits) -> Self {
        Self {
            vocabularies: models.all().iter().map(|_| OnceLock::new()).collect(),
            cache: Cache::new((limits.max_cached, limits.max_cached_bytes), limits.max_wait),
            running: Arc::default(),
            limits,
        }
    }

    /// What the choices of a request take their states from. Blocks for at most the limits
    /// on time: call it where blocking is allowed.
    ///
    /// # Errors
    /// 400 that names the field for a constraint that is not valid, not supported or over a limit,
    /// 429 where all compilers are busy.
    pub fn session(&self, model: &ServedModel, structure: &Structure) -> Result<Session, ApiError> {
        let path = &structure.path;
        let constraint = &structure.constraint;
        compile::check(constraint, &self.limits).map_err(|refusal| refusal.into_error(path))?;
        let vocabulary = self.vocabulary(model).map_err(|why| {
            let message = format!("{path} cannot be enforced for {}: {why}", model.name());
            ApiError::unsupported(path, message)
        })?;
        let key = key(model, constraint);
        let compile = || self.compile_apart(vocabulary, constraint.clone());
        let num_bytes = compile::num_bytes(constraint);
        let outcome = self.cache.get_or_compile(key, num_bytes, compile);
        outcome.map(|compiled| compiled.session()).map_err(|refusal| refusal.into_error(path))
    }

    fn vocabulary(&self, model: &ServedModel) -> Result<Arc<Vocabulary>, String> {
        let Some(vocabulary) = self.vocabularies.get(model.id.index()) else {
            return Err("it is not served here".to_owned());
        };
        let make = || {
            let vocabulary = catch_unwind(AssertUnwindSafe(|| Vocabulary::new(model)));
            vocabulary.unwrap_or_else(|_| Err("its vocabulary has no trie".to_owned()))
        };
        vocabulary.get_or_init(|| make().map(Arc::new)).clone()
    }

    /// Compiles on a thread of its own and waits for it for as long as the limit says.
    fn compile_apart(&self, vocabulary: Arc<Vocabulary>, constraint: Constraint) -> Outcome {
        let max_time = self.limits.max_compile_time;
        let permit = self.running.enter(&self.limits).ok_or_else(|| {
            let max = self.limits.max_compilers;
            Refusal::busy(&format!("as many others are as may be at a time ({max})"))
        })?;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            let work = || compile::compile(&vocabulary, constraint);
            let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(broken()));
            let _ = sender.send(outcome.map(Arc::new));
            drop(permit);
        };
        let thread = std::thread::Builder::new().name("folio-grammar".into());
        if let Err(error) = thread.stack_size(STACK_BYTES).spawn(work) {
            return Err(Refusal::busy(&error.to_string()));
        }
        wait_for(&receiver, max_time)
    }

    /// Constraints that are kept.
    #[cfg(test)]
    pub(super) fn num_cached(&self) -> usize {
        self.cache.len()
    }
}

/// What comes out of a compilation, if it comes in time.
fn wait_for(receiver: &Receiver<Outcome>, max_time: Duration) -> Outcome {
    receiver.recv_timeout(max_time).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(Refusal {
            why: Why::TooSlow,
            place: String::new(),
            message: format!(
                "takes more than {} seconds to compile, which is the limit: simplify it",
                max_time.as_secs_f64()
            ),
        }),
        RecvTimeoutError::Disconnected => Err(broken()),
    })
}

fn broken() -> Refusal {
    Refusal::invalid("", "cannot be made into a grammar: the compiler failed on it")
}

/// A digest of all that the compiled form depends on.
fn key(model: &ServedModel, constraint: &Constraint) -> Key {
    let whitespace = |whitespace: &Whitespace| match whitespace {
        Whitespace::OneSpace => json!(1),
        Whitespace::Nothing => json!(0),
        Whitespace::Pattern(pattern) => json!(pattern),
    };
    let text = match constraint {
        Constraint::JsonObject(space) => json!(["object", whitespace(space)]),
        Constraint::JsonSchema(shape) => {
            let keywords = format!("{:?}", shape.keywords);
            json!(["schema", whitespace(&shape.whitespace), keywords, &shape.schema])
        }
        Constraint::Regex(pattern) => json!(["regex", pattern]),
        Constraint::Choice(choices) => json!(["choice", choices]),
        Constraint::Lark(grammar) => json!(["lark", grammar]),
    };
    let mut hash = Sha256::new();
    hash.update(model.id.0.to_le_bytes());
    hash.update(text.to_string());
    hash.finalize().into()
}

/// Compilations that have not ended.
#[derive(Debug, Default)]
struct Running {
    num: Mutex<usize>,
    ended: Condvar,
}

/// The right to compile.
struct Permit(Arc<Running>);

impl Running {
    /// Waits for a free place, for a bounded time.
    fn enter(self: &Arc<Self>, limits: &Limits) -> Option<Permit> {
        let num = self.num.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = |num: &mut usize| *num >= limits.max_compilers;
        let waited = self.ended.wait_timeout_while(num, limits.max_wait, is_full);
        let (mut num, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            return None;
        }
        *num += 1;
        Some(Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.num.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_compilation_longer_than_the_limit() {
        let (_sender, receiver) = std::sync::mpsc::sync_channel(1);
        let refusal = wait_for(&receiver, Duration::ZERO).unwrap_err();
        assert!(refusal.is_of_the_moment());
        let error = refusal.into_error("guided_json");
        assert_eq!(error.status(), 400);
        assert!(error.message().starts_with("guided_json takes more than 0 seconds"), "{error}");
    }
}
