//! Reading a log, entry by entry, with the place of what is wrong in it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::Header;
use super::decode::Decoder;
use super::wire::{Item, MAGIC, MAX_FRAME_BYTES, VERSION};
use crate::sched::decisions::{Arrival, Call};
use crate::types::{Nanos, RequestId};

/// One entry of a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A call of the scheduler. Boxed: the others are small.
    Call(Box<Call>),
    /// What the client calls a request, as in its `X-Request-Id`.
    Label {
        /// Which request.
        request: RequestId,
        /// Its name.
        label: String,
    },
    /// A request that arrived before this file began and has not ended.
    Carried {
        /// When it arrived.
        at: Nanos,
        /// As it arrived, without its prompt.
        arrival: Box<Arrival>,
        /// Tokens of its prompt.
        prompt_len: u32,
    },
}

/// What is wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("cannot be opened: {0}")]
    Open(io::Error),
    /// The file cannot be read.
    #[error("byte {offset}: {error}")]
    Io {
        /// How far it was read.
        offset: u64,
        /// Why.
        error: io::Error,
    },
    /// Something else.
    #[error("byte 0: not a decision log of folio")]
    NotALog,
    /// Written by another version.
    #[error(
        "byte 19: version {found:?} of the decision log, and this program reads version {VERSION}"
    )]
    Version {
        /// As the file says.
        found: String,
    },
    /// It ends in the middle; all before is read.
    #[error("byte {offset}: the log was cut off here; what comes before is whole")]
    CutOff {
        /// Where the frame begins that is not whole.
        offset: u64,
    },
    /// It was changed or overwritten; all before is read.
    #[error("byte {offset}: the log is damaged: {what}")]
    Damaged {
        /// Where the frame begins that is damaged.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Reads a log from its beginning. After an error nothing follows.
#[derive(Debug)]
pub struct LogReader<R> {
    source: R,
    header: Header,
    decoder: Decoder,
    /// Where the next frame begins.
    offset: u64,
    frame: Vec<u8>,
    /// How much of the frame is read.
    position: usize,
    is_over: bool,
}

impl LogReader<BufReader<File>> {
    /// The log at `path`.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let file = File::open(path).map_err(LogError::Open)?;
        Self::new(BufReader::new(file))
    }
}

impl<R: Read> LogReader<R> {
    /// The log that `source` holds.
    pub fn new(mut source: R) -> Result<Self, LogError> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < MAGIC.len() + 16 && line.last() != Some(&b'\n') {
            match source.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => line.push(byte[0]),
                Err(error) => return Err(LogError::Io { offset: line.len() as u64, error }),
            }
        }
        let version = line.strip_prefix(MAGIC).ok_or(LogError::NotALog)?;
        let version = String::from_utf8_lossy(version).trim().to_owned();
        if version != VERSION.to_string() {
            return Err(LogError::Version { found: version });
        }
        let mut offset = line.len() as u64;
        let json = read_frame(&mut source, offset)?.ok_or(LogError::CutOff { offset })?;
        let header = serde_json::from_slice(&json)
            .map_err(|error| LogError::Damaged { offset, what: format!("header: {error}") })?;
        offset += json.len() as u64 + 8;
        let decoder = Decoder::default();
        Ok(Self { source, header, decoder, offset, frame: Vec::new(), position: 0, is_over: false })
    }

    /// What the log is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read(&mut self) -> Result<Option<Entry>, LogError> {
        if self.position == self.frame.len() {
            self.offset += if self.frame.is_empty() { 0 } else { self.frame.len() as u64 + 8 };
            self.position = 0;
            self.frame.clear();
            match read_frame(&mut self.source, self.offset)? {
                Some(frame) => self.frame = frame,
                None => return Ok(None),
            }
        }
        let damaged = |what: &dyn std::fmt::Display| LogError::Damaged {
            offset: self.offset,
            what: what.to_string(),
        };
        let rest = &self.frame[self.position..];
        let (item, rest) = postcard::take_from_bytes(rest).map_err(|error| damaged(&error))?;
        self.position = self.frame.len() - rest.len();
        Ok(Some(match item {
            Item::Call(call) => {
                let call = self.decoder.call(call).map_err(|what| damaged(&what))?;
                Entry::Call(Box::new(call))
            }
            Item::Label(request, label) => Entry::Label { request, label },
            Item::Carried { at, arrival, prompt_len } => Entry::Carried { at, arrival, prompt_len },
        }))
    }
}

impl<R: Read> Iterator for LogReader<R> {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let entry = self.read().transpose();
        self.is_over = !matches!(entry, Some(Ok(_)));
        entry
    }
}

/// The frame at `offset`; `None` at the end.
fn read_frame(source: &mut impl Read, offset: u64) -> Result<Option<Vec<u8>>, LogError> {
    let io = |error| LogError::Io { offset, error };
    let mut head = Vec::new();
    source.by_ref().take(8).read_to_end(&mut head).map_err(io)?;
    if head.is_empty() {
        return Ok(None);
    }
    let Ok(head) = <[u8; 8]>::try_from(head) else { return Err(LogError::CutOff { offset }) };
    let head = u64::from_le_bytes(head);
    let (len, checksum) = (head as u32, (head >> 32) as u32);
    if len == 0 || len > MAX_FRAME_BYTES {
        let what = format!("a frame of {len} bytes, at most {MAX_FRAME_BYTES} and at least 1");
        return Err(LogError::Damaged { offset, what });
    }
    let mut frame = Vec::new();
    source.by_ref().take(u64::from(len)).read_to_end(&mut frame).map_err(io)?;
    if frame.len() < len as usize {
        return Err(LogError::CutOff { offset });
    }
    if crc32fast::hash(&frame) != checksum {
        return Err(LogError::Damaged { offset, what: "the checksum does not match".to_owned() });
    }
    Ok(Some(frame))
}
