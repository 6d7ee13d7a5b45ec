//! The executor that serves: several models on one device, stepped together.
//!
//! A step first copies the blocks that the plan names, then runs each model over its rows of the
//! plan, then samples or pools those that emit. Every sequence is computed on its own within the
//! batch, so numbers that are not finite fail one sequence and no other.

use std::ops::Range;
use std::sync::Arc;

use folio_kernels::cpu::Pool;
use folio_kernels::cuda::Driver;

use super::batch::{self, BatchRow, Emits};
use super::memory::MemoryPlan;
use super::sampler::{EmittingRows, Sampler};
use super::scoring::{self, PromptScorer, ToScore};
use super::{Executor, pooling};
use crate::model::{Model, ModelConfig, ModelFiles, PoolingConfig};
use crate::ops::{ActivationLayout, Batch, CpuDevice, CudaDevice, CudaOptions, Device, Tensor};
use crate::sched::Sequences;
use crate::types::{
    BlockId, Clock, Error, ModelId, Result, ScheduledSeq, SeqResult, SequenceId, StepOutput,
    StepPlan, SystemClock, TokenId,
};

/// What a runner is loaded with.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// What to compute on.
    pub device: DeviceOptions,
    /// What to allocate; made from the same configurations, in the same order.
    pub plan: MemoryPlan,
}

/// What to compute on.
#[derive(Clone, Debug)]
pub enum DeviceOptions {
    /// The processor, on this many threads, the calling one included.
    Cpu {
        /// At least 1.
        num_threads: usize,
    },
    /// An NVIDIA GPU, or what stands in for one.
    Cuda {
        /// The way to it.
        driver: Arc<dyn Driver>,
        /// How it computes.
        options: CudaOptions,
    },
}

impl DeviceOptions {
    /// How the device lays out activations, which memory is planned with.
    #[must_use]
    pub fn layout(&self) -> ActivationLayout {
        match self {
            Self::Cpu { .. } => ActivationLayout::CPU,
            Self::Cuda { options, .. } => options.layout(),
        }
    }

    fn create(&self) -> Result<Box<dyn Device>> {
        Ok(match self {
            Self::Cpu { num_threads } => Box::new(CpuDevice::new(Pool::new(*num_threads))),
            Self::Cuda { driver, options } => {
                Box::new(CudaDevice::new(Arc::clone(driver), *options)?)
            }
        })
    }
}

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What messages call the model.
    pub model: &'a str,
    /// Bytes of its weights that were handed to the device.
    pub loaded_bytes: u64,
    /// Bytes of its weight files; a little more than its weights.
    pub total_bytes: u64,
}

/// Executes plans with loaded models.
#[derive(Debug)]
pub struct ModelRunner {
    device: Box<dyn Device>,
    models: Vec<LoadedModel>,
    block_size: u32,
    batch: Batch,
    sampler: Sampler,
    scorer: PromptScorer,
    clock: SystemClock,
    output: Option<StepOutput>,
}

/// One of the models.
#[derive(Debug)]
pub(super) struct LoadedModel {
    pub(super) model: Box<dyn Model>,
    pub(super) role: Role,
}

/// What becomes of a model's outputs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Logits over a vocabulary of this size are sampled.
    Decoder { vocab_size: usize },
    /// Hidden states of this width are pooled.
    Encoder { hidden_size: usize, pooling: PoolingConfig },
}

impl ModelRunner {
    /// Loads `models`, indexed by `ModelId` in their order, and allocates what `options` plans.
    pub fn load(
        models: Vec<(ModelFiles, ModelConfig)>,
        options: &RunnerOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let mut device = options.device.create()?;
        let mut loaded = Vec::with_capacity(models.len());
        let load = || {
            for (files, config) in models {
                loaded.push(load_model(&files, &config, device.as_mut(), progress)?);
            }
            device.reserve(options.plan.reserve)
        };
        load().map_err(|error| with_plan(error, &options.plan))?;
        let mut runner = Self {
            device,
            models: loaded,
            block_size: options.plan.reserve.kv.map_or(1, |kv| kv.block_size as u32),
            batch: Batch::default(),
            sampler: Sampler::new(),
            scorer: PromptScorer::default(),
            clock: SystemClock::start(),
            output: None,
        };
        if let DeviceOptions::Cuda { .. } = options.device {
            runner.warm_up().map_err(|error| with_plan(error, &options.plan))?;
        }
        Ok(runner)
    }

