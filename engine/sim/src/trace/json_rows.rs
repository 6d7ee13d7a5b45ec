//! Traces of one JSON object a line, one request each: Mooncake's and those like it.

use std::collections::HashMap;
use std::io::BufRead;
use std::sync::Arc;

use folio_engine::types::Nanos;
use serde_json::{Map, Value};

use super::sink::{Sink, quoted};
use super::{Format, Rows};
use crate::workload::{After, Record, TraceError};

/// Reads lines, and remembers which one it is at.
pub(super) struct Lines {
    pub(super) file: String,
    input: Box<dyn BufRead>,
    line: String,
    number: u64,
}

impl Lines {
    pub(super) fn new(file: &str, input: Box<dyn BufRead>) -> Self {
        Self { file: file.to_owned(), input, line: String::new(), number: 0 }
    }

    /// The object on the next line that is not empty.
    pub(super) fn next(&mut self) -> Result<Option<Map<String, Value>>, TraceError> {
        loop {
            self.line.clear();
            let io = |source| TraceError::Io { file: self.file.clone(), source };
            if self.input.read_line(&mut self.line).map_err(io)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.trim().is_empty() {
                continue;
            }
            return match serde_json::from_str(&self.line) {
                Ok(Value::Object(object)) => Ok(Some(object)),
                Ok(_) => Err(self.error("row", self.line.trim(), "must be a JSON object")),
                Err(error) => {
                    let message = format!("is not JSON: {error}");
                    Err(self.error("row", self.line.trim(), &message))
                }
            };
        }
    }

    pub(super) fn error(&self, column: &str, value: &str, message: &str) -> TraceError {
        TraceError::Row {
            file: self.file.clone(),
            row: self.number,
            column: column.to_owned(),
            value: quoted(value),
            message: message.to_owned(),
        }
    }

    /// The value under `key`, as `read` understands it.
    pub(super) fn get<'a, T>(
        &self,
        object: &'a Map<String, Value>,
        key: &str,
        limit: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<T, TraceError> {
        let Some(value) = object.get(key) else {
            return Err(self.error(key, "", "is missing"));
        };
        read(value).ok_or_else(|| self.error(key, &value.to_string(), limit))
    }

    /// A number of tokens under `key`.
    pub(super) fn count(&self, object: &Map<String, Value>, key: &str) -> Result<u32, TraceError> {
        let read = |value: &Value| u32::try_from(value.as_u64()?).ok();
        self.get(object, key, "must be a whole number of tokens, at least 0", read)
    }

    /// The ids of a prefix under `key`, each made another by `salt`: no more than `input` tokens
    /// have in blocks of `block`.
    pub(super) fn prefix(
        &self,
        object: &Map<String, Value>,
        key: &str,
        blocks: Blocks,
        salt: impl Fn(u64) -> u64,
    ) -> Result<Arc<[u64]>, TraceError> {
        let Some(value) = object.get(key) else { return Ok(Arc::from([])) };
        let limit = "must be a list of whole numbers, at least 0";
        let Some(ids) = value.as_array() else {
            return Err(self.error(key, &value.to_string(), limit));
        };
        let ids = ids.iter().map(|id| {
            let id = id.as_u64().ok_or_else(|| self.error(key, &id.to_string(), limit))?;
            Ok(salt(id))
        });
        let ids = ids.collect::<Result<Arc<[u64]>, TraceError>>()?;
        let Blocks { input, block } = blocks;
        let most = input.div_ceil(block) as usize;
        if ids.len() > most {
            let message =
                format!("are too many: {input} tokens are {most} blocks of {block} tokens");
            return Err(self.error(key, &format!("{} ids", ids.len()), &message));
        }
        Ok(ids)
    }
}

/// A prompt of `input` tokens in blocks of `block`.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) input: u32,
    pub(super) block: u32,
}

/// Requests, one a line.
pub(super) struct Requests {
    lines: Lines,
    unit: TimeUnit,
    block: u32,
    /// Sessions by their names.
    sessions: HashMap<String, Session>,
}

/// A session so far.
#[derive(Clone, Copy)]
struct Session {
    /// Its number.
    number: u64,
    /// The number of its latest request; `None` of a new one.
    latest: Option<u64>,
}

/// What a time of 1 means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TimeUnit {
    Second,
    Millisecond,
}

impl TimeUnit {
    fn time(self, number: f64) -> Option<Nanos> {
        let seconds = match self {
            Self::Second => number,
            Self::Millisecond => number / 1000.0,
        };
        (0.0..=1e10).contains(&seconds).then(|| Nanos((seconds * 1e9).round() as u64))
    }

    fn limit(self) -> &'static str {
        match self {
            Self::Second => "must be a number of seconds, at least 0",
            Self::Millisecond => "must be a number of milliseconds, at least 0",
        }
    }
}

impl Requests {
    pub(super) fn new(
        file: &str,
        input: Box<dyn BufRead>,
        format: Format,
        block: Option<u32>,
    ) -> Self {
        let (unit, usual) = match format {
            Format::Mooncake => (TimeUnit::Millisecond, 512),
            _ => (TimeUnit::Second, 16),
        };
        let lines = Lines::new(file, input);
        Self { lines, unit, block: block.unwrap_or(usual), sessions: HashMap::new() }
    }

    fn record(&self, object: &Map<String, Value>) -> Result<Record, TraceError> {
        let lines = &self.lines;
        let input = lines.count(object, "input_length")?;
        let blocks = Blocks { input, block: self.block };
        let prefix = lines.prefix(object, "hash_ids", blocks, |id| id)?;
        Ok(Record {
            arrival: Nanos(0),
            input,
            output: lines.count(object, "output_length")?,
            prefix_block: if prefix.is_empty() { 0 } else { self.block },
            prefix,
            ..Record::default()
        })
    }

    /// The session of a request: its name, and how it stands.
    fn session(
        &self,
        object: &Map<String, Value>,
    ) -> Result<Option<(String, Session)>, TraceError> {
        let name = match object.get("session_id") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(name)) => name.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => {
                let message = "must be a text or a number";
                return Err(self.lines.error("session_id", &other.to_string(), message));
            }
        };
        let new = Session { number: self.sessions.len() as u64, latest: None };
        let session = self.sessions.get(&name).copied().unwrap_or(new);
        Ok(Some((name, session)))
    }
}

impl Rows for Requests {
    fn read(&mut self, sink: &mut Sink) -> Result<bool, TraceError> {
        let Some(object) = self.lines.next()? else { return Ok(false) };
        let mut record = self.record(&object)?;
        let session = self.session(&object)?;
        let delay = TimeUnit::Millisecond;
        let think = match object.get("delay_ms").or_else(|| object.get("delay")) {
            None | Some(Value::Null) => None,
            Some(value) => {
                Some(value.as_f64().and_then(|ms| delay.time(ms)).ok_or_else(|| {
                    self.lines.error("delay_ms", &value.to_string(), delay.limit())
                })?)
            }
        };
        let latest = session.as_ref().and_then(|(_, session)| session.latest);
        if let (Some(latest), Some(think)) = (latest, think) {
            record.after = Some(After { record: latest, think });
        } else {
            let read = |value: &Value| self.unit.time(value.as_f64()?);
            record.arrival = self.lines.get(&object, "timestamp", self.unit.limit(), read)?;
        }
        record.session = session.as_ref().map(|(_, session)| session.number);
        let kept = sink.keep(record);
        if let (Some((name, session)), Some(index)) = (session, kept) {
            self.sessions.insert(name, Session { latest: Some(index), ..session });
        }
        Ok(true)
    }
}
