//! A thread that writes the log, so that the engine never waits for a disk.
//!
//! Between them is a channel of [`MAX_TURNS`] turns. When it is full the turn is left out and the
//! next that fits says how much is missing: serving comes before its record.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use super::LogFile;
use crate::sched::decisions::{Call, Decision, Input};
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
    lost: Lost,
}

/// What found no room in the channel since something last did.
#[derive(Debug, Default)]
struct Lost {
    calls: u64,
    planned: u32,
    ended: u32,
}

/// What the operator should know of a log.
#[derive(Debug, thiserror::Error)]
pub enum LogNotice {
    /// It cannot be written any more.
    #[error("the decision log ends here, for it cannot be written: {0}")]
    Failed(io::Error),
    /// The disk could not keep up.
    #[error("the disk cannot keep up: {0} calls are missing in the decision log")]
    Lost(u64),
}

enum Message {
    Calls(Vec<Call>),
    Label(RequestId, String),
    /// Answered when all before it is in the file.
    Flush(Sender<()>),
}

impl DecisionLog {
    /// Starts the thread that writes `file`. It tells `notify` of the first failure, after which
    /// nothing is written, and of gaps. It ends when nobody can send any more.
    pub fn start(
        file: LogFile,
        notify: impl FnMut(&LogNotice) + Send + 'static,
    ) -> io::Result<(Self, LogFeed, JoinHandle<()>)> {
        let (sender, receiver) = bounded(MAX_TURNS);
        let thread = std::thread::Builder::new().name("folio-decisions".into());
        let thread = thread.spawn(move || run(file, &receiver, notify))?;
        let feed = LogFeed { sender: sender.clone(), lost: Lost::default() };
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
        if self.lost.calls > 0 {
            let gap = self.lost.call(first.at);
            calls.insert(0, gap);
        }
        let unsent = match self.sender.try_send(Message::Calls(calls)) {
            Ok(()) => return self.lost = Lost::default(),
            Err(TrySendError::Full(unsent) | TrySendError::Disconnected(unsent)) => unsent,
        };
        if let Message::Calls(calls) = unsent {
            for call in &calls {
                self.lost.count(call);
            }
        }
    }

    /// Calls that were left out since the last turn that was not.
    #[must_use]
    pub fn num_lost(&self) -> u64 {
        self.lost.calls
    }
}

impl Lost {
    fn count(&mut self, call: &Call) {
        match call.input {
            Input::Gap { .. } => return, // it is what was counted before
            Input::Commit { .. } => self.ended += 1,
            Input::Reset { .. } | Input::FailAll { .. } => self.ended = u32::MAX / 2,
            _ => {}
        }
        self.calls += 1;
        let is_planned = |decision: &&Decision| matches!(decision, Decision::Planned(_));
        self.planned += call.decisions.iter().filter(is_planned).count() as u32;
    }

    fn call(&self, at: Nanos) -> Call {
        let Self { calls: num_calls, planned: num_planned, ended: num_ended } = *self;
        let input = Input::Gap { num_calls, num_planned, num_ended };
        Call { at, input, decisions: Vec::new() }
    }
}

/// Writes until nobody can send any more.
fn run(mut file: LogFile, messages: &Receiver<Message>, mut notify: impl FnMut(&LogNotice)) {
    loop {
        let written = match messages.recv_timeout(FLUSH_AFTER) {
            Ok(Message::Calls(calls)) => {
                if let Some(Call { input: Input::Gap { num_calls, .. }, .. }) = calls.first() {
                    notify(&LogNotice::Lost(*num_calls));
                }
                file.write(calls)
            }
            Ok(Message::Label(request, label)) => file.label(request, &label),
            Ok(Message::Flush(done)) => file.flush().map(|()| {
                let _ = done.send(());
            }),
            Err(RecvTimeoutError::Timeout) => file.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                if let Err(error) = file.flush() {
                    notify(&LogNotice::Failed(error));
                }
                return;
            }
        };
        if let Err(error) = written {
            notify(&LogNotice::Failed(error));
            break;
        }
    }
    // So that nobody finds the channel full.
    messages.iter().for_each(drop);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A feed into a channel that nobody empties.
    #[test]
    fn what_finds_no_room_is_counted_and_told_with_the_next_that_does() {
        let (sender, receiver) = bounded(1);
        let mut feed = LogFeed { sender, lost: Lost::default() };
        let call = |at, input| Call { at: Nanos(at), input, decisions: Vec::new() };
        let commit = Input::Commit { device_time: Nanos(1), results: Vec::new() };
        let turn =
            |at| vec![call(at, Input::Plan), call(at, commit.clone()), call(at, Input::Plan)];
        for at in 0..3 {
            feed.send(turn(at));
        }
        feed.send(Vec::new());
        assert_eq!(feed.num_lost(), 6);
        let Ok(Message::Calls(first)) = receiver.recv() else { panic!("no calls") };
        assert_eq!(first, turn(0));
        feed.send(turn(9));
        assert_eq!(feed.num_lost(), 0);
        let Ok(Message::Calls(calls)) = receiver.recv() else { panic!("no calls") };
        assert_eq!(calls[0].input, Input::Gap { num_calls: 6, num_planned: 0, num_ended: 2 });
        assert_eq!(calls[1..], turn(9));
    }
}