    /// Runs every model once, so that what a device allocates at the first use of its kernels is
    /// allocated now. The token goes to the scratch block.
    fn warm_up(&mut self) -> Result<()> {
        for model in 0..self.models.len() as u32 {
            let row = BatchRow {
                tokens: &[0],
                positions: 0..1,
                blocks: &[BlockId(0)],
                emits: Emits::Last,
            };
            self.forward(ModelId(model), &[row])?;
        }
        Ok(())
    }

    /// Computes `rows` with one model and returns its raw outputs: logits of the emitting
    /// positions, `[E, V]`, from a decoder, hidden states of all tokens, `[T, H]`, from an encoder.
    ///
    /// This is the arithmetic of a step without sampling or pooling, for scoring and for tests.
    pub fn forward(&mut self, model: ModelId, rows: &[BatchRow<'_>]) -> Result<&mut [f32]> {
        let hidden = self.run(model, rows, &[]);
        let outputs = self.models[model.index()].model.logits(self.device.as_mut(), hidden);
        self.device.read(outputs)
    }

    /// Hidden states: of a decoder's emitting rows, then of `to_score`, the places of positions in
    /// `rows`; of all tokens from an encoder.
    fn run(
        &mut self,
        model: ModelId,
        rows: &[BatchRow<'_>],
        to_score: &[(usize, Range<u32>)],
    ) -> Tensor {
        let loaded = &self.models[model.index()];
        let block_size = match loaded.role {
            Role::Decoder { .. } => Some(self.block_size),
            Role::Encoder { .. } => None,
        };
        batch::fill(&mut self.batch, rows, block_size);
        for (row, positions) in to_score {
            batch::push_outputs(&mut self.batch, *row, positions.clone());
        }
        self.device.begin(&self.batch);
        loaded.model.forward(self.device.as_mut())
    }

    /// Runs one model over its rows of the plan and enters their results.
    fn step(
        &mut self,
        model: ModelId,
        plan: &StepPlan,
        sequences: &mut Sequences,
        output: &mut StepOutput,
    ) -> Result<()> {
        let scheduled = || plan.seqs.iter().enumerate().filter(|(_, seq)| seq.model == model);
        let loaded = self.models[model.index()].model.as_ref();
        let typed =
            |(_, seq): (usize, &ScheduledSeq)| pooling::typed_tokens(sequences.get(seq.id), loaded);
        let typed = scheduled().map(typed).collect::<Vec<_>>();
        let rows = scheduled().zip(&typed);
        let rows = rows.map(|((_, seq), typed)| row_of(seq, sequences, typed.as_deref()));
        let rows = rows.collect::<Vec<_>>();
        if rows.is_empty() {
            return Ok(());
        }
        let (to_score, places) = to_score(scheduled(), sequences);
        let hidden = self.run(model, &rows, &places);
        let emitted = match self.models[model.index()].role {
            Role::Decoder { vocab_size } => {
                let emitting = scheduled().filter(|(_, seq)| seq.emits);
                let ids = emitting.map(|(_, seq)| seq.id).collect::<Vec<_>>();
                self.sample((model, hidden), vocab_size, &ids, sequences)?
            }
            Role::Encoder { hidden_size, pooling } => {
                self.pool((model, hidden), hidden_size, pooling)?
            }
        };
        let emitting = scheduled().filter(|(_, seq)| seq.emits);
        for ((index, _), result) in emitting.zip(emitted) {
            output.results[index] = result;
        }
        self.score((model, hidden), &to_score, sequences, output)
    }

    /// Enters the log-probabilities of prompts; `hidden` ends with the rows of `to_score`.
    fn score(
        &mut self,
        (model, hidden): (ModelId, Tensor),
        to_score: &[ToScore],
        sequences: &Sequences,
        output: &mut StepOutput,
    ) -> Result<()> {
        if to_score.is_empty() {
            return Ok(());
        }
        let num_rows = to_score.iter().map(|one| one.positions.len()).sum::<usize>();
        let hidden = hidden.rows_in(hidden.rows() - num_rows..hidden.rows());
        let model = self.models[model.index()].model.as_ref();
        let device: &mut dyn Device = self.device.as_mut();
        let scored = self.scorer.score((device, model), hidden, to_score, sequences)?;
        output.prompt_scores.extend(scored.scores);
        for (index, message) in scored.failed {
            output.results[index] = SeqResult::Failed(message);
        }
        Ok(())
    }

    fn sample(
        &mut self,
        (model, hidden): (ModelId, Tensor),
        vocab_size: usize,
        ids: &[SequenceId],
        sequences: &mut Sequences,
    ) -> Result<Vec<SeqResult>> {
        let mut results = Vec::with_capacity(ids.len());
        let mark = self.device.arena().mark();
        let model = self.models[model.index()].model.as_ref();
        let logits = model.logits(self.device.as_mut(), hidden.first_rows(ids.len()));
        self.device.arena().rewind(mark);
        let rows = EmittingRows { logits: self.device.read(logits)?, vocab_size, ids };
        self.sampler.sample(rows, sequences, &mut results);
        Ok(results)
    }

    fn pool(
        &mut self,
        (model, hidden): (ModelId, Tensor),
        hidden_size: usize,
        pooling: PoolingConfig,
    ) -> Result<Vec<SeqResult>> {
        let model = self.models[model.index()].model.as_ref();
        let hidden = self.device.read(hidden)?;
        let ranges = self.batch.cu_seqlens_q.windows(2);
        let vectors = ranges
            .map(|range| {
                let (start, end) = (range[0] as usize, range[1] as usize);
                let rows = &hidden[start * hidden_size..end * hidden_size];
                match pooling::pool(rows, hidden_size, pooling) {
                    Some(vector) => pooling::result(vector, model),
                    None => SeqResult::Failed("the embedding is not finite".into()),
                }
            })
            .collect();
        Ok(vectors)
    }
}

impl Executor for ModelRunner {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let start = self.clock.now();
        let num_swaps = plan.swap_out.len() + plan.swap_in.len();
        assert_eq!(num_swaps, 0, "blocks to swap where all memory is the host's");
        self.device.copy_blocks(&plan.copies);
        let results = vec![SeqResult::Computed; plan.seqs.len()];
        let mut output = StepOutput { results, ..StepOutput::default() };
        for model in 0..self.models.len() as u32 {
            self.step(ModelId(model), plan, sequences, &mut output)?;
        }
        self.device.check()?;
        output.device_time = self.clock.now().since(start);
        self.output = Some(output);
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        self.output.take().ok_or_else(|| Error::Device("collect without a submitted step".into()))
    }
}

/// Says with an error of too little memory what was to be allocated.
pub(super) fn with_plan(error: Error, plan: &MemoryPlan) -> Error {
    match error {
        Error::OutOfMemory(message) => Error::OutOfMemory(format!(
            "{message} ({plan}); lower max_num_batched_tokens, max_num_seqs or the KV cache"
        )),
        other => other,
    }
}

pub(super) fn load_model(
    files: &ModelFiles,
    config: &ModelConfig,
    device: &mut dyn Device,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<LoadedModel> {
    let mut now =
        Progress { model: config.label(), loaded_bytes: 0, total_bytes: config.weights_bytes() };
    progress(now);
    let mut loaded = |num_bytes: usize| {
        now.loaded_bytes += num_bytes as u64;
        progress(now);
    };
    let model = config.load(files, device, &mut loaded)?;
    Ok(LoadedModel { model, role: role_of(config) })
}

fn role_of(config: &ModelConfig) -> Role {
    let limits = config.limits();
    match (limits.kind, config.pooling()) {
        (kind, Some(pooling)) if kind.is_encoder() => {
            Role::Encoder { hidden_size: config.hidden_size() as usize, pooling }
        }
        _ => Role::Decoder { vocab_size: limits.vocab_size as usize },
    }
}

/// What to score in the rows of one model, and where that is: rows with positions.
fn to_score<'a>(
    scheduled: impl Iterator<Item = (usize, &'a ScheduledSeq)>,
    sequences: &Sequences,
) -> (Vec<ToScore>, Vec<(usize, Range<u32>)>) {
    let scheduled = scheduled.collect::<Vec<_>>();
    let to_score = scoring::to_score(scheduled.iter().copied(), sequences);
    let row_of = |one: &ToScore| scheduled.partition_point(|(index, _)| *index < one.index);
    let places = to_score.iter().map(|one| (row_of(one), one.positions.clone())).collect();
    (to_score, places)
}

fn row_of<'a>(
    seq: &ScheduledSeq,
    sequences: &'a Sequences,
    typed: Option<&'a [TokenId]>,
) -> BatchRow<'a> {
    let sequence = sequences.get(seq.id);
    BatchRow {
        tokens: typed.unwrap_or(sequence.tokens()),
        positions: seq.positions.clone(),
        blocks: sequence.table().blocks(),
        emits: if seq.emits { Emits::Last } else { Emits::Nothing },
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
