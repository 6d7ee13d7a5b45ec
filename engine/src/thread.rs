//! The engine thread and the handle through which the rest of the program reaches it.
//!
//! Requests go in through one channel, bounded by the queue limit; events come out through one
//! channel a choice.
//! The thread owns the scheduler and the executor; it waits for requests only when it has no work
//! and never waits for a client. The ledger is the one thing under a lock. What happens after a
//! failure is in `recovery`, how an engine is started in `setup`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::control::{self, ControlAccess, ControlError, Controls};
use crate::core::{EngineCore, Turn};
use crate::decisions::LogFeed;
use crate::drain::{DrainMeter, DrainRate, Work};
use crate::exec::Executor;
use crate::health::{EngineHealth, Heartbeat, Phase};
use crate::live::{self, LiveAccess, LiveRecorder, LiveSnapshot};
use crate::recovery::{Build, FaultTotals, Notify, Recovery, Strikes};
use crate::sched::{Decider, Gauges, KvBatch, ModelGauges, Policy, ShadowReport, check_request};
use crate::setup::EngineSetup;
use crate::types::{
    Clock, EngineConfig, ModelId, Nanos, Protection, Refusal, Request, RequestId, Result,
    StepReport,
};

/// Access to a running engine. Clones share it; when the last is dropped, the engine finishes
/// what it has and its thread ends.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    inbox: Sender<Submission>,
    shared: Arc<Shared>,
    /// Closed when the thread ends.
    alive: watch::Receiver<()>,
}

/// A request on its way to the engine.
#[derive(Debug)]
struct Submission {
    request: Request,
    work: Work,
    /// How long it was expected to wait.
    expected_wait: Nanos,
}

/// What the thread and the handles share.
pub(crate) struct Shared {
    config: EngineConfig,
    protection: Protection,
    clock: Arc<dyn Clock>,
    next_request: AtomicU64,
    pub(crate) heartbeat: Heartbeat,
    ledger: Mutex<Ledger>,
    live: LiveAccess,
    controls: ControlAccess,
}

/// What is told about the engine, and what must agree with it.
#[derive(Debug, Default)]
struct Ledger {
    snapshot: MetricsSnapshot,
    /// Submitted and not yet admitted: a choice is always counted here or in the snapshot.
    inbox: Work,
    /// Choices in the inbox, by model.
    inbox_by_model: Vec<u32>,
    drain: DrainRate,
    last_failure: Option<String>,
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
    /// What failed, and what came of it.
    pub faults: FaultTotals,
    /// What a shadow policy would have done otherwise, where there is one.
    pub shadow: Option<ShadowReport>,
}

