//! An engine that is made to run steps of wanted shapes.
//!
//! A policy that knows nothing but the budget of the next step stands in for the real one; all
//! else is the scheduler that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_engine::core::{EngineCore, Turn};
use folio_engine::exec::Executor;
use folio_engine::sched::{Limits, Policy, PolicyRequest, Rank, View};
use folio_engine::types::{
    BatchShape, Choice, Clock, EngineConfig, EventReceiver, EventSender, ModelId, ModelKind, Nanos,
    PrefixCaching, Request, RequestId, Sampling, SamplingParams, Slo, StopConditions, Task,
    TenantId, TokenId,
};
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use super::scenes::{Addition, NUM_DECODE_STEPS, Scene};
use super::{ProfileError, ProfileOptions, StepTime, Tell};

/// Of the time that there is, what computing the pool may take.
const POOL_SHARE: f64 = 0.25;
/// Of the KV cache, what the pool may take.
const POOL_BLOCKS: f64 = 0.5;
/// Tokens of a prefix that are left for what comes after it.
const ROOM: u32 = 2 * NUM_DECODE_STEPS + 64;

/// Lets the budget of a step be set from outside.
struct Steered(Arc<AtomicU32>);

impl Policy for Steered {
    fn name(&self) -> &'static str {
        "profile"
    }

    fn rank(&mut self, _: &PolicyRequest<'_>, _: &View<'_>) -> Rank {
        Rank::default() // by arrival
    }

    fn limits(&mut self, view: &View<'_>) -> Limits {
        Limits { token_budget: self.0.load(Ordering::Relaxed), ..view.defaults() }
    }
}

/// An engine, and prefixes that its cache knows.
pub(super) struct Bench {
    core: EngineCore,
    clock: Arc<dyn Clock>,
    engine: EngineConfig,
    sampling: Sampling,
    budget: Arc<AtomicU32>,
    /// Prefixes of whole blocks, the longest first.
    pool: Vec<Vec<TokenId>>,
    generator: ChaCha8Rng,
    next_request: u64,
}

impl Bench {
    pub(super) fn new(
        executor: Box<dyn Executor>,
        clock: &Arc<dyn Clock>,
        options: &ProfileOptions,
    ) -> Result<Self, ProfileError> {
        let engine = EngineConfig {
            max_num_partial_prefills: options.engine.max_num_seqs,
            long_prefill_token_threshold: None,
            prefix_caching: PrefixCaching::On,
            num_host_blocks: 0,
            ..options.engine.clone()
        };
        let is_decoder = engine.models.first().is_some_and(|one| one.kind == ModelKind::Decoder);
        if !is_decoder {
            return Err(ProfileError::Plan("the model is not a decoder".into()));
        }
        let budget = Arc::new(AtomicU32::new(u32::MAX));
        let policy = Box::new(Steered(Arc::clone(&budget)));
        let core = EngineCore::new(engine.clone(), policy, executor, Box::new(Arc::clone(clock)));
        Ok(Self {
            core,
            clock: Arc::clone(clock),
            engine,
            sampling: options.sampling.clone(),
            budget,
            pool: Vec::new(),
            generator: ChaCha8Rng::seed_from_u64(options.seed),
            next_request: 0,
        })
    }

    /// Lengths of the prefixes, the longest first.
    pub(super) fn contexts(&self) -> Vec<u32> {
        self.pool.iter().map(|prefix| prefix.len() as u32).collect()
    }

    /// Computes a prefix for each sequence that may run: as long as the model allows, but all
    /// together within a share of the cache and of the time.
    pub(super) fn fill_pool(
        &mut self,
        max_time: Nanos,
        tell: &mut Tell<'_>,
    ) -> Result<(), ProfileError> {
        let block_size = self.engine.block_size;
        let num_seqs = self.engine.max_num_seqs;
        let longest = self.engine.models[0].max_model_len.saturating_sub(ROOM);
        let begin = self.clock.now();
        let share = f64::from(self.engine.kv_capacity_tokens()) * POOL_BLOCKS;
        let mut tokens_left = share as u32;
        for index in 0..num_seqs {
            // Those that are left get equal parts of what is left.
            let part = tokens_left / (num_seqs - index) * if index == 0 { 4 } else { 1 };
            let len = part.min(longest).min(tokens_left) / block_size * block_size;
            let prefix = self.tokens(len);
            if len > 0 {
                let mut prompt = prefix.clone();
                prompt.extend(self.tokens(1));
                let _receiver = self.admit(prompt, 1);
                self.run_until_idle()?;
            }
            tokens_left -= len;
            self.pool.push(prefix);
            let elapsed = self.clock.now().since(begin).as_secs_f64() / max_time.as_secs_f64();
            tell(elapsed.min(1.0));
            if elapsed > POOL_SHARE * f64::from(index + 1) / f64::from(num_seqs) {
                // Too slow: what is left must be shorter.
                tokens_left = (f64::from(tokens_left) * 0.8) as u32;
            }
        }
        self.pool.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
        Ok(())
    }

