//! When what happened to a choice: marks for traces, recorded only where somebody asked for them.
//!
//! Marks have their own channel, which nobody waits on: recording one is a push into a bounded
//! queue, and what does not fit is left out. The step path does nothing else for them.

use tokio::sync::mpsc;

use super::Nanos;

/// Most marks that are kept of one choice; later ones are left out.
pub const MAX_MARKS: usize = 256;

/// Something that happened to a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Nanos,
    /// What.
    pub kind: MarkKind,
}

/// What happened to a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// A step was planned that computes this many tokens of its prompt, or of what a preemption
    /// dropped.
    ChunkPlanned(u32),
    /// The oldest such step has ended.
    ChunkComputed(u32),
    /// Its blocks were taken away.
    Preempted,
    /// It was given blocks again.
    Resumed,
}

/// Receiving end of a choice's marks. Read it without waiting, once the choice has ended.
pub type MarkReceiver = mpsc::Receiver<Mark>;

/// Sending end of a choice's marks.
#[derive(Clone, Debug)]
pub(super) struct MarkSender(mpsc::Sender<Mark>);

impl MarkSender {
    /// A channel for the first [`MAX_MARKS`] marks of a choice.
    pub(super) fn channel() -> (Self, MarkReceiver) {
        let (sender, receiver) = mpsc::channel(MAX_MARKS);
        (Self(sender), receiver)
    }

    /// Records a mark, if there is room.
    pub(super) fn send(&self, mark: Mark) {
        // Beyond the bound, or when nobody reads any more, the mark is lost, as promised.
        let _ = self.0.try_send(mark);
    }
}
