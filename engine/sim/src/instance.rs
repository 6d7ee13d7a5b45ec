//! One engine under a virtual clock: the production scheduler, and the device that computes
//! nothing. Who sends what to it and when is the business of `run`.
//!
//! The order of things is that of the engine's thread: what has arrived is admitted, steps are
//! planned and submitted until the device takes no more, the oldest is collected and committed.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};

use folio_engine::exec::Executor as _;
use folio_engine::sched::decisions::Call;
use folio_engine::sched::{Decider, Gauges, Scheduler};
use folio_engine::types::{
    Choice, Clock as _, CostModel, Ended, EngineConfig, EventSender, ManualClock, ModelId,
    ModelKind, ModelLimits, Nanos, PrefixCaching, Request, RequestId, SamplingParams, SequenceId,
    StepPlan, StepReport, StopConditions, Task, TenantId,
};

use crate::cluster::InstanceView;
use crate::executor::{Expected, SimExecutor};
use crate::gaps::Gaps;
use crate::options::{Detail, Host};
use crate::prompt::{Prompts, STOP_TOKEN, VOCAB_SIZE};
use crate::workload::{Record, Slo};

/// The settings of an engine with one simulated decoder model, to be changed as needed: what
/// `folio serve` takes by default, 64 sequences and 2,048 tokens a step, but any number waiting.
#[must_use]
pub fn decoder_config(max_model_len: u32, num_blocks: u32) -> EngineConfig {
    EngineConfig {
        models: vec![ModelLimits {
            kind: ModelKind::Decoder,
            max_model_len,
            vocab_size: VOCAB_SIZE,
        }],
        block_size: 16,
        num_blocks,
        max_num_seqs: 64,
        max_num_batched_tokens: 2048,
        max_num_partial_prefills: 4,
        long_prefill_token_threshold: None,
        max_queued_requests: u32::MAX,
        prefix_caching: PrefixCaching::On,
        num_host_blocks: 0,
    }
}

/// What is to be computed for a record.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// The record.
    pub(crate) record: &'a Record,
    /// Its number, which becomes the request's id.
    pub(crate) index: u64,
    /// Tokens of its answer that are known already, with those of the prompt before them.
    pub(crate) num_known: u32,
    /// Tokens of its answer that are to come.
    pub(crate) output: u32,
    /// Most tokens of the answer that are asked for.
    pub(crate) max_tokens: u32,
    /// Leading tokens that were computed elsewhere.
    pub(crate) transferred: u32,
    /// What its client expects.
    pub(crate) slo: Slo,
    /// When it is to be ended at the latest.
    pub(crate) deadline: Option<Nanos>,
}

/// Why a request was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// It is longer than the model's context or than the KV cache.
    TooLong,
    /// The queue is full.
    QueueFull,
}

/// An engine.
pub(crate) struct Instance {
    scheduler: Scheduler,
    executor: SimExecutor,
    clock: ManualClock,
    prompts: Prompts,
    block_size: u32,
    max_model_len: u32,
    max_queued: u32,
    in_flight: VecDeque<StepPlan>,
    ends: Ends,
    /// Sequences admitted so far: the id of the next.
    num_admitted: u64,
    /// Sequences that have not ended.
    num_live: usize,
    /// Tokens of their prompts.
    num_live_tokens: u64,
}

/// Where the scheduler tells of ends.
struct Ends {
    sender: mpsc::Sender<Ended>,
    receiver: mpsc::Receiver<Ended>,
}

/// How to set an instance up.
pub(crate) struct Setup {
    pub(crate) engine: EngineConfig,
    pub(crate) cost: Arc<dyn CostModel>,
    pub(crate) host: Host,
    pub(crate) detail: Detail,
    pub(crate) seed: u64,
}

impl Instance {
    /// An engine of a validated configuration at time zero.
    pub(crate) fn new(setup: Setup, policy: Decider) -> Self {
        let Setup { engine, cost, host, detail, seed } = setup;
        let clock = ManualClock::default();
        let executor = SimExecutor::new(cost, clock.clone()).with_host(host).with_detail(detail);
        let (sender, receiver) = mpsc::channel();
        Self {
            executor,
            clock,
            prompts: Prompts { seed, caching: engine.prefix_caching },
            max_model_len: engine.models.first().map_or(0, |model| model.max_model_len),
            block_size: engine.block_size,
            max_queued: engine.max_queued_requests,
            in_flight: VecDeque::new(),
            ends: Ends { sender, receiver },
            num_admitted: 0,
            num_live: 0,
            num_live_tokens: 0,
            scheduler: Scheduler::new(engine, policy),
        }
    }