    /// Plays a scene: each step that counts, with the number of its measure.
    pub(super) fn play(&mut self, scene: &Scene) -> Result<Vec<(usize, StepTime)>, ProfileError> {
        let mut measured = Vec::new();
        let mut receivers = Vec::new();
        self.budget.store(u32::MAX, Ordering::Relaxed);
        let max_tokens = NUM_DECODE_STEPS + 2 * scene.additions.len() as u32 + 4;
        for (index, &context) in scene.decoding.iter().enumerate() {
            let prompt = self.prompt(index, context, 1);
            receivers.push(self.admit(prompt, max_tokens));
        }
        if !scene.decoding.is_empty() {
            // The first step takes the sequences in, the second is like all others.
            while self.core.gauges().num_waiting > 0 {
                self.step()?;
            }
            self.step()?;
            for _ in 0..NUM_DECODE_STEPS {
                measured.push((0, self.step()?));
            }
        }
        for (number, addition) in scene.additions.iter().enumerate() {
            let step = self.step_with(addition, scene.decoding.len() as u32)?;
            measured.push((1 + number, step));
            if !scene.decoding.is_empty() {
                self.step()?;
            }
        }
        drop(receivers);
        self.budget.store(u32::MAX, Ordering::Relaxed);
        self.run_until_idle()?;
        Ok(measured)
    }

    /// One step in which the prompts of `addition` join `num_decoding` sequences that decode.
    fn step_with(
        &mut self,
        addition: &Addition,
        num_decoding: u32,
    ) -> Result<StepTime, ProfileError> {
        let mut receivers = Vec::new();
        let last_pool = self.pool.len() - 1;
        for (index, prompt) in addition.prompts.iter().enumerate() {
            let is_last = index + 1 == addition.prompts.len();
            // A prompt that goes on after the step has more tokens than the step has room for.
            let more = if is_last && addition.is_cut { self.engine.block_size } else { 0 };
            let place = if prompt.context == 0 { last_pool } else { index };
            let tokens = self.prompt(place, prompt.context, prompt.num_tokens + more);
            receivers.push(self.admit(tokens, 1));
        }
        let num_tokens: u32 = addition.prompts.iter().map(|prompt| prompt.num_tokens).sum();
        self.budget.store(num_decoding + num_tokens, Ordering::Relaxed);
        let step = self.step()?;
        self.budget.store(u32::MAX, Ordering::Relaxed);
        Ok(step)
    }

    /// A prompt whose first `context` tokens are cached, with `num_tokens` new ones.
    fn prompt(&mut self, place: usize, context: u32, num_tokens: u32) -> Vec<TokenId> {
        let mut prompt = self.pool[place][..context as usize].to_vec();
        prompt.extend(self.tokens(num_tokens));
        prompt
    }

    fn tokens(&mut self, num_tokens: u32) -> Vec<TokenId> {
        let vocab_size = self.engine.models[0].vocab_size;
        (0..num_tokens).map(|_| self.generator.random_range(0..vocab_size)).collect()
    }

    fn admit(&mut self, prompt: Vec<TokenId>, max_tokens: u32) -> EventReceiver {
        let (events, receiver) = EventSender::channel(max_tokens);
        let stop = StopConditions { max_tokens, ..StopConditions::default() };
        let sampling = self.sampling.clone();
        let request = Request {
            id: RequestId(self.next_request),
            model: ModelId(0),
            prompt,
            task: Task::Generate(SamplingParams { sampling, stop, ..SamplingParams::default() }),
            choices: vec![Choice::new(events)],
            priority: 0,
            tenant: TenantId(0),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        };
        self.next_request += 1;
        self.core.admit(request);
        receiver
    }

    /// One step, alone on the device.
    fn step(&mut self) -> Result<StepTime, ProfileError> {
        let begin = self.clock.now();
        let plan = self.core.plan();
        let planned = self.clock.now();
        let Some(plan) = plan else {
            return match self.core.collect() {
                Turn::Failed(fault) => Err(ProfileError::Step(fault.message)),
                _ => Err(ProfileError::Plan("a step was wanted and none could be planned".into())),
            };
        };
        let shape = BatchShape::of(&plan);
        let submitted = self.clock.now();
        self.core.submit(plan);
        let report = match self.core.collect() {
            Turn::Stepped(report) => report,
            Turn::Failed(fault) => return Err(ProfileError::Step(fault.message)),
            Turn::Idle => return Err(ProfileError::Step("a step had no end".into())),
        };
        let end = self.clock.now();
        let device = report.device_time;
        let whole = planned.since(begin) + end.since(submitted);
        Ok(StepTime { shape, device, host: whole.since(device) })
    }

    /// Runs what is left to its end.
    fn run_until_idle(&mut self) -> Result<(), ProfileError> {
        while !self.core.is_idle() {
            match self.core.step() {
                Turn::Failed(fault) => return Err(ProfileError::Step(fault.message)),
                Turn::Stepped(_) | Turn::Idle => {}
            }
        }
        Ok(())
    }
}
