//! The executor of a GPU: two steps in flight, tokens that stay on the device.
//!
//! `submit` packs one upload, launches the forward pass (or replays it from a graph) and the
//! sampling, and has the results copied back; it waits for nothing. `collect` waits for the oldest
//! step. What a step samples is fed to the next on the device, by slot. Only rows that need the
//! host (logits processors, lists longer than a slot holds) make `submit` wait.

mod decoder;
mod graphs;
mod masks;
mod results;
mod sampling;
mod slots;
mod swap;
mod warm_up;

use std::collections::VecDeque;
use std::sync::Arc;

use folio_kernels::cuda::{Driver, PoolTexts, PooledLength, PooledTokens};

use self::decoder::DecoderState;
use self::results::{Results, ResultsLayout};
pub use self::swap::{SwapChoice, SwapRates, TokenSize};
use super::Executor;
use super::memory::MemoryPlan;
use super::pooling;
use super::runner::{LoadedModel, Progress, Role, load_model, with_plan};
use crate::model::{ModelConfig, ModelFiles, Normalization, Pooling, PoolingConfig};
use crate::ops::{CudaDevice, CudaOptions, Device, Pages, Reserve, RowTokens, Tensor, UploadRow};
use crate::sched::Sequences;
use crate::types::{
    Clock, Error, ModelId, ModelLimits, Nanos, PromptScores, Result, ScheduledSeq, SeqResult,
    StepOutput, StepPlan, SystemClock,
};

/// Steps that are in flight at once: one that runs, and one behind it.
const MAX_IN_FLIGHT: usize = 2;

/// Bytes of device memory that sampling takes.
pub(super) fn sampling_bytes(limits: ModelLimits, reserve: Reserve) -> u64 {
    let max_rows = reserve.max_num_seqs;
    let limits = sampling::limits(max_rows + 1, max_rows, limits.vocab_size as usize);
    (limits.num_bytes() + masks::DeviceMasks::num_bytes(limits)) as u64
}

/// Executes plans on a GPU.
#[derive(Debug)]
pub struct CudaRunner {
    device: CudaDevice,
    models: Vec<LoadedModel>,
    /// What the decoder needs beside its weights, if there is one.
    decoder: Option<DecoderState>,
    /// Where results arrive, in turn.
    results: [Results; MAX_IN_FLIGHT],
    turn: usize,
    in_flight: VecDeque<InFlight>,
    clock: SystemClock,
    notes: Vec<String>,
}

/// A step that was submitted.
#[derive(Debug)]
struct InFlight {
    start: Nanos,
    /// Which of the results is its.
    turn: usize,
    /// One for each scheduled sequence.
    outcomes: Vec<Outcome>,
    prompt_scores: Vec<PromptScores>,
}

/// Where the result of a scheduled sequence will be.
#[derive(Debug)]
enum Outcome {
    /// It emits nothing.
    Computed,
    /// In this row of the samples.
    Sampled { row: usize },
    /// `num_floats` numbers from `offset` on, of the vectors of this model.
    Embedded { model: usize, offset: usize, num_floats: usize },
    /// Known already.
    Decided(SeqResult),
}

impl CudaRunner {
    /// Loads `models`, indexed by `ModelId` in their order, allocates what is planned, and captures
    /// the decode steps.
    pub fn load(
        models: Vec<(ModelFiles, ModelConfig)>,
        (driver, options): (Arc<dyn Driver>, CudaOptions),
        plan: &MemoryPlan,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        Self::load_all(models, (driver, options), plan, progress)
            .map_err(|error| with_plan(error, plan))
    }

