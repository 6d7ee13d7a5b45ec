//! The real engine: the processor's executor under the core that serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::bail;
use folio_engine::core::{EngineCore, Turn};
use folio_engine::decisions::{Disguise, Header, LogFile, LogLimits};
use folio_engine::exec::{
    ActivationLayout, DeviceOptions, Executor, KvCacheSize, MemoryOptions, MemoryPlan,
    RunnerOptions, load,
};
use folio_engine::model::{ModelConfig, ModelFiles};
use folio_engine::sched::Decider;
use folio_engine::types::{Clock, EngineConfig, Nanos, PrefixCaching, Sampling};
use folio_sim::cost::Identity;
use folio_sim::profile::{ProfileOptions, profile};

use super::Args;
use super::clock::{ThreadClock, Timed};
use super::load::Job;

const BLOCK_SIZE: u32 = 16;
/// Tokens of KV cache for each sequence that may run.
const TOKENS_PER_SEQ: u32 = 1024;

/// What the engine is started with, again and again.
pub(super) struct Bench {
    files: ModelFiles,
    model: ModelConfig,
    options: RunnerOptions,
    config: EngineConfig,
    output: PathBuf,
}

impl Bench {
    pub(super) fn new(args: &Args) -> anyhow::Result<Self> {
        let files = ModelFiles::Directory(args.model.clone());
        let model = ModelConfig::read(&files, None)?;
        let num_blocks = args.max_num_seqs * TOKENS_PER_SEQ / BLOCK_SIZE + 1;
        let memory = MemoryOptions {
            block_size: BLOCK_SIZE,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            kv_cache: KvCacheSize::Blocks(num_blocks),
            layout: ActivationLayout::CPU,
            available_bytes: None,
        };
        let plan = MemoryPlan::new(std::slice::from_ref(&model), &memory)?;
        let config = EngineConfig {
            models: vec![model.limits()],
            block_size: BLOCK_SIZE,
            num_blocks,
            max_num_seqs: args.max_num_seqs,
            max_num_batched_tokens: args.max_num_batched_tokens,
            max_num_partial_prefills: 4,
            long_prefill_token_threshold: None,
            max_queued_requests: u32::MAX,
            prefix_caching: PrefixCaching::On,
            num_host_blocks: 0,
        };
        let device = DeviceOptions::Cpu { num_threads: 1 };
        let options = RunnerOptions { device, plan };
        let output = args.output.clone();
        Ok(Self { files, model, options, config: config.validated()?, output })
    }

    pub(super) fn config(&self) -> &EngineConfig {
        &self.config
    }

    fn executor(&self, clock: &Arc<ThreadClock>) -> anyhow::Result<Box<dyn Executor>> {
        let models = vec![(self.files.clone(), self.model.clone())];
        let executor = load(models, &self.options, &mut |_| {})?;
        Ok(Box::new(Timed::new(executor, Arc::clone(clock))))
    }

    /// Measures steps for so many seconds, and tells the file with the fitted cost model.
    pub(super) fn profile(&self, seconds: f64, output: &Path) -> anyhow::Result<PathBuf> {
        let options = ProfileOptions {
            engine: self.config.clone(),
            sampling: Sampling::default(),
            max_time: Nanos::from_secs_f64(seconds),
            seed: 1,
        };
        let clock = Arc::new(ThreadClock::default());
        let executor = self.executor(&clock)?;
        let clock: Arc<dyn Clock> = clock;
        let measured = profile(executor, &clock, &options, &mut |_| {})?;
        let identity = Identity {
            model: self.model.label().to_owned(),
            device: "one thread of the CPU, in time that it computed".to_owned(),
            block_size: BLOCK_SIZE,
            ..Identity::default()
        };
        let file = measured.fit(identity)?;
        let path = output.join("costs.toml");
        std::fs::write(&path, file.to_toml())?;
        let of = |group: &folio_sim::cost::GroupFit| {
            serde_json::json!({
                "spread": group.spread,
                "held_back_mape": group.held_back.mean,
                "held_back_p95": group.held_back.p95,
            })
        };
        super::table::print_line(&serde_json::json!({
            "profile": path,
            "num_shapes": measured.samples.len(),
            "num_rounds": measured.num_rounds,
            "decode": of(&file.decode),
            "mixed": of(&file.mixed),
            "host_step_us": file.host.step_ns * 1e-3,
            "host_sequence_us": file.host.sequence_ns * 1e-3,
        }))?;
        Ok(path)
    }

    /// Serves `jobs` as they come due, and tells the file of the decision log.
    pub(super) fn run(
        &self,
        policy: &str,
        jobs: &[Job],
        decider: Decider,
    ) -> anyhow::Result<PathBuf> {
        let clock = Arc::new(ThreadClock::default());
        let executor = self.executor(&clock)?;
        let mut core =
            EngineCore::new(self.config.clone(), decider, executor, Box::new(Arc::clone(&clock)));
        core.record_decisions();
        let begin = clock.now();
        let mut calls = Vec::new();
        let mut next = 0;
        while next < jobs.len() || !core.is_idle() {
            let elapsed = clock.now().since(begin);
            while next < jobs.len() && jobs[next].due <= elapsed {
                core.admit(jobs[next].request(next as u64));
                next += 1;
            }
            if core.is_idle() {
                let wait = jobs[next].due.since(clock.now().since(begin));
                clock.skip(wait);
                continue;
            }
            match core.step() {
                Turn::Failed(fault) => bail!("a step failed: {}", fault.message),
                Turn::Stepped(_) | Turn::Idle => calls.append(&mut core.take_decisions()),
            }
        }
        // Written down only now: the disk is not a part of what is measured. Times of the log
        // count from the begin of the load.
        for call in &mut calls {
            call.at = call.at.since(begin);
        }
        let path = self.output.join("run.log");
        let header = Header::new(policy, self.config.clone(), &[self.model.label().to_owned()]);
        let disguise = Disguise::reproducible(&self.config);
        let mut log = LogFile::create(&path, header, disguise, LogLimits { max_bytes: None })?;
        log.write(calls)?;
        log.flush()?;
        Ok(path)
    }
}
