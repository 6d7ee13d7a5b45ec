//! What the engine's thread does after a failure: it builds another executor and goes on, until
//! there have been too many failures within a short time.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::core::Fault;
use crate::exec::Executor;
use crate::health::Phase;
use crate::panics::caught;
use crate::sched::Casualties;
use crate::setup::panicked;
use crate::thread::Engine;
use crate::types::{
    Event, FinishReason, Nanos, Protection, Request, RequestId, RequestStats, Result,
};

/// Makes an executor, again and again.
pub(crate) type Build = Box<dyn FnMut() -> Result<Box<dyn Executor>> + Send>;
/// Is told what fails.
pub(crate) type Notify = Box<dyn FnMut(&Notice<'_>) + Send>;

/// Counts of failures, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultTotals {
    /// Steps that failed, by an error of the device or a panic.
    pub num_failed_steps: u64,
    /// Requests that ended with one.
    pub num_failed_requests: u64,
    /// Sequences that were put back and computed again.
    pub num_retries: u64,
    /// Executors built after a failure.
    pub num_rebuilds: u64,
    /// Executors that could not be built after one.
    pub num_failed_rebuilds: u64,
    /// Times without the end of a step for longer than
    /// [`step_timeout`](Protection::step_timeout) while there was work.
    pub num_stalls: u64,
}

/// Something that an operator should read.
#[derive(Clone, Copy, Debug)]
pub enum Notice<'a> {
    /// A step failed; the models are loaded again.
    Failed(&'a Fault),
    /// They are.
    Rebuilt {
        /// How long it took.
        within: Nanos,
    },
    /// They could not be.
    RebuildFailed(&'a str),
    /// There were too many failures: the engine has stopped.
    GaveUp(&'a str),
}

impl fmt::Display for Notice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(Fault { message, casualties }) => {
                let Casualties { failed, num_retried } = casualties;
                let failed = List(failed);
                write!(f, "a step failed: {message}; {failed} failed, {num_retried} to be retried")
            }
            Self::Rebuilt { within } => {
                write!(f, "the engine was built anew in {:.3} s", within.as_secs_f64())
            }
            Self::RebuildFailed(message) => {
                write!(f, "the engine could not be built anew: {message}")
            }
            Self::GaveUp(message) => f.write_str(message),
        }
    }
}

/// The first few requests by number, and how many more.
struct List<'a>(&'a [RequestId]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MAX_LISTED: usize = 8;
        if self.0.is_empty() {
            return f.write_str("no request");
        }
        f.write_str(if self.0.len() == 1 { "request" } else { "requests" })?;
        for (place, id) in self.0.iter().take(MAX_LISTED).enumerate() {
            write!(f, "{}{id}", if place == 0 { " " } else { ", " })?;
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            num_more => write!(f, " and {num_more} more"),
        }
    }
}

/// When the latest failures were.
#[derive(Debug)]
pub(crate) struct Strikes {
    max: usize,
    window: Duration,
    times: VecDeque<Nanos>,
}

impl Strikes {
    pub(crate) fn new(protection: Protection) -> Self {
        Self {
            max: protection.max_failures.max(1) as usize,
            window: protection.failure_window,
            times: VecDeque::new(),
        }
    }

    /// A failure at `now`. Whether that makes too many.
    fn strike(&mut self, now: Nanos) -> bool {
        self.times.push_back(now);
        self.times.retain(|&time| now.since(time) <= self.window.into());
        self.times.len() >= self.max
    }
}

/// What became of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovery {
    Rebuilt,
    GaveUp,
}

impl Engine {
    /// Builds another executor after `fault`.
    pub(crate) fn recover(&mut self, fault: &Fault) -> Recovery {
        let began = self.now();
        let heartbeat = &self.shared().heartbeat;
        // One that ends in a failure is a stall all the same.
        let ended_stall = heartbeat.is_stall(heartbeat.beat(began));
        heartbeat.enter(Phase::Rebuilding, began);
        let Casualties { failed, num_retried } = &fault.casualties;
        self.note_failure(&fault.message, |totals| {
            totals.num_failed_steps += 1;
            totals.num_stalls += u64::from(ended_stall);
            totals.num_failed_requests += failed.len() as u64;
            totals.num_retries += u64::from(*num_retried);
        });
        (self.notify)(&Notice::Failed(fault));
        let mut message = fault.message.clone();
        while !self.strikes.strike(self.now()) {
            match caught(&mut self.build).unwrap_or_else(panicked) {
                Ok(executor) => {
                    self.core.restore(executor);
                    self.note_failure(&message, |totals| totals.num_rebuilds += 1);
                    let now = self.now();
                    (self.notify)(&Notice::Rebuilt { within: now.since(began) });
                    self.shared().heartbeat.enter(Phase::Serving, now);
                    return Recovery::Rebuilt;
                }
                Err(error) => {
                    message = error.to_string();
                    self.note_failure(&message, |totals| totals.num_failed_rebuilds += 1);
                    (self.notify)(&Notice::RebuildFailed(&message));
                }
            }
        }
        self.give_up(&message);
        Recovery::GaveUp
    }

    /// Ends everything, and the engine with it.
    fn give_up(&mut self, last: &str) {
        let Strikes { times, window, .. } = &self.strikes;
        let message = format!(
            "the engine failed {} times within {} s and has stopped; the last time: {last}",
            times.len(),
            window.as_secs_f64()
        );
        let now = self.now();
        self.shared().heartbeat.enter(Phase::Stopped, now);
        let Casualties { failed, .. } = self.core.give_up(&message);
        self.note_failure(&message, |totals| totals.num_failed_requests += failed.len() as u64);
        self.refuse_inbox(|request| end_with(request, &message));
        (self.notify)(&Notice::GaveUp(&message));
    }
}

/// Ends a request that was never admitted.
fn end_with(request: Request, message: &str) {
    for choice in request.choices {
        let reason = FinishReason::StepFailed(message.to_owned());
        let _ = choice.events.send(Event::Finished { reason, stats: RequestStats::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_close_together_count() {
        let mut strikes = Strikes::new(Protection::default());
        let second = 1_000_000_000;
        for at in [0, 50, 111, 160] {
            assert!(!strikes.strike(Nanos(at * second)), "at {at} s");
        }
        assert!(strikes.strike(Nanos(170 * second)));
    }

    #[test]
    fn a_notice_names_the_requests() {
        let fault = |ids: std::ops::Range<u64>| Fault {
            message: "device: lost".into(),
            casualties: Casualties { failed: ids.map(RequestId).collect(), num_retried: 2 },
        };
        let text = |ids| Notice::Failed(&fault(ids)).to_string();
        let expected = "a step failed: device: lost; requests 3, 4 failed, 2 to be retried";
        assert_eq!(text(3..5), expected);
        assert!(text(0..20).contains("requests 0, 1, 2, 3, 4, 5, 6, 7 and 12 more failed"));
    }
}
