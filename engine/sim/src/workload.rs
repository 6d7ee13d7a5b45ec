//! What is asked of the simulated engine, and when: the one record that every trace becomes.
//!
//! A [`Workload`] is lazy: a trace of any length is read as the simulation needs it. Records come
//! in the order of their arrival; one that waits for another comes any time after it.

use std::sync::Arc;

use folio_engine::types::Nanos;
pub use folio_engine::types::Slo;

/// One request of a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// When it is sent, from the start of the workload. Not looked at where
    /// [`after`](Self::after) says when.
    pub arrival: Nanos,
    /// Whose request it is.
    pub tenant: u32,
    /// The conversation that it belongs to, where the trace knows one.
    pub session: Option<u64>,
    /// The request that must have ended before this one is sent: a closed loop.
    pub after: Option<After>,
    /// Tokens of the prompt, at least 1.
    pub input: u32,
    /// Tokens that the model answers with, at least 1. No policy sees it.
    pub output: u32,
    /// Identity of the prompt's leading tokens, [`prefix_block`](Self::prefix_block) of them an
    /// id: prompts are equal as far as their ids are. The last id may stand for fewer tokens;
    /// tokens behind the last id are this request's own.
    pub prefix: Arc<[u64]>,
    /// Tokens that an id of [`prefix`](Self::prefix) stands for; 0 without any.
    pub prefix_block: u32,
    /// Smaller is more urgent; what it does belongs to the policy.
    pub priority: i32,
    /// What it is to be judged by.
    pub slo: Slo,
}

/// Makes a request wait for the end of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// Which one: the number of records that the workload gave before it.
    pub record: u64,
    /// Time between its end and this request.
    pub think: Nanos,
}

/// What `own` asks for, and what `general` does where it asks for nothing.
#[must_use]
pub fn combine(own: Slo, general: Slo) -> Slo {
    Slo {
        ttft: own.ttft.or(general.ttft),
        tpot: own.tpot.or(general.tpot),
        e2el: own.e2el.or(general.e2el),
    }
}

/// A stream of records.
pub trait Workload {
    /// The next record; `None` at the end. Of records without an [`After`], each arrives no
    /// earlier than the one before it.
    fn next(&mut self) -> Option<Result<Record, TraceError>>;

    /// What was read and left out so far, for the report.
    fn tally(&self) -> ReadTally {
        ReadTally::default()
    }
}

/// A workload that is in memory already.
impl Workload for std::vec::IntoIter<Record> {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        Iterator::next(self).map(Ok)
    }
}

/// What became of the rows of a trace: `num_read` is `num_kept` and all of `dropped` together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTally {
    /// Requests that the trace names.
    pub num_read: u64,
    /// Those that became records.
    pub num_kept: u64,
    /// Those that did not, by reason, in the order in which reasons first occurred.
    pub dropped: Vec<(&'static str, u64)>,
}

impl ReadTally {
    /// Counts a request that is kept.
    pub fn keep(&mut self) {
        self.num_read += 1;
        self.num_kept += 1;
    }

    /// Counts a request that is left out.
    pub fn drop(&mut self, reason: &'static str) {
        self.num_read += 1;
        match self.dropped.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, num)) => *num += 1,
            None => self.dropped.push((reason, 1)),
        }
    }
}

/// What is wrong with a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// It cannot be opened or read.
    #[error("{file}: {source}")]
    Io {
        /// The trace.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing tells its format.
    #[error("{file}: {message}")]
    Format {
        /// The trace.
        file: String,
        /// What was seen, and what would have been understood.
        message: String,
    },
    /// A row is malformed.
    #[error("{file}, row {row}, {column}: {value:?} {message}")]
    Row {
        /// The trace.
        file: String,
        /// Line of the file, the first being 1.
        row: u64,
        /// Name of the column or key.
        column: String,
        /// What stands there, cut to a readable length.
        value: String,
        /// What it must be.
        message: String,
    },
}