    fn load_all(
        models: Vec<(ModelFiles, ModelConfig)>,
        (driver, options): (Arc<dyn Driver>, CudaOptions),
        plan: &MemoryPlan,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let mut device = CudaDevice::new(driver, options)?;
        let mut loaded = Vec::with_capacity(models.len());
        for (files, config) in models {
            loaded.push(load_model(&files, &config, &mut device, progress)?);
        }
        device.reserve(plan.reserve)?;
        device.reserve_host_blocks(plan.num_host_blocks)?;
        let max_num_seqs = plan.reserve.max_num_seqs;
        let decoder = loaded.iter().find_map(|model| match model.role {
            Role::Decoder { vocab_size } => Some(vocab_size),
            Role::Encoder { .. } => None,
        });
        let decoder = decoder.map(|vocab| DecoderState::new(&device, max_num_seqs, vocab));
        let decoder = decoder.transpose()?;
        let layout = ResultsLayout {
            sample_bytes: decoder.as_ref().map_or(0, DecoderState::results_bytes),
            vector_floats: vector_floats(&loaded, max_num_seqs),
        };
        let results = [Results::new(&device, layout)?, Results::new(&device, layout)?];
        let mut runner = Self {
            device,
            models: loaded,
            decoder,
            results,
            turn: 0,
            in_flight: VecDeque::new(),
            clock: SystemClock::start(),
            notes: Vec::new(),
        };
        runner.warm_up(options, plan.reserve)?;
        Ok(runner)
    }

    /// Computes and pools the texts of one encoder.
    fn embed(
        &mut self,
        (model, first_float): (usize, usize),
        plan: &StepPlan,
        sequences: &Sequences,
        outcomes: &mut [Outcome],
    ) {
        let Role::Encoder { hidden_size, pooling } = self.models[model].role else {
            panic!("model {model} is not an encoder");
        };
        let texts = || scheduled(plan, ModelId(model as u32));
        let loaded = self.models[model].model.as_ref();
        self.device.begin_step(Pages::None, |upload| {
            for (row, (_, seq)) in texts().enumerate() {
                let sequence = sequences.get(seq.id);
                let typed = pooling::typed_tokens(sequence, loaded);
                let tokens = RowTokens::Given(typed.as_deref().unwrap_or(sequence.tokens()));
                let row = UploadRow { slot: row as u32, start: 0, tokens, first_new_block: 0 };
                upload.push(row, std::iter::empty());
            }
        });
        let hidden = self.models[model].model.forward(&mut self.device);
        let vectors = pool(&mut self.device, hidden, [texts().count(), hidden_size], pooling);
        self.results[self.turn].fetch_vectors(&mut self.device, vectors, first_float);
        for (row, (index, _)) in texts().enumerate() {
            let offset = first_float + row * hidden_size;
            outcomes[index] = Outcome::Embedded { model, offset, num_floats: hidden_size };
        }
    }

    fn submit_all(
        &mut self,
        plan: &StepPlan,
        sequences: &mut Sequences,
        outcomes: &mut [Outcome],
    ) -> Result<Vec<PromptScores>> {
        let (mut first_float, mut prompt_scores) = (0, Vec::new());
        for model in 0..self.models.len() {
            let num_seqs = scheduled(plan, ModelId(model as u32)).count();
            match (self.models[model].role, &mut self.decoder) {
                _ if num_seqs == 0 => {}
                (Role::Decoder { .. }, Some(decoder)) => {
                    let rows: Vec<_> = scheduled(plan, ModelId(model as u32)).collect();
                    let model = self.models[model].model.as_ref();
                    let device = (&mut self.device, model);
                    let scored = decoder.step(device, &rows, sequences, outcomes)?;
                    for (index, message) in scored.failed {
                        outcomes[index] = Outcome::Decided(SeqResult::Failed(message));
                    }
                    prompt_scores.extend(scored.scores);
                    decoder.fetch(&mut self.device, &mut self.results[self.turn]);
                }
                (Role::Decoder { .. }, None) => panic!("a decoder without its state"),
                (Role::Encoder { hidden_size, .. }, _) => {
                    self.embed((model, first_float), plan, sequences, outcomes);
                    first_float += num_seqs * hidden_size;
                }
            }
        }
        Ok(prompt_scores)
    }
}

