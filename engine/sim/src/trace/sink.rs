//! Where readers put what they read: keeps the rules that hold for every format.

use std::collections::VecDeque;

use folio_engine::types::Nanos;

use crate::workload::{ReadTally, Record};

/// Records read and not yet taken, and the count of all.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) records: VecDeque<Record>,
    pub(super) tally: ReadTally,
    /// Time of the first record that was kept, as the trace counts.
    origin: Option<Nanos>,
    latest: Nanos,
}

impl Sink {
    /// Keeps a record whose arrival is in the trace's own time, or drops it for cause. Tells its
    /// number if it is kept.
    pub(super) fn keep(&mut self, mut record: Record) -> Option<u64> {
        let reason = match (record.input, record.output) {
            (0, 0) => Some("no-tokens"),
            (0, _) => Some("empty-prompt"),
            (_, 0) => Some("no-answer"),
            _ if record.after.is_none() && record.arrival < self.latest => Some("out-of-order"),
            _ => None,
        };
        if let Some(reason) = reason {
            self.tally.drop(reason);
            return None;
        }
        if record.after.is_none() {
            self.latest = record.arrival;
            let origin = *self.origin.get_or_insert(record.arrival);
            record.arrival = record.arrival.since(origin);
        }
        let number = self.tally.num_kept;
        self.tally.keep();
        self.records.push_back(record);
        Some(number)
    }
}

/// The longest that a value is quoted.
const MAX_QUOTED: usize = 40;

/// `value` cut to a readable length.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(MAX_QUOTED) {
        Some((at, _)) => format!("{}...", &value[..at]),
        None => value.to_owned(),
    }
}
