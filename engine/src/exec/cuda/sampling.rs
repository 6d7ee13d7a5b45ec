//! How each slot samples, kept on the device, and the way of results back into the engine's words.

use folio_kernels::cuda::{
    Context, DeviceBuffer, EventId, PinnedBuffer, RowLogprobs, SampleFailure, SampleKind,
    SamplerLimits, SamplerState, SlotDraw, SlotEdits, SlotParams, SlotUpdates, read_result,
    update_slots,
};

use super::super::sampler::Unsampleable;
use crate::ops::{CudaDevice, failure};
use crate::sched::Sequence;
use crate::types::{Result, SampledToken, SamplingParams, SeqResult, TokenId, TokenLogprobs};

/// Words of parameters that are uploaded at a time, unless one slot alone has more.
const MIN_STAGED_WORDS: usize = 1 << 16;
/// Uploads that may be under way at once.
const NUM_STAGED: usize = 2;

/// Who samples the rows of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chooser {
    /// The device, with these launches.
    Device(SampleKind),
    /// The host: a processor wants to see the logits, or the slot cannot hold the parameters.
    Host,
}

/// The sampler on the device, and what the host knows of its slots.
#[derive(Debug)]
pub(super) struct DeviceSampling {
    state: SamplerState,
    choosers: Vec<Chooser>,
    updates: SlotUpdates,
    counts: Vec<(TokenId, u32)>,
    max_words: usize,
    upload: DeviceBuffer,
    staged: [Staged; NUM_STAGED],
    turn: usize,
}

/// Pinned memory of an upload, and the event after which it may be written again.
#[derive(Debug)]
struct Staged {
    memory: PinnedBuffer,
    copied: EventId,
    is_under_way: bool,
}

/// Sizes of the sampler's state for `num_slots` and rows as many.
pub(super) fn limits(num_slots: usize, max_rows: usize, vocab_size: usize) -> SamplerLimits {
    let max_counts = vocab_size.min(SamplingParams::MAX_COUNTED as usize);
    SamplerLimits { num_slots, max_rows, vocab_size, max_counts }
}

impl DeviceSampling {
    /// A sampler of the given sizes.
    pub(super) fn new(context: &Context, limits: SamplerLimits) -> Result<Self> {
        // One slot: its parameters, its counts, biases and stops, each of two words at most.
        let slot_words = 64 + 2 * limits.max_counts + 4 * SamplingParams::MAX_LISTED;
        // What waits takes at most half, so that any slot fits behind it.
        let max_words = MIN_STAGED_WORDS.max(2 * slot_words);
        let stage = || {
            let memory = context.allocate_pinned(max_words * 4)?;
            Ok(Staged { memory, copied: context.create_event()?, is_under_way: false })
        };
        let make = || {
            Ok(Self {
                state: SamplerState::new(context, limits)?,
                choosers: vec![Chooser::Device(SampleKind::Greedy); limits.num_slots],
                updates: SlotUpdates::default(),
                counts: Vec::new(),
                max_words,
                upload: context.allocate(max_words * 4)?,
                staged: [stage()?, stage()?],
                turn: 0,
            })
        };
        make().map_err(|error| failure(&error))
    }

    /// The state on the device.
    pub(super) fn state(&self) -> &SamplerState {
        &self.state
    }

    /// Who samples the rows of a slot.
    pub(super) fn chooser(&self, slot: u32) -> Chooser {
        self.choosers[slot as usize]
    }

    /// Gives a slot to a sequence that generates; [`upload`](Self::upload) follows before the step.
    pub(super) fn assign(&mut self, device: &mut CudaDevice, slot: u32, sequence: &Sequence) {
        let Some(params) = sequence.sampling() else {
            panic!("sequence {} does not generate", sequence.id());
        };
        self.counts.clear();
        if let Some(counts) = sequence.counts() {
            self.counts.extend(counts.iter());
        }
        let slot_params = slot_params(sequence, params, &self.counts);
        let is_host = sequence.is_sampled_on_host();
        self.choosers[slot as usize] =
            if is_host { Chooser::Host } else { Chooser::Device(slot_params.kind()) };
        if is_host {
            return;
        }
        self.updates.push(&self.state, slot as usize, &slot_params);
        // So that the next slot has room whatever its lists.
        if self.updates.num_words() > self.max_words / 2 {
            self.upload(device);
        }
    }

    /// Uploads what was assigned.
    pub(super) fn upload(&mut self, device: &mut CudaDevice) {
        let num_updates = self.updates.num_updates();
        if num_updates == 0 {
            return;
        }
        let staged = &mut self.staged[self.turn];
        self.turn = (self.turn + 1) % NUM_STAGED;
        let num_bytes = self.updates.num_words() * 4;
        let (state, upload, updates) = (&self.state, &self.upload, &self.updates);
        device.launch(|context| {
            if staged.is_under_way {
                context.wait(staged.copied)?;
            }
            let (words, _) = staged.memory.as_mut_slice().as_chunks_mut::<4>();
            for (word, value) in words.iter_mut().zip(updates.words()) {
                *word = value.to_ne_bytes();
            }
            context.copy_in(&staged.memory, 0..num_bytes, upload, 0)?;
            context.record(staged.copied)?;
            staged.is_under_way = true;
            update_slots(context, state, upload.ptr(), num_updates)
        });
        self.updates.clear();
    }

    /// What became of emitting row `row`, from a copy of the results.
    pub(super) fn read(&self, results: &[u8], row: usize) -> SeqResult {
        let outcome = read_result(results, self.state.limits().max_rows, row);
        match outcome.token {
            Ok(id) => {
                let logprobs = outcome.logprobs.map(|logprobs| {
                    let RowLogprobs { logprob, top, .. } = logprobs;
                    Box::new(TokenLogprobs { logprob, top })
                });
                SeqResult::Token(SampledToken { id, logprobs })
            }
            Err(why) => SeqResult::Failed(match why {
                SampleFailure::NotANumber { token } => {
                    Unsampleable::NotANumber { token }.to_string()
                }
                SampleFailure::Infinite { token } => Unsampleable::Infinite { token }.to_string(),
                SampleFailure::AllBanned => Unsampleable::AllBanned.to_string(),
                SampleFailure::CountsFull => "its tokens exceed the table of counts".into(),
            }),
        }
    }
}

fn slot_params<'a>(
    sequence: &Sequence,
    params: &'a SamplingParams,
    counts: &'a [(TokenId, u32)],
) -> SlotParams<'a> {
    let (sampling, penalties) = (&params.sampling, &params.penalties);
    SlotParams {
        draw: SlotDraw {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed: sampling.seed,
            choice_index: sequence.choice_index(),
        },
        edits: SlotEdits {
            frequency: penalties.frequency,
            presence: penalties.presence,
            repetition: penalties.repetition,
            counts,
            biases: &penalties.logit_bias,
            stops: &params.stop.token_ids,
            min_tokens: params.stop.min_tokens,
        },
        prompt_len: sequence.request().prompt_len,
        num_logprobs: params.logprobs,
    }
}