    /// Tokens that an answer may have at most after `num_prompt` tokens, or that there is no room.
    fn room_after(&self, num_prompt: u32) -> Option<u32> {
        let capacity = self.gauges().num_blocks.saturating_mul(self.block_size);
        let most = self.max_model_len.min(capacity);
        most.checked_sub(num_prompt).filter(|&room| room > 0)
    }

    /// Takes a request in at `now`, and tells the sequence that computes it.
    pub(crate) fn admit(&mut self, job: &Job<'_>, now: Nanos) -> Result<SequenceId, TurnedAway> {
        self.clock.advance_to(now);
        let prompt_len = job.record.input + job.num_known;
        let room = self.room_after(prompt_len).ok_or(TurnedAway::TooLong)?;
        if self.gauges().num_waiting >= self.max_queued {
            return Err(TurnedAway::QueueFull);
        }
        let stop = StopConditions {
            max_tokens: job.max_tokens.min(room),
            min_tokens: 0,
            token_ids: vec![STOP_TOKEN],
        };
        let id = SequenceId(self.num_admitted);
        let request = RequestId(job.index);
        let events = EventSender::ends(self.ends.sender.clone(), request);
        self.executor.expect(
            id,
            Expected {
                prompt_len,
                output: job.output,
                transferred: job.transferred,
                ..Expected::default()
            },
        );
        let request = Request {
            id: request,
            model: ModelId(0),
            prompt: self.prompts.tokens(job.record, job.index, job.num_known),
            task: Task::Generate(SamplingParams { stop, ..SamplingParams::default() }),
            choices: vec![Choice::new(events)],
            priority: job.record.priority,
            tenant: TenantId(job.record.tenant),
            deadline: job.deadline,
            slo: job.slo,
            cache_salt: None,
        };
        self.scheduler.admit(request, now);
        self.num_admitted += 1;
        self.num_live += 1;
        self.num_live_tokens += u64::from(prompt_len);
        Ok(id)
    }

    /// Plans and submits as many steps as the device takes now.
    pub(crate) fn fill(&mut self, now: Nanos) {
        self.clock.advance_to(now);
        while self.in_flight.len() < self.executor.max_in_flight() {
            let Some(plan) = self.scheduler.plan(now) else { return };
            // The simulated device takes every step.
            let _ = self.executor.submit(&plan, self.scheduler.sequences_mut());
            self.in_flight.push_back(plan);
        }
    }

    /// When the oldest step in flight ends.
    pub(crate) fn next_end(&self) -> Option<Nanos> {
        self.executor.next_end()
    }

    /// Ends the oldest step in flight; nothing is planned yet.
    pub(crate) fn finish_step(&mut self) -> Option<StepReport> {
        let plan = self.in_flight.pop_front()?;
        let output = self.executor.collect().ok()?;
        Some(self.scheduler.commit(&plan, output, self.clock.now()))
    }

    /// From now on what the scheduler is asked and decides is recorded.
    pub(crate) fn record(&mut self) {
        self.scheduler.record_decisions();
    }

    /// What was recorded since the last call.
    pub(crate) fn take_calls(&mut self) -> Vec<Call> {
        self.scheduler.take_decisions()
    }

    /// A request that has ended since the last call, with what the device knows of it.
    pub(crate) fn take_ended(&mut self) -> Option<Ended> {
        let ended = self.ends.receiver.try_recv().ok()?;
        self.num_live -= 1;
        Some(ended)
    }

    /// What the device knows of a sequence that has ended.
    pub(crate) fn forget(&mut self, id: SequenceId) -> Expected {
        let expected = self.executor.forget(id).unwrap_or_default();
        self.num_live_tokens -= u64::from(expected.prompt_len);
        expected
    }

    /// Requests that have not ended.
    pub(crate) fn num_live(&self) -> usize {
        self.num_live
    }

    /// How far its time is.
    pub(crate) fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// What a router sees of it.
    pub(crate) fn view(&self) -> InstanceView {
        let gauges = self.gauges();
        InstanceView {
            num_running: gauges.num_running,
            num_waiting: gauges.num_waiting,
            num_waiting_tokens: gauges.num_waiting_tokens,
            num_live_tokens: self.num_live_tokens,
            num_used_blocks: gauges.num_used_blocks,
            num_blocks: gauges.num_blocks,
            block_size: self.block_size,
        }
    }

    /// The scheduler's state in numbers.
    pub(crate) fn gauges(&self) -> Gauges {
        self.scheduler.gauges()
    }

    /// Times between tokens, once all is done.
    pub(crate) fn take_gaps(&mut self) -> Gaps {
        self.executor.take_gaps()
    }
}
