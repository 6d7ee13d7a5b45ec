//! Who arrives next: the workload's own times, and the requests that wait for others to end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use folio_engine::types::Nanos;

use crate::options::SimError;
use crate::workload::{ReadTally, Record, Workload};

/// A record that is sent, and its number.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) index: u64,
    pub(crate) record: Record,
}

/// Records on their way to the engine.
pub(crate) struct Arrivals<'a> {
    workload: &'a mut dyn Workload,
    /// Read and not sent yet: the next of those that have a time of their own.
    next: Option<Arrival>,
    num_read: u64,
    /// Those whose time has come to be known, by time and number.
    due: BinaryHeap<Reverse<(Nanos, u64)>>,
    /// Records of `due`.
    due_records: HashMap<u64, Record>,
    /// Those that wait for the end of another, by its number.
    waiting: BTreeMap<u64, Vec<Arrival>>,
    /// When requests of sessions ended, by their number.
    ended: HashMap<u64, Nanos>,
    /// From this time on nobody is sent.
    closes_at: Option<Nanos>,
}

impl<'a> Arrivals<'a> {
    /// Reads on until it is known who arrives first.
    pub(crate) fn new(
        workload: &'a mut dyn Workload,
        closes_at: Option<Nanos>,
    ) -> Result<Self, SimError> {
        let mut arrivals = Self {
            workload,
            next: None,
            num_read: 0,
            due: BinaryHeap::new(),
            due_records: HashMap::new(),
            waiting: BTreeMap::new(),
            ended: HashMap::new(),
            closes_at,
        };
        arrivals.read_on()?;
        Ok(arrivals)
    }

    /// Time of the next arrival.
    pub(crate) fn next_at(&self) -> Option<Nanos> {
        let next = self.next.as_ref().map(|arrival| arrival.record.arrival);
        let due = self.due.peek().map(|&Reverse((at, _))| at);
        let at = [next, due].into_iter().flatten().min()?;
        self.closes_at.is_none_or(|closes_at| at < closes_at).then_some(at)
    }

    /// The next one that arrives at `now`, which is its time.
    pub(crate) fn pop(&mut self, now: Nanos) -> Result<Option<Arrival>, SimError> {
        if self.next_at() != Some(now) {
            return Ok(None);
        }
        let is_own = self.next.as_ref().is_some_and(|arrival| arrival.record.arrival == now);
        if is_own {
            let arrival = self.next.take();
            self.read_on()?;
            return Ok(arrival);
        }
        let Some(Reverse((_, index))) = self.due.pop() else { return Ok(None) };
        let record = self.due_records.remove(&index);
        Ok(record.map(|record| Arrival { index, record }))
    }

    /// A request has ended: those that waited for it will be sent.
    pub(crate) fn note_end(&mut self, index: u64, is_in_session: bool, now: Nanos) {
        for successor in self.waiting.remove(&index).unwrap_or_default() {
            self.release(successor, now);
        }
        if is_in_session {
            self.ended.insert(index, now);
        }
    }

    /// Sends a record that waited for the end of another, at `ended`.
    fn release(&mut self, mut arrival: Arrival, ended: Nanos) {
        let think = arrival.record.after.map_or(Nanos(0), |after| after.think);
        arrival.record.arrival = ended + think;
        self.due.push(Reverse((arrival.record.arrival, arrival.index)));
        self.due_records.insert(arrival.index, arrival.record);
    }

    /// Reads up to the next record with a time of its own.
    fn read_on(&mut self) -> Result<(), SimError> {
        while let Some(record) = self.workload.next() {
            let record = record?;
            let arrival = Arrival { index: self.num_read, record };
            self.num_read += 1;
            let Some(after) = arrival.record.after else {
                self.next = Some(arrival);
                return Ok(());
            };
            if after.record >= arrival.index {
                return Err(SimError::After { record: arrival.index, after: after.record });
            }
            match self.ended.get(&after.record) {
                Some(&ended) => self.release(arrival, ended),
                None => self.waiting.entry(after.record).or_default().push(arrival),
            }
        }
        Ok(())
    }

    /// What was read and left out.
    pub(crate) fn tally(&self) -> ReadTally {
        self.workload.tally()
    }
}
