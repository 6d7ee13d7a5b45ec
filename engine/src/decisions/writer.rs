//! A thread that writes the log, so that the engine never waits for a disk.
//!
//! Between them is a channel of [`MAX_TURNS`] turns. When it is full the turn is left out and the
//! next that fits says how much is missing: serving comes before its record.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::LogFile;
use crate::sched::decisions::{Call, Input};
use crate::types::{Nanos, RequestId};

/// Turns of the engine that may wait for the disk.
const MAX_TURNS: usize = 1024;
/// What is held back is written when nothing has come for so long.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// A log that a thread writes. Labels come from anywhere, calls from the engine's [`LogFeed`].
#[derive(Clone, Debug)]
pub struct DecisionLog {
    sender: Sender<Message>,
}

/// The engine's end of the log.
#[derive(Debug)]
pub struct LogFeed {
    sender: Sender<Message>,
    num_lost: u64,
}

enum Message {
    Calls(Vec<Call>),
    Label(RequestId, String),
    /// Answered when all before it is in the file.
    Flush(Sender<()>),
}

impl DecisionLog {
    /// Starts the thread that writes `file`. The first failure is told to `on_failure`; nothing is
    /// written after it. The thread ends when nobody can send any more.
    pub fn start(
        file: LogFile,
        on_failure: impl FnOnce(&io::Error) + Send + 'static,
    ) -> io::Result<(Self, LogFeed, JoinHandle<()>)> {
        let (sender, receiver) = bounded(MAX_TURNS);
        let thread = std::thread::Builder::new().name("folio-decisions".into());
        let thread = thread.spawn(move || run(file, &receiver, on_failure))?;
        let feed = LogFeed { sender: sender.clone(), num_lost: 0 };
        Ok((Self { sender }, feed, thread))
    }

    /// Enters what the client calls a request. Left out when the disk is far behind.
    pub fn label(&self, request: RequestId, label: &str) {
        let _ = self.sender.try_send(Message::Label(request, label.to_owned()));
    }

    /// Waits until all that was sent before is in the file, `timeout` at the longest for each of
    /// two steps: that there is room in the channel, and that all is written.
    pub fn flush(&self, timeout: Duration) {
        let (done, written) = bounded(1);
        if self.sender.send_timeout(Message::Flush(done), timeout).is_ok() {
            let _ = written.recv_timeout(timeout);
        }
    }
}

impl LogFeed {
    /// Sends the calls of a turn, or counts them as lost.
    pub fn send(&mut self, mut calls: Vec<Call>) {
        let Some(first) = calls.first() else { return };
        let num_calls = calls.len() as u64;
        if self.num_lost > 0 {
            let gap = gap(first.at, self.num_lost);
            calls.insert(0, gap);
        }
        match self.sender.try_send(Message::Calls(calls)) {
            Ok(()) => self.num_lost = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.num_lost += num_calls;
            }
        }
    }

    /// Calls that were left out since the last turn that was not.
    #[must_use]
    pub fn num_lost(&self) -> u64 {
        self.num_lost
    }
}

fn gap(at: Nanos, num_calls: u64) -> Call {
    Call { at, input: Input::Gap { num_calls }, decisions: Vec::new() }
}

/// Writes until nobody can send any more.
fn run(mut file: LogFile, messages: &Receiver<Message>, on_failure: impl FnOnce(&io::Error)) {
    let mut on_failure = Some(on_failure);
    loop {
        let message = messages.recv_timeout(FLUSH_AFTER);
        if on_failure.is_none() {
            match message {
                Err(RecvTimeoutError::Disconnected) => return,
                _ => continue, // so that nobody finds the channel full
            }
        }
        let written = match message {
            Ok(Message::Calls(calls)) => file.write(calls),
            Ok(Message::Label(request, label)) => file.label(request, &label),
            Ok(Message::Flush(done)) => file.flush().map(|()| {
                let _ = done.send(());
            }),
            Err(RecvTimeoutError::Timeout) => file.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = file.flush();
                return;
            }
        };
        if let Err(error) = written
            && let Some(tell) = on_failure.take()
        {
            tell(&error);
        }
    }
}
