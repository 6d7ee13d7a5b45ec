//! The engine thread and the handle through which the rest of the program reaches it.
//!
//! Requests go in through one channel, bounded by the queue limit; events come out through one
//! channel a choice.
//! The thread owns the scheduler and the executor; it waits for requests only when it has no work
//! and never waits for a client. The metrics snapshot is the one thing under a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use parking_lot::Mutex;

use crate::core::{EngineCore, Turn};
use crate::exec::Executor;
use crate::live::{self, LiveAccess, LiveRecorder, LiveSnapshot};
use crate::sched::{Gauges, ModelGauges, Policy, check_request};
use crate::types::{
    Clock, EngineConfig, Error, ModelId, Nanos, Refusal, Request, RequestId, Result, StepReport,
    SystemClock,
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
    /// Choices submitted and not yet taken out of the inbox by the engine. Changed only under the
    /// lock of `snapshot`, so that a choice is always counted here or there.
    num_in_inbox: AtomicU32,
    /// The same by model, for metrics.
    inbox_by_model: Box<[AtomicU32]>,
    is_running: AtomicBool,
    snapshot: Mutex<MetricsSnapshot>,
    live: LiveAccess,
}

/// The engine's state after its latest step.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Queues, pool and totals.
    pub gauges: Gauges,
    /// The same by model, in the order of their ids.
    pub models: Vec<ModelGauges>,
    /// How many steps computed how many tokens: counts for [`STEP_TOKEN_BUCKETS`], then the rest.
    pub step_token_counts: [u64; STEP_TOKEN_BUCKETS.len() + 1],
    /// Tokens computed by all steps.
    pub num_step_tokens: u64,
    /// Steps that failed on the device.
    pub num_failed_steps: u64,
}

impl MetricsSnapshot {
    /// Shows the state of `core`. Allocates nothing after the first time.
    fn show(&mut self, gauges: Gauges, core: &EngineCore) {
        self.gauges = gauges;
        self.models.clear();
        self.models.extend(core.scheduler().model_gauges());
    }
}

