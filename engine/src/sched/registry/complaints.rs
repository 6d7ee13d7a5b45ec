//! What policies say when something of theirs went wrong and the engine went on without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComplaintKind {
    /// An expression had no value, such as 0/0.
    Undefined,
    /// A process did not answer in time.
    Late,
    /// A process answered something that is no answer.
    Nonsense,
    /// A process has ended or could not be talked to.
    Ended,
}

impl ComplaintKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Undefined, Self::Late, Self::Nonsense, Self::Ended];

    /// The name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Late => "late",
            Self::Nonsense => "nonsense",
            Self::Ended => "ended",
        }
    }
}

/// Counts what went wrong, and has it said. Clones share the counts. The scheduler itself does no
/// I/O: whoever makes the policies decides where it is said.
#[derive(Clone)]
pub struct Complaints {
    counts: Arc<[AtomicU64; ComplaintKind::ALL.len()]>,
    say: Arc<dyn Fn(&str) + Send + Sync>,
}

impl std::fmt::Debug for Complaints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Complaints").field(&self.counts).finish()
    }
}

impl Default for Complaints {
    /// Counts, and says nothing.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl Complaints {
    /// Counts, and has `say` say what should be known.
    pub fn new(say: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { counts: Arc::default(), say: Arc::new(say) }
    }

    /// Counts one more.
    pub fn count(&self, kind: ComplaintKind) {
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Says something that people should know; a policy says each thing once.
    pub fn say(&self, text: &str) {
        (self.say)(text);
    }

    /// How many there were.
    #[must_use]
    pub fn num(&self, kind: ComplaintKind) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }
}
