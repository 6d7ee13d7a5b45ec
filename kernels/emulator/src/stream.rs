//! Streams: commands that were enqueued and have not run, events in them, and captures of them.

use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

use folio_kernels::cuda::{Command, DevicePtr, EventId, StreamId};

use crate::machine::Kernel;

/// A command that a stream keeps.
#[derive(Clone, Debug)]
pub(crate) enum Queued {
    Launch {
        kernel: Kernel,
        grid: [u32; 3],
        num_threads: u32,
        shared_bytes: u32,
        params: Arc<[u8]>,
    },
    CopyIn {
        to: DevicePtr,
        from: NonNull<u8>,
        num_bytes: usize,
    },
    CopyOut {
        to: NonNull<u8>,
        from: DevicePtr,
        num_bytes: usize,
    },
    Copy {
        to: DevicePtr,
        from: DevicePtr,
        num_bytes: usize,
    },
    Zero {
        to: DevicePtr,
        num_bytes: usize,
    },
    /// Runs another stream up to a point.
    Wait(Point),
    /// A point that `Point`s of an event name.
    Mark,
}

// SAFETY: the pointers are to memory that the caller of `enqueue` keeps valid.
unsafe impl Send for Queued {}

/// A place in a stream: it was reached once so many of the stream's commands have run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    pub(crate) stream: StreamId,
    pub(crate) num_commands: u64,
}

/// A queue of commands.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    queue: VecDeque<Queued>,
    num_run: u64,
    capture: Option<Vec<Queued>>,
}

impl Stream {
    /// Appends a command, to the capture if there is one.
    pub(crate) fn push(&mut self, command: Queued) {
        match &mut self.capture {
            Some(capture) => capture.push(command),
            None => self.queue.push_back(command),
        }
    }

    /// The next command, if it comes before so many have run.
    pub(crate) fn pop_before(&mut self, num_commands: u64) -> Option<Queued> {
        if self.num_run >= num_commands {
            return None;
        }
        let command = self.queue.pop_front()?;
        self.num_run += 1;
        Some(command)
    }

    /// How many commands have run when all that are enqueued now have.
    pub(crate) fn num_commands(&self) -> u64 {
        self.num_run + self.queue.len() as u64
    }

    pub(crate) fn is_capturing(&self) -> bool {
        self.capture.is_some()
    }

    pub(crate) fn begin_capture(&mut self) {
        self.capture = Some(Vec::new());
    }

    pub(crate) fn end_capture(&mut self) -> Option<Vec<Queued>> {
        self.capture.take()
    }
}

/// Which kinds of command a capture takes.
pub(crate) fn is_capturable(command: &Command<'_>) -> bool {
    !matches!(command, Command::Record(_) | Command::Wait(_) | Command::Replay(_))
}

/// Where an event was last recorded.
#[derive(Debug, Default)]
pub(crate) struct Events {
    points: Vec<Option<Point>>,
}

impl Events {
    pub(crate) fn create(&mut self) -> EventId {
        self.points.push(None);
        EventId(self.points.len() as u32 - 1)
    }

    pub(crate) fn record(&mut self, event: EventId, point: Point) -> Result<(), String> {
        let recorded = self.points.get_mut(event.0 as usize);
        *recorded.ok_or_else(|| format!("no event has the id {}", event.0))? = Some(point);
        Ok(())
    }

    /// Its latest recording, if it was ever recorded.
    pub(crate) fn latest(&self, event: EventId) -> Result<Option<Point>, String> {
        let point = self.points.get(event.0 as usize).copied();
        point.ok_or_else(|| format!("no event has the id {}", event.0))
    }
}
