//! A decision log in words: why a request waited and for whom, or where time went on the whole.
//!
//! Between two plans every waiting sequence waits for one reason, the one that the plan before
//! gave it: an obstacle of its own, the obstacle of the one in front of which the queue was closed,
//! or a prefix that another computes.

mod beat;
mod reason;
mod story;
mod summary;
mod wait;

use std::io::Read;

use folio_engine::decisions::{Header, LogError, LogReader};
use folio_engine::types::{Nanos, RequestId};

use crate::history::History;
use story::Stories;

pub use summary::{ReasonShare, Summary, WaitRow};

/// Which request is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By the engine's own number.
    Number(RequestId),
    /// By the `X-Request-Id` of its answer.
    Label(String),
}

/// How moments are shown.
pub type ShowTime<'a> = dyn Fn(Nanos) -> String + 'a;

/// What was found of a request.
#[derive(Debug)]
#[must_use]
pub struct Explanation {
    /// In words, one story for each request that matches: clients may use a name twice.
    pub stories: Vec<String>,
    /// What is wrong with the end of the log, if anything is.
    pub broken: Option<LogError>,
}

/// Tells what happened to the requests that are `wanted`.
pub fn explain<R: Read>(log: LogReader<R>, wanted: &Wanted, show: &ShowTime<'_>) -> Explanation {
    let header = log.header().clone();
    let mut history = History::default();
    let mut stories = Stories::new(&header, wanted.clone());
    let broken = read(log, |entry| {
        stories.look(entry, &history);
        history.enter(entry);
    });
    Explanation { stories: stories.tell(show), broken }
}

/// Sums a log up, with the `num_rows` longest waits.
pub fn summarize<R: Read>(log: LogReader<R>, num_rows: usize) -> (Summary, Option<LogError>) {
    let header: Header = log.header().clone();
    let mut history = History::default();
    let mut summary = summary::Summing::new(&header, num_rows);
    let broken = read(log, |entry| {
        summary.look(entry, &history);
        history.enter(entry);
    });
    (summary.finish(), broken)
}

/// Shows all entries; returns what ended the log before its time.
pub(crate) fn read<R: Read>(
    log: LogReader<R>,
    mut show: impl FnMut(&folio_engine::decisions::Entry),
) -> Option<LogError> {
    for entry in log {
        match entry {
            Ok(entry) => show(&entry),
            Err(error) => return Some(error),
        }
    }
    None
}
