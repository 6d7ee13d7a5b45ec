//! The engine thread and the handle through which the rest of the program reaches it.
//!
//! Requests go in through one bounded channel; events come out through one channel a choice.
//! The thread owns the scheduler and the executor; it waits for requests only when it has no work
//! and never waits for a client. The metrics snapshot is the one thing under a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use parking_lot::Mutex;

use crate::core::{EngineCore, Turn};
use crate::exec::Executor;
use crate::sched::{Gauges, Policy, check_request};
use crate::types::{
    Clock, EngineConfig, Error, Nanos, Refusal, Request, RequestId, Result, StepReport, SystemClock,
};

/// Access to a running engine. Clones share it; when the last is dropped, the engine finishes
/// what it has and its thread ends.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    inbox: Sender<Request>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: EngineConfig,
    clock: SystemClock,
    next_request: AtomicU64,
    /// Choices submitted and not yet taken out of the inbox by the engine.
    num_in_inbox: AtomicU32,
    snapshot: Mutex<MetricsSnapshot>,
}

/// The engine's state after its latest step.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Queues, pool and totals.
    pub gauges: Gauges,
    /// How many steps computed how many tokens: counts for [`STEP_TOKEN_BUCKETS`], then the rest.
    pub step_token_counts: [u64; STEP_TOKEN_BUCKETS.len() + 1],
    /// Tokens computed by all steps.
    pub num_step_tokens: u64,
    /// Steps that failed on the device.
    pub num_failed_steps: u64,
}

/// Upper bounds, inclusive, of the histogram of tokens a step.
pub const STEP_TOKEN_BUCKETS: [u32; 13] = [
    1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
];

impl EngineHandle {
    /// Starts the engine thread. `build` runs on it, so that what it makes never changes threads;
    /// this returns when it has. The thread's own result is that of its run.
    pub fn spawn<B>(
        config: EngineConfig,
        policy: Box<dyn Policy>,
        build: B,
    ) -> Result<(Self, JoinHandle<()>)>
    where
        B: FnOnce() -> Result<Box<dyn Executor>> + Send + 'static,
    {
        let config = config.validated()?;
        let capacity = config.max_queued_requests as usize + config.max_num_seqs as usize;
        let (inbox, requests) = crossbeam_channel::bounded(capacity);
        let (ready, built) = crossbeam_channel::bounded(1);
        let clock = SystemClock::start();
        let shared = Arc::new(Shared {
            config: config.clone(),
            clock,
            next_request: AtomicU64::new(0),
            num_in_inbox: AtomicU32::new(0),
            snapshot: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("folio-engine".into())
            .spawn(move || match build() {
                Ok(executor) => {
                    let core = EngineCore::new(config, policy, executor, Box::new(clock));
                    let mut engine = Engine {
                        core,
                        requests,
                        shared: of_thread,
                    };
                    engine.publish(None);
                    let _ = ready.send(Ok(()));
                    engine.run();
                }
                Err(error) => drop(ready.send(Err(error))),
            });
        let thread = thread.map_err(|error| Error::Device(format!("engine thread: {error}")))?;
        built.recv().map_err(|_| Error::Stopped)??;
        Ok((Self { inbox, shared }, thread))
    }

    /// Whether the engine could ever compute `request`, with the numbers if not.
    pub fn check(&self, request: &Request) -> std::result::Result<(), Refusal> {
        check_request(request, &self.shared.config)
    }

    /// Hands requests over: all of them, or none when the queue has no room for all.
    pub fn submit(&self, requests: Vec<Request>) -> std::result::Result<(), Refusal> {
        let num_new = requests
            .iter()
            .map(|request| request.choices.len() as u32)
            .sum::<u32>();
        let waiting = self.shared.snapshot.lock().gauges.num_waiting;
        let limit = self.shared.config.max_queued_requests;
        self.shared
            .num_in_inbox
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |in_inbox| {
                (waiting + in_inbox + num_new <= limit).then_some(in_inbox + num_new)
            })
            .map_err(|in_inbox| Refusal::QueueFull {
                queued: waiting + in_inbox,
                limit,
            })?;
        for request in requests {
            let num_choices = request.choices.len() as u32;
            if self.inbox.try_send(request).is_err() {
                self.shared
                    .num_in_inbox
                    .fetch_sub(num_choices, Ordering::AcqRel);
                return Err(Refusal::Stopped);
            }
        }
        Ok(())
    }

    /// An id that no other request has.
    #[must_use]
    pub fn next_request_id(&self) -> RequestId {
        RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed))
    }

    /// The engine's settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.shared.config
    }

    /// The engine's time, in which [`RequestStats`](crate::types::RequestStats) are given.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.shared.clock.now()
    }

    /// The state after the latest step, requests in the inbox counted as waiting.
    #[must_use]
    pub fn metrics(&self) -> MetricsSnapshot {
        let mut snapshot = self.shared.snapshot.lock().clone();
        snapshot.gauges.num_waiting += self.shared.num_in_inbox.load(Ordering::Acquire);
        snapshot
    }
}

/// What the engine thread owns.
struct Engine {
    core: EngineCore,
    requests: Receiver<Request>,
    shared: Arc<Shared>,
}

impl Engine {
    /// Serves until every handle is gone and all work is done.
    fn run(&mut self) {
        loop {
            let is_open = self.take_requests();
            match self.core.step() {
                Turn::Idle => {
                    self.publish(None);
                    if !self.wait_for_request(is_open) {
                        return;
                    }
                }
                Turn::Stepped(report) => self.publish(Some(&report)),
                Turn::Failed(_) => {
                    self.shared.snapshot.lock().num_failed_steps += 1;
                    self.publish(None);
                }
            }
        }
    }

    /// Admits all that has arrived; false when no handle is left.
    fn take_requests(&mut self) -> bool {
        loop {
            match self.requests.try_recv() {
                Ok(request) => self.admit(request),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Sleeps until there is something to do; false when there never will be.
    fn wait_for_request(&mut self, is_open: bool) -> bool {
        if !self.core.is_idle() {
            return true; // what could not be planned was cancelled meanwhile, or will be
        }
        if !is_open {
            return false;
        }
        let request = self.requests.recv();
        request.map(|request| self.admit(request)).is_ok()
    }

    fn admit(&mut self, request: Request) {
        let num_choices = request.choices.len() as u32;
        self.core.admit(request);
        // First visible as waiting, then gone from the inbox: the queue bound never undercounts.
        self.shared.snapshot.lock().gauges = self.core.gauges();
        self.shared
            .num_in_inbox
            .fetch_sub(num_choices, Ordering::AcqRel);
    }

    fn publish(&self, report: Option<&StepReport>) {
        let gauges = self.core.gauges();
        let mut snapshot = self.shared.snapshot.lock();
        snapshot.gauges = gauges;
        if let Some(report) = report {
            let num_tokens = report.num_prefill_tokens + report.num_decode_tokens;
            let bucket = STEP_TOKEN_BUCKETS.partition_point(|&bound| bound < num_tokens);
            snapshot.step_token_counts[bucket] += 1;
            snapshot.num_step_tokens += u64::from(num_tokens);
        }
    }
}
