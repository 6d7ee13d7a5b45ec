//! WEKA's agentic coding traces: a session a line, whose requests follow each other.
//!
//! All sessions begin at once, unless arrivals are drawn: a trace does not say when each began. A
//! request is sent when the one before it in its session has ended and the tool or the person
//! has had its `think_time`. Ids of prefixes mean something within their session only, unless the
//! trace says `global`.

use std::io::BufRead;

use folio_engine::types::Nanos;
use serde_json::{Map, Value};

use super::Rows;
use super::json_rows::{Blocks, Lines};
use super::sink::Sink;
use crate::prompt::mix;
use crate::workload::{After, Record, TraceError};

/// Sessions, one a line.
pub(super) struct Sessions {
    lines: Lines,
    block: Option<u32>,
    num_read: u64,
}

impl Sessions {
    pub(super) fn new(file: &str, input: Box<dyn BufRead>, block: Option<u32>) -> Self {
        Self { lines: Lines::new(file, input), block, num_read: 0 }
    }

    /// One request of a session, and the time between the one before it and this.
    fn record(
        &self,
        request: &Map<String, Value>,
        block: u32,
        salt: u64,
    ) -> Result<(Record, Nanos), TraceError> {
        let lines = &self.lines;
        let limit = "must be a number of seconds, at least 0";
        let seconds = |value: &Value| {
            let seconds = value.as_f64().filter(|seconds| (0.0..=1e9).contains(seconds))?;
            Some(Nanos::from_secs_f64(seconds))
        };
        let think = match request.get("think_time") {
            None => Nanos(0),
            Some(_) => lines.get(request, "think_time", limit, seconds)?,
        };
        let input = lines.count(request, "in")?;
        let id_of = |id: u64| if salt == 0 { id } else { mix(id ^ salt) };
        let prefix = lines.prefix(request, "hash_ids", Blocks { input, block }, id_of)?;
        let record = Record {
            session: Some(self.num_read),
            input,
            output: lines.count(request, "out")?,
            prefix_block: if prefix.is_empty() { 0 } else { block },
            prefix,
            ..Record::default()
        };
        Ok((record, think))
    }
}

impl Rows for Sessions {
    fn read(&mut self, sink: &mut Sink) -> Result<bool, TraceError> {
        let Some(session) = self.lines.next()? else { return Ok(false) };
        let lines = &self.lines;
        let limit = "must be a whole number of tokens, 1 to 65536";
        let size = |value: &Value| {
            value.as_u64().filter(|size| (1..=1 << 16).contains(size)).map(|size| size as u32)
        };
        let block = match self.block {
            Some(block) => block,
            None => lines.get(&session, "block_size", limit, size)?,
        };
        let is_global = session.get("hash_id_scope").is_some_and(|scope| scope == "global");
        let salt = if is_global { 0 } else { mix(self.num_read) | 1 };
        let requests = lines.get(&session, "requests", "must be a list", Value::as_array)?;
        let mut records = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(request) = request.as_object() else {
                let text = request.to_string();
                return Err(lines.error("requests", &text, "must be a list of objects"));
            };
            records.push(self.record(request, block, salt)?);
        }
        let mut latest = None;
        for (mut record, think) in records {
            record.after = latest.map(|record| After { record, think });
            latest = sink.keep(record).or(latest);
        }
        self.num_read += 1;
        Ok(true)
    }
}
