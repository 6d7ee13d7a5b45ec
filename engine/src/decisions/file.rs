//! A log on disk as it grows: frames, and a second file when the first is full.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::encode::Encoder;
use super::wire::{Item, MAGIC, VERSION};
use super::{Disguise, Header};
use crate::sched::decisions::Call;
use crate::types::{Nanos, RequestId};

/// A frame is written when it has so many bytes, or so many calls.
const FRAME_BYTES: usize = 64 << 10;
const FRAME_CALLS: u32 = 1000;
/// Or when its first call is so old, so that a log can be read while it grows.
const FRAME_TIME: Nanos = Nanos(500_000_000);

/// How large a log may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Most bytes on disk, nearly: when the file has half of them it becomes `FILE.1`, in place of
    /// the one before, and a new one is begun. `None` for no limit.
    pub max_bytes: Option<u64>,
}

/// A log that is being written.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    limits: LogLimits,
    header: Header,
    disguise: Disguise,
    encoder: Encoder,
    file: File,
    /// Items that are not in the file yet.
    frame: Vec<u8>,
    num_calls: u32,
    /// Time of the first of them.
    frame_since: Nanos,
    num_bytes: u64,
}

impl LogFile {
    /// A new log at `path`, in place of one that is there.
    pub fn create(
        path: &Path,
        header: Header,
        disguise: Disguise,
        limits: LogLimits,
    ) -> io::Result<Self> {
        let (file, num_bytes) = begin(path, &header)?;
        Ok(Self {
            path: path.to_owned(),
            limits,
            header,
            disguise,
            encoder: Encoder::default(),
            file,
            frame: Vec::new(),
            num_calls: 0,
            frame_since: Nanos(0),
            num_bytes,
        })
    }

    /// Adds calls, less their texts.
    pub fn write(&mut self, calls: Vec<Call>) -> io::Result<()> {
        for mut call in calls {
            self.disguise.apply(&mut call);
            let at = call.at;
            if self.num_calls == 0 {
                self.frame_since = at;
            }
            let item = self.encoder.call(call);
            self.push(&item)?;
            self.num_calls += 1;
            let is_old = at.since(self.frame_since) >= FRAME_TIME;
            let is_long = self.frame.len() >= self.max_frame_bytes();
            if is_old || is_long || self.num_calls >= FRAME_CALLS {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Adds what the client calls a request.
    pub fn label(&mut self, request: RequestId, label: &str) -> io::Result<()> {
        self.push(&Item::Label(request, label.to_owned()))
    }

    /// Writes what is held back, so that it can be read.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        self.num_bytes += write_frame(&mut self.file, &self.frame)?;
        self.frame.clear();
        self.num_calls = 0;
        let is_full = self.limits.max_bytes.is_some_and(|max| self.num_bytes >= max / 2);
        if is_full { self.rotate() } else { Ok(()) }
    }

    /// Goes on in a new file, which begins with the requests that have not ended.
    fn rotate(&mut self) -> io::Result<()> {
        let mut old = OsString::from(&self.path);
        old.push(".1");
        std::fs::rename(&self.path, old)?;
        self.header.continues = true;
        (self.file, self.num_bytes) = begin(&self.path, &self.header)?;
        self.encoder = Encoder::default();
        let carried = self.disguise.live().into_iter().map(|live| Item::Carried {
            at: live.at,
            arrival: Box::new(live.arrival.clone()),
            prompt_len: live.prompt_len,
        });
        for item in carried.collect::<Vec<_>>() {
            self.push(&item)?;
        }
        Ok(())
    }

    /// Small beside the limit of the log, so that the limit is kept nearly.
    fn max_frame_bytes(&self) -> usize {
        let max = self.limits.max_bytes.map_or(u64::MAX, |max| max / 8);
        FRAME_BYTES.min(usize::try_from(max).unwrap_or(usize::MAX))
    }

    fn push(&mut self, item: &Item) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.frame = postcard::to_extend(item, frame).map_err(io::Error::other)?;
        Ok(())
    }
}

fn begin(path: &Path, header: &Header) -> io::Result<(File, u64)> {
    let mut file = File::create(path)?;
    let mut first_line = MAGIC.to_vec();
    writeln!(first_line, "{VERSION}")?;
    file.write_all(&first_line)?;
    let header = serde_json::to_vec(header).map_err(io::Error::other)?;
    let num_bytes = write_frame(&mut file, &header)?;
    Ok((file, num_bytes + first_line.len() as u64))
}

/// Length, checksum, content: in one call, so that little can come between.
fn write_frame(file: &mut File, content: &[u8]) -> io::Result<u64> {
    let mut frame = Vec::with_capacity(content.len() + 8);
    frame.extend((content.len() as u32).to_le_bytes());
    frame.extend(crc32fast::hash(content).to_le_bytes());
    frame.extend(content);
    file.write_all(&frame)?;
    Ok(frame.len() as u64)
}
