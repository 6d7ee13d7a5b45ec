//! Traces that are tables: columns are found by their names, whatever their order.

use std::io::BufRead;
use std::str::FromStr;

use csv::StringRecord;
use folio_engine::types::Nanos;

use super::sink::{Sink, quoted};
use super::{Format, Rows, timestamp};
use crate::workload::{Record, TraceError};

/// A table being read.
pub(super) struct Table {
    file: String,
    reader: csv::Reader<Box<dyn BufRead>>,
    names: StringRecord,
    columns: Columns,
    row: StringRecord,
}

/// Where things stand in a row.
struct Columns {
    format: Format,
    time: Option<usize>,
    tenant: Option<usize>,
    input: usize,
    output: usize,
}

impl Table {
    /// Reads the names of the columns.
    pub(super) fn open(
        file: &str,
        input: Box<dyn BufRead>,
        format: Format,
    ) -> Result<Self, TraceError> {
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(input);
        let names = reader.headers().map_err(|error| broken(file, &error))?.clone();
        let find = |name: &str| {
            let is_it = |column: &str| column.trim_start_matches('\u{feff}') == name;
            names.iter().position(is_it).ok_or_else(|| TraceError::Format {
                file: file.to_owned(),
                message: format!(
                    "a trace of the format {} has a column {name:?}; this one has {:?}",
                    format.name(),
                    quoted(&names.iter().collect::<Vec<_>>().join(","))
                ),
            })
        };
        let (time, tenant, input, output) = match format {
            Format::Azure => (Some("TIMESTAMP"), None, "ContextTokens", "GeneratedTokens"),
            Format::ServeGen => {
                (Some("arrival_s"), Some("tenant"), "input_tokens", "output_tokens")
            }
            Format::BurstGpt => (Some("Timestamp"), None, "Request tokens", "Response tokens"),
            _ => (None, None, "num_prefill_tokens", "num_decode_tokens"),
        };
        let columns = Columns {
            format,
            time: time.map(find).transpose()?,
            tenant: tenant.map(find).transpose()?,
            input: find(input)?,
            output: find(output)?,
        };
        Ok(Self { file: file.to_owned(), reader, names, columns, row: StringRecord::new() })
    }

    fn record(&self) -> Result<Record, TraceError> {
        let Columns { format, time, tenant, input, output } = self.columns;
        let arrival = match time {
            None => Nanos(0),
            Some(column) if format == Format::Azure => {
                let text = self.text(column)?;
                timestamp::parse(text).ok_or_else(|| {
                    self.error(column, "must be a date and time such as 2023-11-16 18:15:46.68")
                })?
            }
            Some(column) => {
                let limit = "must be a number of seconds, at least 0";
                let seconds: f64 = self.number(column, limit)?;
                let is_time = (0.0..=1e9).contains(&seconds);
                if !is_time {
                    return Err(self.error(column, limit));
                }
                Nanos::from_secs_f64(seconds)
            }
        };
        let count = "must be a whole number of tokens, at least 0";
        Ok(Record {
            arrival,
            tenant: match tenant {
                Some(column) => self.number(column, "must be a whole number, at least 0")?,
                None => 0,
            },
            input: self.number(input, count)?,
            output: self.number(output, count)?,
            ..Record::default()
        })
    }

    fn text(&self, column: usize) -> Result<&str, TraceError> {
        self.row.get(column).ok_or_else(|| self.error(column, "the row ends before it"))
    }

    fn number<T: FromStr>(&self, column: usize, limit: &str) -> Result<T, TraceError> {
        self.text(column)?.parse().map_err(|_| self.error(column, limit))
    }

    fn error(&self, column: usize, message: &str) -> TraceError {
        TraceError::Row {
            file: self.file.clone(),
            row: self.row.position().map_or(0, csv::Position::line),
            column: self.names.get(column).unwrap_or_default().to_owned(),
            value: quoted(self.row.get(column).unwrap_or_default()),
            message: message.to_owned(),
        }
    }
}

impl Rows for Table {
    fn read(&mut self, sink: &mut Sink) -> Result<bool, TraceError> {
        let mut row = std::mem::take(&mut self.row);
        let is_more = self.reader.read_record(&mut row).map_err(|error| broken(&self.file, &error));
        self.row = row;
        if !is_more? {
            return Ok(false);
        }
        sink.keep(self.record()?);
        Ok(true)
    }
}

/// What the parser of tables has to complain about.
fn broken(file: &str, error: &csv::Error) -> TraceError {
    if let csv::ErrorKind::Io(source) = error.kind() {
        let source = std::io::Error::new(source.kind(), source.to_string());
        return TraceError::Io { file: file.to_owned(), source };
    }
    TraceError::Row {
        file: file.to_owned(),
        row: error.position().map_or(0, csv::Position::line),
        column: "row".to_owned(),
        value: String::new(),
        message: error.to_string(),
    }
}
