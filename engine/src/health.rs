//! Whether the engine makes progress, as others see it without asking its thread.
//!
//! The engine thread beats with every step that ends; whoever submits to an idle engine beats too,
//! so that an idle hour is no stall. Everything is atomic: reading costs three loads.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::types::Nanos;

/// What can be said of the engine from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// The models are being loaded.
    Loading,
    /// It computes, or would if there were anything to compute.
    Ready,
    /// After a failure, the models are being loaded again. What waits is kept.
    Rebuilding,
    /// There is work, and no step has ended for longer than
    /// [`step_timeout`](crate::types::Protection::step_timeout).
    Stalled {
        /// Time since the last step ended, or since work came to an idle engine.
        silent_for: Nanos,
    },
    /// Its thread has ended.
    Stopped,
}

/// What the engine thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Loading,
    Serving,
    Rebuilding,
    Stopped,
}

/// The engine's pulse.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    timeout: Nanos,
    phase: AtomicU8,
    /// Choices that have not ended, those in the inbox included.
    num_unfinished: AtomicU32,
    last_beat: AtomicU64,
}

impl Heartbeat {
    /// A pulse that counts as lost after `timeout`.
    pub(crate) fn new(timeout: Nanos) -> Self {
        Self {
            timeout,
            phase: AtomicU8::new(Phase::Loading as u8),
            num_unfinished: AtomicU32::new(0),
            last_beat: AtomicU64::new(0),
        }
    }

    /// The engine thread turns to something else.
    pub(crate) fn enter(&self, phase: Phase, now: Nanos) {
        self.last_beat.store(now.0, Ordering::Release);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// A step ended. Returns how long nothing had.
    pub(crate) fn beat(&self, now: Nanos) -> Nanos {
        now.since(Nanos(self.last_beat.swap(now.0, Ordering::AcqRel)))
    }

    /// Says how many choices there are. With the first ones after none, the pulse starts anew.
    pub(crate) fn set_unfinished(&self, num: u32, now: Nanos) {
        if num > 0 && self.num_unfinished.load(Ordering::Acquire) == 0 {
            self.last_beat.store(now.0, Ordering::Release);
        }
        self.num_unfinished.store(num, Ordering::Release);
    }

    /// Whether the thread has ended.
    pub(crate) fn is_stopped(&self) -> bool {
        self.phase.load(Ordering::Acquire) == Phase::Stopped as u8
    }

    /// Whether `silent_for` without a step is a stall.
    pub(crate) fn is_stall(&self, silent_for: Nanos) -> bool {
        silent_for > self.timeout
    }

    /// What can be said at `now`.
    pub(crate) fn health(&self, now: Nanos) -> EngineHealth {
        let phase = self.phase.load(Ordering::Acquire);
        let is_busy = self.num_unfinished.load(Ordering::Acquire) > 0;
        let silent_for = now.since(Nanos(self.last_beat.load(Ordering::Acquire)));
        match phase {
            phase if phase == Phase::Loading as u8 => EngineHealth::Loading,
            phase if phase == Phase::Rebuilding as u8 => EngineHealth::Rebuilding,
            phase if phase == Phase::Stopped as u8 => EngineHealth::Stopped,
            _ if is_busy && self.is_stall(silent_for) => EngineHealth::Stalled { silent_for },
            _ => EngineHealth::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_stall_only_while_there_is_work() {
        let pulse = Heartbeat::new(Nanos(10));
        assert_eq!(pulse.health(Nanos(1000)), EngineHealth::Loading);
        pulse.enter(Phase::Serving, Nanos(1000));
        assert_eq!(pulse.health(Nanos(5000)), EngineHealth::Ready);
        pulse.set_unfinished(2, Nanos(5000));
        assert_eq!(pulse.health(Nanos(5010)), EngineHealth::Ready);
        assert_eq!(pulse.health(Nanos(5011)), EngineHealth::Stalled { silent_for: Nanos(11) });
        assert_eq!(pulse.beat(Nanos(5012)), Nanos(12));
        assert_eq!(pulse.health(Nanos(5013)), EngineHealth::Ready);
        pulse.set_unfinished(0, Nanos(5014));
        assert_eq!(pulse.health(Nanos(9000)), EngineHealth::Ready);
        pulse.enter(Phase::Rebuilding, Nanos(9000));
        assert_eq!(pulse.health(Nanos(90_000)), EngineHealth::Rebuilding);
        pulse.enter(Phase::Stopped, Nanos(9000));
        assert!(pulse.is_stopped() && pulse.health(Nanos(9001)) == EngineHealth::Stopped);
    }
}
