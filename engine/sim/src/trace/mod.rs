//! Traces of real services as workloads: one reader a format, lazily, plain or gzipped.
//!
//! A format says in which unit its times are; nothing is guessed from the numbers. Every request
//! that a trace names is kept or dropped under a name, and counted. Prefixes are shared only where
//! the trace says so. Times count from the first request that is kept.

mod csv_rows;
mod detect;
mod json_rows;
mod sessions;
mod sharegpt;
mod sink;
mod timestamp;
mod transform;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use crate::workload::{ReadTally, Record, TraceError, Workload};
use sink::Sink;

pub(crate) use transform::Drawn;
pub use transform::{Arrivals, Limited, Pace, Repeated, Rescaled, offered_rate};

/// How a trace is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Azure LLM inference traces: CSV with `TIMESTAMP` (a date), `ContextTokens`,
    /// `GeneratedTokens`.
    Azure,
    /// Mooncake: JSON lines with `timestamp` in milliseconds, `input_length`, `output_length`,
    /// `hash_ids` of 512 tokens; also `session_id` and `delay_ms` for closed loops.
    Mooncake,
    /// The same keys as vLLM's `timed_trace` reads them: seconds, and ids of 16 tokens.
    TimedTrace,
    /// Qwen-Bailian: JSON lines with `timestamp` in seconds, `input_length`, `output_length`,
    /// `hash_ids` of 16 tokens.
    Bailian,
    /// WEKA's agentic coding sessions: a session a line, in a closed loop.
    Weka,
    /// ServeGen: CSV with `arrival_s`, `tenant`, `input_tokens`, `output_tokens`.
    ServeGen,
    /// BurstGPT: CSV with `Timestamp` in seconds, `Request tokens`, `Response tokens` and others.
    BurstGpt,
    /// Lengths alone: CSV with `num_prefill_tokens`, `num_decode_tokens`.
    Lengths,
    /// ShareGPT conversations: a JSON array; lengths are estimated, four bytes to a token.
    ShareGpt,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 9] = [
        Self::Azure,
        Self::Mooncake,
        Self::TimedTrace,
        Self::Bailian,
        Self::Weka,
        Self::ServeGen,
        Self::BurstGpt,
        Self::Lengths,
        Self::ShareGpt,
    ];

    /// Name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Azure => "azure",
            Self::Mooncake => "mooncake",
            Self::TimedTrace => "timed-trace",
            Self::Bailian => "bailian",
            Self::Weka => "weka",
            Self::ServeGen => "servegen",
            Self::BurstGpt => "burstgpt",
            Self::Lengths => "lengths",
            Self::ShareGpt => "sharegpt",
        }
    }

    /// The format called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether its requests have times of their own. Those of others all arrive at once, unless
    /// arrivals are [drawn](Arrivals).
    #[must_use]
    pub fn has_times(self) -> bool {
        !matches!(self, Self::Lengths | Self::ShareGpt)
    }
}

/// How to read a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceOptions {
    /// How it is written down; `None` to find out from its beginning.
    pub format: Option<Format>,
    /// Malformed rows that are dropped, as `malformed`, before one is an error.
    pub max_bad_rows: u64,
    /// Tokens that an id of a prefix stands for, where the format's own number is not right.
    pub prefix_block: Option<u32>,
}

/// A reader of rows in one format.
trait Rows {
    /// Reads the next row into `sink`; false at the end. After an error the next row can be read.
    fn read(&mut self, sink: &mut Sink) -> Result<bool, TraceError>;
}

/// A trace being read.
pub struct Trace {
    rows: Box<dyn Rows>,
    sink: Sink,
    format: Format,
    bad_rows_left: u64,
    /// Why the first malformed row was dropped.
    first_bad_row: Option<TraceError>,
    is_over: bool,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("format", &self.format).finish_non_exhaustive()
    }
}

/// Opens the trace in the file `path`.
pub fn open(path: &Path, options: &TraceOptions) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| TraceError::Io { file: name.clone(), source })?;
    Trace::read(&name, Box::new(file), options)
}

/// Bytes looked at to find out about the format.
const PEEKED: usize = 1 << 16;

impl Trace {
    /// Reads a trace from `input`, called `name` in messages. Gzipped or plain, as its first bytes
    /// say.
    pub fn read(
        name: &str,
        input: Box<dyn Read>,
        options: &TraceOptions,
    ) -> Result<Self, TraceError> {
        let io = |source| TraceError::Io { file: name.to_owned(), source };
        let mut input = BufReader::with_capacity(PEEKED, input);
        let is_gzip = input.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let plain: Box<dyn Read> =
            if is_gzip { Box::new(MultiGzDecoder::new(input)) } else { Box::new(input) };
        let mut lines = BufReader::with_capacity(PEEKED, plain);
        let format = match options.format {
            Some(format) => format,
            None => detect::format(name, lines.fill_buf().map_err(io)?)?,
        };
        let lines: Box<dyn BufRead> = Box::new(lines);
        let block = options.prefix_block;
        let rows: Box<dyn Rows> = match format {
            Format::Azure | Format::ServeGen | Format::BurstGpt | Format::Lengths => {
                Box::new(csv_rows::Table::open(name, lines, format)?)
            }
            Format::Mooncake | Format::TimedTrace | Format::Bailian => {
                Box::new(json_rows::Requests::new(name, lines, format, block))
            }
            Format::Weka => Box::new(sessions::Sessions::new(name, lines, block)),
            Format::ShareGpt => Box::new(sharegpt::Conversations::new(name, lines)),
        };
        Ok(Self {
            rows,
            sink: Sink::default(),
            format,
            bad_rows_left: options.max_bad_rows,
            first_bad_row: None,
            is_over: false,
        })
    }

    /// How it is written down.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Why the first malformed row was dropped, if one was.
    #[must_use]
    pub fn first_bad_row(&self) -> Option<&TraceError> {
        self.first_bad_row.as_ref()
    }
}

impl Workload for Trace {
    fn next(&mut self) -> Option<Result<Record, TraceError>> {
        loop {
            if let Some(record) = self.sink.records.pop_front() {
                return Some(Ok(record));
            }
            if self.is_over {
                return None;
            }
            match self.rows.read(&mut self.sink) {
                Ok(is_more) => self.is_over = !is_more,
                Err(error @ TraceError::Row { .. }) if self.bad_rows_left > 0 => {
                    self.bad_rows_left -= 1;
                    self.sink.tally.drop("malformed");
                    self.first_bad_row.get_or_insert(error);
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    fn tally(&self) -> ReadTally {
        self.sink.tally.clone()
    }
}
