//! Time as if the engine had a core of its own: what its thread computes, and what it would wait.
//!
//! Other programs on the machine take time from a thread, and none of this clock's. So it must be
//! read on the engine's thread, which must compute all by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cpu_time::ThreadTime;
use folio_engine::exec::Executor;
use folio_engine::sched::Sequences;
use folio_engine::types::{Clock, Nanos, Result, StepOutput, StepPlan};

/// Time that the calling thread was computing, and time that it was told to skip.
#[derive(Debug, Default)]
pub(super) struct ThreadClock {
    skipped: AtomicU64,
}

impl ThreadClock {
    /// Waits, which takes no time.
    pub(super) fn skip(&self, wait: Nanos) {
        self.skipped.fetch_add(wait.0, Ordering::Relaxed);
    }
}

impl Clock for ThreadClock {
    fn now(&self) -> Nanos {
        let computed = Nanos::from(ThreadTime::now().as_duration());
        computed + Nanos(self.skipped.load(Ordering::Relaxed))
    }
}

/// An executor whose steps are timed with such a clock.
pub(super) struct Timed {
    executor: Box<dyn Executor>,
    clock: Arc<ThreadClock>,
    device_time: Nanos,
}

impl Timed {
    pub(super) fn new(executor: Box<dyn Executor>, clock: Arc<ThreadClock>) -> Self {
        Self { executor, clock, device_time: Nanos(0) }
    }
}

impl Executor for Timed {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let begin = self.clock.now();
        let submitted = self.executor.submit(plan, sequences);
        self.device_time = self.clock.now().since(begin);
        submitted
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let output = self.executor.collect()?;
        Ok(StepOutput { device_time: self.device_time, ..output })
    }
}