/// Upper bounds, inclusive, of the histogram of tokens a step.
pub const STEP_TOKEN_BUCKETS: [u32; 13] =
    [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

impl EngineHandle {
    /// Starts an engine with the usual [`Protection`]; see [`EngineSetup::spawn`].
    pub fn spawn<B>(
        config: EngineConfig,
        policy: impl Into<Decider>,
        build: B,
    ) -> Result<(Self, JoinHandle<()>)>
    where
        B: FnMut() -> Result<Box<dyn Executor>> + Send + 'static,
    {
        EngineSetup::new(config, policy).spawn(build)
    }

    /// A handle to an engine whose thread is yet to start, and what that thread will need.
    pub(crate) fn prepare(
        config: EngineConfig,
        protection: Protection,
        clock: Arc<dyn Clock>,
    ) -> (Self, Inbound) {
        // The queue limits bound this channel: `submit` counts what is in it.
        let (inbox, requests) = crossbeam_channel::unbounded();
        let (pulse, alive) = watch::channel(());
        let (controls, changes) = control::channel();
        let (live, recorder) = live::channel(Arc::clone(&clock));
        let inbox_by_model = vec![0; config.models.len()];
        let shared = Arc::new(Shared {
            config,
            heartbeat: Heartbeat::new(protection.step_timeout.into()),
            protection,
            clock,
            next_request: AtomicU64::new(0),
            ledger: Mutex::new(Ledger { inbox_by_model, ..Ledger::default() }),
            live,
            controls,
        });
        let of_thread = Arc::clone(&shared);
        let inbound = Inbound {
            requests,
            shared: of_thread,
            live: recorder,
            controls: changes,
            _pulse: pulse,
        };
        (Self { inbox, shared, alive }, inbound)
    }

    /// Whether the engine could ever compute `request`, with the numbers if not.
    pub fn check(&self, request: &Request) -> std::result::Result<(), Refusal> {
        check_request(request, &self.shared.config)
    }

    /// Hands requests over: all of them, or none when the queue has no room for all.
    pub fn submit(&self, requests: Vec<Request>) -> std::result::Result<(), Refusal> {
        if self.shared.heartbeat.is_stopped() {
            return Err(Refusal::Stopped);
        }
        let expected_waits = self.shared.reserve(&requests)?;
        for (request, expected_wait) in requests.into_iter().zip(expected_waits) {
            let submission = Submission { work: work_of(&request), request, expected_wait };
            if self.inbox.send(submission).is_err() {
                return Err(Refusal::Stopped);
            }
        }
        Ok(())
    }

    /// Whether the engine makes progress. Cheap: it asks nobody and takes no lock.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        self.shared.heartbeat.health(self.now())
    }

    /// Waits until the engine's thread has ended, or is about to: nothing is computed any more.
    pub async fn stopped(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// What failed last, if anything ever did.
    #[must_use]
    pub fn last_failure(&self) -> Option<String> {
        self.shared.ledger.lock().last_failure.clone()
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
        let ledger = self.shared.ledger.lock();
        let mut copy = ledger.snapshot.clone();
        copy.gauges.num_waiting += ledger.inbox.num_choices as u32;
        copy.gauges.num_waiting_tokens += ledger.inbox.num_tokens;
        for (model, num_in_inbox) in copy.models.iter_mut().zip(&ledger.inbox_by_model) {
            model.num_waiting += num_in_inbox;
        }
        drop(ledger);
        if let EngineHealth::Stalled { .. } = self.health() {
            copy.faults.num_stalls += 1; // counted for good when it ends
        }
        copy
    }

    /// A picture of the blocks, the sequences and the latest steps, for people who watch. Calls
    /// in quick succession share one ([`MIN_LIVE_INTERVAL`](live::MIN_LIVE_INTERVAL)); a new one
    /// is there when the step in progress has ended. [`Refusal::Stopped`] if the engine has.
    pub async fn live(&self) -> std::result::Result<Arc<LiveSnapshot>, Refusal> {
        self.shared.live.next(self.now()).await
    }

    /// Has `policy`, written as `spec`, decide from the end of the turn in progress on. No request
    /// is lost or computed again. Returns when it does.
    pub async fn set_policy(
        &self,
        policy: Decider,
        spec: String,
    ) -> std::result::Result<(), ControlError> {
        self.shared.controls.set_policy(policy, spec).await
    }

    /// Has `policy` asked what it would do, and not followed; or nobody.
    pub async fn set_shadow(
        &self,
        policy: Option<Box<dyn Policy>>,
    ) -> std::result::Result<(), ControlError> {
        self.shared.controls.set_shadow(policy).await
    }
}

/// What waits when `request` does.
fn work_of(request: &Request) -> Work {
    Work { num_choices: request.choices.len() as u64, num_tokens: request.prompt.len() as u64 }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl Ledger {
    /// What waits, admitted or not.
    fn queued(&self) -> Work {
        let gauges = &self.snapshot.gauges;
        let mut queued = self.inbox;
        queued += Work {
            num_choices: u64::from(gauges.num_waiting),
            num_tokens: gauges.num_waiting_tokens,
        };
        queued
    }

    /// A request goes into the inbox.
    fn put_in(&mut self, request: &Request) {
        self.inbox += work_of(request);
        if let Some(num) = self.inbox_by_model.get_mut(request.model.index()) {
            *num += request.choices.len() as u32;
        }
    }

    /// A request of `work` for `model` comes out of the inbox.
    fn take_out(&mut self, model: ModelId, work: Work) {
        self.inbox = self.inbox.less(work);
        if let Some(num) = self.inbox_by_model.get_mut(model.index()) {
            *num = num.saturating_sub(work.num_choices as u32);
        }
    }

    /// Tells the heartbeat how much there is to do.
    fn count_unfinished(&self, heartbeat: &Heartbeat, now: Nanos) {
        let gauges = &self.snapshot.gauges;
        let num_admitted = gauges.num_running + gauges.num_waiting;
        heartbeat.set_unfinished(num_admitted + self.inbox.num_choices as u32, now);
    }
}

impl Shared {
    /// Counts requests into the inbox, if the queue has room for all. Returns how long each is
    /// expected to wait.
    fn reserve(&self, requests: &[Request]) -> std::result::Result<Vec<Nanos>, Refusal> {
        let now = self.clock.now();
        let mut ledger = self.ledger.lock();
        let mut new = Work::default();
        for request in requests {
            new += work_of(request);
        }
        let mut ahead = ledger.queued();
        self.check_room(ahead, new, |excess| ledger.drain.time_for(excess, now))?;
        let expected_waits = requests.iter().map(|request| {
            let expected_wait = ledger.drain.expected_wait(ahead, now);
            ahead += work_of(request);
            expected_wait
        });
        let expected_waits = expected_waits.collect();
        for request in requests {
            ledger.put_in(request);
        }
        ledger.count_unfinished(&self.heartbeat, now);
        Ok(expected_waits)
    }

    /// Whether `new` may wait beside what is `queued`. `time_for` says when what is too much will
    /// have left.
    fn check_room(
        &self,
        queued: Work,
        new: Work,
        time_for: impl Fn(Work) -> Option<Nanos>,
    ) -> std::result::Result<(), Refusal> {
        let mut total = queued;
        total += new;
        let limit = self.config.max_queued_requests;
        // What would wait alone is taken whatever its length.
        let max_tokens = match self.protection.max_queued_tokens {
            Some(max) if queued.num_tokens > 0 => max,
            _ => u64::MAX,
        };
        let excess = total.less(Work { num_choices: u64::from(limit), num_tokens: max_tokens });
        if excess == Work::default() {
            return Ok(());
        }
        // What waits can leave, but no more: a request longer than the limit gets in last.
        let num_tokens = excess.num_tokens.min(queued.num_tokens);
        let room_in = time_for(Work { num_tokens, ..excess });
        Err(if excess.num_choices > 0 {
            Refusal::QueueFull { queued: queued.num_choices as u32, limit, room_in }
        } else {
            let (queued, num_tokens) = (queued.num_tokens, new.num_tokens);
            Refusal::QueueFullOfTokens { queued, num_tokens, limit: max_tokens, room_in }
        })
    }
}

/// What an engine thread is given of its handle.
pub(crate) struct Inbound {
    requests: Receiver<Submission>,
    pub(crate) shared: Arc<Shared>,
    live: LiveRecorder,
    controls: Controls,
    _pulse: watch::Sender<()>,
}

/// What the engine thread owns.
pub(crate) struct Engine {
    pub(crate) core: EngineCore,
    pub(crate) inbound: Inbound,
    pub(crate) build: Build,
    pub(crate) notify: Notify,
    pub(crate) strikes: Strikes,
    pub(crate) meter: DrainMeter,
    pub(crate) index: IndexTeller,
    pub(crate) decisions: Option<LogFeed>,
}

/// Tells who listens what enters and leaves the prefix index.
pub(crate) struct IndexTeller {
    batches: Option<mpsc::Sender<KvBatch>>,
    next_number: u64,
}

impl IndexTeller {
    pub(crate) fn new(batches: Option<mpsc::Sender<KvBatch>>) -> Self {
        Self { batches, next_number: 0 }
    }

    /// Sends what has changed since the last call. A batch that finds no room is lost, and its
    /// number with it.
    fn tell(&mut self, core: &mut EngineCore) {
        let Some(batches) = &self.batches else { return };
        let events = core.take_kv_events();
        if !events.is_empty() {
            let _ = batches.try_send(KvBatch { number: self.next_number, events });
            self.next_number += 1;
        }
    }
}

impl Engine {
    /// Serves until every handle is gone and all work is done.
    pub(crate) fn run(&mut self) {
        self.publish(None);
        self.shared().heartbeat.enter(Phase::Serving, self.now());
        if self.index.batches.is_some() {
            self.core.record_kv_events();
        }
        if self.decisions.is_some() {
            self.core.record_decisions();
        }
        loop {
            let is_open = self.take_requests();
            self.fill_pipeline();
            match self.core.collect() {
                Turn::Stepped(report) => {
                    self.publish(Some(&report));
                    self.inbound.live.record(&report, &self.core);
                }
                Turn::Failed(fault) => match self.recover(&fault) {
                    Recovery::Rebuilt => self.publish(None),
                    Recovery::GaveUp => {
                        self.publish(None);
                        self.tell();
                        return;
                    }
                },
                Turn::Idle if !self.wait_for_request(is_open) => return,
                Turn::Idle => {}
            }
            self.tell();
            self.inbound.live.answer(&self.core);
            self.inbound.controls.carry_out(&mut self.core);
        }
    }

    /// Tells who listens what the turn has brought.
    fn tell(&mut self) {
        self.index.tell(&mut self.core);
        if let Some(feed) = &mut self.decisions {
            feed.send(self.core.take_decisions());
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
            match self.inbound.requests.try_recv() {
                Ok(submission) => self.admit(submission),
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
                recv(self.inbound.requests) -> submission => {
                    return submission.map(|submission| self.admit(submission)).is_ok();
                }
                recv(self.inbound.live.wanted()) -> _ => self.inbound.live.show(&self.core),
                recv(self.inbound.controls.wanted()) -> control => {
                    Controls::carry_out_one(control.ok(), &mut self.core);
                }
            }
        }
    }

    fn admit(&mut self, Submission { request, work, expected_wait }: Submission) {
        let model = request.model;
        self.core.admit_expecting(request, expected_wait);
        let gauges = self.core.gauges();
        let now = self.now();
        let shared = self.shared();
        let mut ledger = shared.ledger.lock();
        ledger.snapshot.show(gauges, &self.core);
        ledger.take_out(model, work);
        ledger.count_unfinished(&shared.heartbeat, now);
    }

    /// Tells how things stand after a plan, or after a step that ended.
    fn publish(&mut self, report: Option<&StepReport>) {
        let gauges = self.core.gauges();
        let now = self.now();
        let queue = gauges.totals.queue;
        let started = Work { num_choices: queue.num_started, num_tokens: queue.num_started_tokens };
        self.meter.update(started, gauges.num_waiting > 0, now);
        let shared = &self.inbound.shared;
        let is_stall_over = report.is_some() && {
            let silent_for = shared.heartbeat.beat(now);
            shared.heartbeat.is_stall(silent_for)
        };
        let mut ledger = shared.ledger.lock();
        ledger.snapshot.show(gauges, &self.core);
        ledger.drain = self.meter.rate();
        ledger.snapshot.faults.num_stalls += u64::from(is_stall_over);
        ledger.count_unfinished(&shared.heartbeat, now);
        if let Some(report) = report {
            ledger.snapshot.count_step(report);
        }
    }

    /// Enters what became of a failure.
    pub(crate) fn note_failure(&self, message: &str, enter: impl FnOnce(&mut FaultTotals)) {
        let mut ledger = self.shared().ledger.lock();
        ledger.last_failure = Some(message.to_owned());
        enter(&mut ledger.snapshot.faults);
    }

    /// Ends what was submitted and not admitted, with nobody to compute it.
    pub(crate) fn refuse_inbox(&mut self, mut end: impl FnMut(Request)) {
        while let Ok(Submission { request, work, .. }) = self.inbound.requests.try_recv() {
            let mut ledger = self.shared().ledger.lock();
            ledger.take_out(request.model, work);
            drop(ledger);
            end(request);
        }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.inbound.shared
    }

    pub(crate) fn now(&self) -> Nanos {
        self.shared().clock.now()
    }
}

impl MetricsSnapshot {
    /// Shows the state of `core`. Allocates nothing after the first time.
    fn show(&mut self, gauges: Gauges, core: &EngineCore) {
        self.gauges = gauges;
        self.shadow = core.scheduler().shadow();
        self.models.clear();
        self.models.extend(core.scheduler().model_gauges());
    }

    fn count_step(&mut self, report: &StepReport) {
        let num_useful_tokens = report.num_prefill_tokens + report.num_decode_tokens;
        let num_tokens = num_useful_tokens + report.num_wasted_tokens;
        let bucket = STEP_TOKEN_BUCKETS.partition_point(|&bound| bound < num_tokens);
        self.step_token_counts[bucket] += 1;
        self.num_step_tokens += u64::from(num_tokens);
    }
}

impl Drop for Engine {
    /// Also runs when the thread panics: what is submitted from now on is refused as stopped.
    fn drop(&mut self) {
        self.shared().heartbeat.enter(Phase::Stopped, self.now());
    }
}