/// Upper bounds, inclusive, of the histogram of tokens a step.
pub const STEP_TOKEN_BUCKETS: [u32; 13] =
    [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

impl EngineHandle {
    /// Starts the engine thread. `build` runs on it, so that what it makes never changes threads;
    /// this returns when it has.
    pub fn spawn<B>(
        config: EngineConfig,
        policy: Box<dyn Policy>,
        build: B,
    ) -> Result<(Self, JoinHandle<()>)>
    where
        B: FnOnce() -> Result<Box<dyn Executor>> + Send + 'static,
    {
        let config = config.validated()?;
        // The queue limit bounds this channel: `submit` counts what is in it.
        let (inbox, requests) = crossbeam_channel::unbounded();
        let (ready, built) = crossbeam_channel::bounded(1);
        let clock = SystemClock::start();
        let (live, recorder) = live::channel(clock);
        let shared = Arc::new(Shared {
            config: config.clone(),
            clock,
            next_request: AtomicU64::new(0),
            num_in_inbox: AtomicU32::new(0),
            inbox_by_model: config.models.iter().map(|_| AtomicU32::new(0)).collect(),
            is_running: AtomicBool::new(true),
            snapshot: Mutex::default(),
            live,
        });
        let of_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("folio-engine".into()).spawn(move || match build() {
                Ok(executor) => {
                    let core = EngineCore::new(config, policy, executor, Box::new(clock));
                    let mut engine = Engine { core, requests, shared: of_thread, live: recorder };
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
        if !self.shared.is_running.load(Ordering::Acquire) {
            return Err(Refusal::Stopped);
        }
        let num_new = requests.iter().map(|request| request.choices.len() as u32).sum::<u32>();
        self.shared.reserve(num_new)?;
        for request in requests {
            self.shared.count_in(request.model, request.choices.len() as u32);
            if self.inbox.send(request).is_err() {
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
        let snapshot = self.shared.snapshot.lock();
        let mut copy = snapshot.clone();
        copy.gauges.num_waiting += self.shared.num_in_inbox.load(Ordering::Acquire);
        for (model, num_in_inbox) in copy.models.iter_mut().zip(&self.shared.inbox_by_model) {
            model.num_waiting += num_in_inbox.load(Ordering::Relaxed);
        }
        copy
    }

    /// A picture of the blocks, the sequences and the latest steps, for people who watch. Calls
    /// in quick succession share one ([`MIN_LIVE_INTERVAL`](live::MIN_LIVE_INTERVAL)); a new one
    /// is there when the step in progress has ended. [`Refusal::Stopped`] if the engine has.
    pub async fn live(&self) -> std::result::Result<Arc<LiveSnapshot>, Refusal> {
        self.shared.live.next(self.now()).await
    }
}

impl Shared {
    /// Counts `num_new` choices into the inbox, if the queue has room for all.
    fn reserve(&self, num_new: u32) -> std::result::Result<(), Refusal> {
        let snapshot = self.snapshot.lock();
        let in_inbox = self.num_in_inbox.load(Ordering::Acquire);
        let queued = snapshot.gauges.num_waiting + in_inbox;
        let limit = self.config.max_queued_requests;
        if queued.saturating_add(num_new) > limit {
            return Err(Refusal::QueueFull { queued, limit });
        }
        self.num_in_inbox.store(in_inbox + num_new, Ordering::Release);
        Ok(())
    }

    /// Counts choices of `model` into the inbox.
    fn count_in(&self, model: ModelId, num_choices: u32) {
        if let Some(num) = self.inbox_by_model.get(model.index()) {
            num.fetch_add(num_choices, Ordering::Relaxed);
        }
    }

    /// Counts choices of `model` out of the inbox.
    fn count_out(&self, model: ModelId, num_choices: u32) {
        self.num_in_inbox.fetch_sub(num_choices, Ordering::AcqRel);
        if let Some(num) = self.inbox_by_model.get(model.index()) {
            num.fetch_sub(num_choices, Ordering::Relaxed);
        }
    }
}

/// What the engine thread owns.
struct Engine {
    core: EngineCore,
    requests: Receiver<Request>,
    shared: Arc<Shared>,
    live: LiveRecorder,
}

impl Engine {
    /// Serves until every handle is gone and all work is done.
    fn run(&mut self) {
        loop {
            let is_open = self.take_requests();
            self.fill_pipeline();
            match self.core.collect() {
                Turn::Stepped(report) => {
                    self.publish(Some(&report));
                    self.live.record(&report, &self.core);
                }
                Turn::Failed(_) => self.shared.snapshot.lock().num_failed_steps += 1,
                Turn::Idle if !self.wait_for_request(is_open) => return,
                Turn::Idle => {}
            }
            self.live.answer(&self.core);
        }
    }

    /// Submits as many steps as the executor takes. Who takes part is published before each, since
    /// an executor may do all its work within `submit`.
    fn fill_pipeline(&mut self) {
        loop {
            let plan = self.core.plan();
            self.publish(None);
            let Some(plan) = plan else { return };
            self.core.submit(plan);
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

    /// Sleeps, with no step in flight, until there is something to do; false when there never
    /// will be.
    fn wait_for_request(&mut self, is_open: bool) -> bool {
        if !self.core.is_idle() {
            return true; // a leader that ended within the plan left its siblings for the next
        }
        if !is_open {
            return false;
        }
        loop {
            crossbeam_channel::select! {
                recv(self.requests) -> request => {
                    return request.map(|request| self.admit(request)).is_ok();
                }
                recv(self.live.wanted()) -> _ => self.live.show(&self.core),
            }
        }
    }

    fn admit(&mut self, request: Request) {
        let (model, num_choices) = (request.model, request.choices.len() as u32);
        self.core.admit(request);
        let gauges = self.core.gauges();
        let mut snapshot = self.shared.snapshot.lock();
        snapshot.show(gauges, &self.core);
        self.shared.count_out(model, num_choices);
    }

    fn publish(&self, report: Option<&StepReport>) {
        let gauges = self.core.gauges();
        let mut snapshot = self.shared.snapshot.lock();
        snapshot.show(gauges, &self.core);
        if let Some(report) = report {
            let num_useful_tokens = report.num_prefill_tokens + report.num_decode_tokens;
            let num_tokens = num_useful_tokens + report.num_wasted_tokens;
            let bucket = STEP_TOKEN_BUCKETS.partition_point(|&bound| bound < num_tokens);
            snapshot.step_token_counts[bucket] += 1;
            snapshot.num_step_tokens += u64::from(num_tokens);
        }
    }
}

impl Drop for Engine {
    /// Also runs when the thread panics: what is submitted from now on is refused as stopped.
    fn drop(&mut self) {
        self.shared.is_running.store(false, Ordering::Release);
    }
}
