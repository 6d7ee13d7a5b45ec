//! The engine with real models, as tests run it: in the calling thread, on a clock that stands.

use std::thread::JoinHandle;

use folio_engine::EngineHandle;
use folio_engine::core::EngineCore;
use folio_engine::exec::{
    DeviceOptions, KvCacheSize, MemoryOptions, MemoryPlan, RunnerOptions, load,
};
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, EngineConfig, EventReceiver, EventSender, ManualClock, ModelId, PrefixCaching, Request,
    RequestId, Result, SamplingParams, Slo, Task, TenantId, TokenId,
};

use crate::{FaultScript, FaultyExecutor};

/// Settings that a test may vary.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Threads of the kernels.
    pub num_threads: usize,
    /// Most sequences in a step.
    pub max_num_seqs: u32,
    /// Most tokens in a step.
    pub max_num_batched_tokens: u32,
    /// Most prompt tokens of one sequence in a step.
    pub chunk: Option<u32>,
    /// KV blocks, the scratch block included.
    pub num_blocks: u32,
    /// Tokens in a block.
    pub block_size: u32,
    /// Whether prefixes are shared.
    pub caching: PrefixCaching,
}

impl Setup {
    /// Room for everything at once, on one thread.
    pub const ROOMY: Self = Self {
        num_threads: 1,
        max_num_seqs: 64,
        max_num_batched_tokens: 4096,
        chunk: None,
        num_blocks: 2000,
        block_size: 16,
        caching: PrefixCaching::On,
    };

    /// An engine with one model on the processor.
    pub fn start(self, files: ModelFiles) -> Result<EngineCore> {
        self.start_on(DeviceOptions::Cpu { num_threads: self.num_threads }, files)
    }

    /// An engine with one model on `device`.
    pub fn start_on(self, device: DeviceOptions, files: ModelFiles) -> Result<EngineCore> {
        let Parts { model, config, options } = self.parts(device, &files)?;
        let runner = load(vec![(files, model)], &options, &mut |_| {})?;
        let clock = Box::new(ManualClock::default());
        Ok(EngineCore::new(config, Box::new(Fcfs), runner, clock))
    }

    /// An engine on its own thread with one model on the processor, which fails as `script` says.
    pub fn spawn(
        self,
        files: ModelFiles,
        script: FaultScript,
    ) -> Result<(EngineHandle, JoinHandle<()>)> {
        let device = DeviceOptions::Cpu { num_threads: self.num_threads };
        let Parts { model, config, options } = self.parts(device, &files)?;
        EngineHandle::spawn(config, Box::new(Fcfs), move || {
            let models = vec![(files.clone(), model.clone())];
            let runner = load(models, &options, &mut |_| {})?;
            Ok(Box::new(FaultyExecutor::new(runner, script.clone())))
        })
    }

    fn parts(self, device: DeviceOptions, files: &ModelFiles) -> Result<Parts> {
        let model = ModelConfig::read(files, None)?;
        let options = MemoryOptions {
            block_size: self.block_size,
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            kv_cache: KvCacheSize::Blocks(self.num_blocks),
            layout: device.layout(),
            available_bytes: None,
        };
        let plan = MemoryPlan::new(std::slice::from_ref(&model), &options)?;
        let config = EngineConfig {
            models: vec![model.limits()],
            block_size: self.block_size,
            num_blocks: plan.num_blocks(),
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_num_partial_prefills: 2,
            long_prefill_token_threshold: self.chunk,
            max_queued_requests: 1000,
            prefix_caching: self.caching,
            num_host_blocks: 0,
        };
        let config = config.validated()?;
        let options = RunnerOptions { device, plan };
        Ok(Parts { model, config, options })
    }
}

/// What an engine with one model is made of.
struct Parts {
    model: ModelConfig,
    config: EngineConfig,
    options: RunnerOptions,
}

/// A generation of model 0, and where the events of its choices arrive.
#[must_use]
pub fn generation(
    prompt: Vec<TokenId>,
    params: SamplingParams,
    num_choices: u32,
) -> (Request, Vec<EventReceiver>) {
    let max_tokens = params.stop.max_tokens;
    let (choices, receivers) = (0..num_choices)
        .map(|_| {
            let (events, receiver) = EventSender::channel(max_tokens);
            (Choice::new(events), receiver)
        })
        .unzip();
    let request = Request {
        id: RequestId(0),
        model: ModelId(0),
        prompt,
        task: Task::Generate(params),
        choices,
        priority: 0,
        tenant: TenantId(0),
        deadline: None,
        slo: Slo::default(),
        cache_salt: None,
    };
    (request, receivers)
}