impl Executor for CudaRunner {
    fn max_in_flight(&self) -> usize {
        MAX_IN_FLIGHT
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        self.device.check()?;
        assert!(self.in_flight.len() < MAX_IN_FLIGHT, "{MAX_IN_FLIGHT} steps are in flight");
        let start = self.clock.now();
        self.device.swap_blocks(&plan.swap_out, &plan.swap_in);
        self.device.copy_blocks(&plan.copies);
        let mut outcomes: Vec<_> = plan.seqs.iter().map(|_| Outcome::Computed).collect();
        let prompt_scores = self.submit_all(plan, sequences, &mut outcomes)?;
        self.results[self.turn].mark(&mut self.device);
        self.device.check()?;
        let step = InFlight { start, turn: self.turn, outcomes, prompt_scores };
        self.in_flight.push_back(step);
        self.turn = (self.turn + 1) % MAX_IN_FLIGHT;
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let Some(step) = self.in_flight.pop_front() else {
            return Err(Error::Device("collect without a submitted step".into()));
        };
        let results = &self.results[step.turn];
        results.wait(&self.device)?;
        let read = |outcome| match outcome {
            Outcome::Computed => SeqResult::Computed,
            Outcome::Decided(result) => result,
            Outcome::Embedded { model, offset, num_floats } => {
                match results.vector(offset, num_floats) {
                    SeqResult::Embedding(vector) => {
                        pooling::result(vector, self.models[model].model.as_ref())
                    }
                    failed => failed,
                }
            }
            Outcome::Sampled { row } => match &self.decoder {
                Some(decoder) => decoder.read(results.samples(), row),
                None => SeqResult::Failed("a sample without a decoder".into()),
            },
        };
        let outcomes = step.outcomes.into_iter().map(read).collect();
        // Steps overlap: what this one took begins when the one before it ended, at the earliest.
        let device_time = self.clock.now().since(step.start);
        Ok(StepOutput { results: outcomes, prompt_scores: step.prompt_scores, device_time })
    }
}

impl Drop for CudaRunner {
    /// Memory is freed with the fields; nothing may be using it by then.
    fn drop(&mut self) {
        // Not the device's own call, which does nothing after a failure.
        let _ = self.device.context().synchronize();
    }
}

/// The sequences of one model, with their places in the plan.
fn scheduled(
    plan: &StepPlan,
    model: ModelId,
) -> impl Iterator<Item = (usize, &ScheduledSeq)> + Clone {
    plan.seqs.iter().enumerate().filter(move |(_, seq)| seq.model == model)
}

/// Numbers of all vectors that a step can yield.
fn vector_floats(models: &[LoadedModel], max_num_seqs: usize) -> usize {
    let sizes = models.iter().map(|model| match model.role {
        Role::Encoder { hidden_size, .. } => hidden_size * max_num_seqs,
        Role::Decoder { .. } => 0,
    });
    sizes.sum()
}

/// One vector in single precision for each text.
fn pool(
    device: &mut CudaDevice,
    hidden: Tensor,
    [num_texts, hidden_size]: [usize; 2],
    pooling: PoolingConfig,
) -> Tensor {
    let vectors = device.alloc_floats(num_texts, hidden_size);
    let args = PoolTexts {
        hidden: device.view(hidden),
        cu_seqlens: device.step_arrays().cu_seqlens,
        tokens: match pooling.pooling {
            Pooling::Cls => PooledTokens::First,
            Pooling::Mean => PooledTokens::Mean,
            Pooling::Last => PooledTokens::Last,
        },
        length: match pooling.normalization {
            Normalization::None => PooledLength::Kept,
            Normalization::L2 => PooledLength::One,
        },
        output: device.view(vectors),
        element: device.element(),
    };
    device.launch(|context| folio_kernels::cuda::pool_texts(context, args));
    vectors
}
