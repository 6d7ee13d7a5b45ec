//! An executor whose "keys and values" are fingerprints of the text before them.
//!
//! Every slot remembers which prefix was computed into it, and every read is checked, so that a
//! stale block, a wrong table or a missed copy stops the run. The "model" samples a token that is
//! a pure function of the whole text and the choice, which tests can compute on their own.

use folio_engine::exec::Executor;
use folio_engine::sched::Sequences;
use folio_engine::types::{
    EngineConfig, ModelKind, Nanos, Result, SampledToken, ScheduledSeq, SeqResult, StepOutput,
    StepPlan, TokenId,
};

/// Carries out plans on fingerprints instead of tensors.
#[derive(Debug)]
pub struct FingerprintExecutor {
    config: EngineConfig,
    slots: Slots,
    output: Option<StepOutput>,
}

impl FingerprintExecutor {
    /// An executor with the pool of `config`.
    #[must_use]
    pub fn new(config: &EngineConfig) -> Self {
        Self { config: config.clone(), slots: Slots::new(config), output: None }
    }

    /// The token that follows `text` for choice `choice_index`: any in 0..`vocab_size`.
    #[must_use]
    pub fn next_token(text: &[TokenId], choice_index: u32, vocab_size: u32) -> TokenId {
        let mixed = fingerprint(text) ^ (u64::from(choice_index) << 17);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % vocab_size
    }

    /// The vector of a text: its fingerprint in two parts.
    #[must_use]
    pub fn embedding(text: &[TokenId]) -> Vec<f32> {
        let hash = fingerprint(text);
        vec![(hash >> 40) as f32, (hash & 0xffff) as f32]
    }

    fn slot(&self, sequences: &Sequences, scheduled: &ScheduledSeq, position: u32) -> usize {
        let size = self.config.block_size;
        let block = sequences.get(scheduled.id).table().blocks()[(position / size) as usize];
        assert!(block.0 != 0, "the scratch block is in a table");
        block.index() * size as usize + (position % size) as usize
    }

    /// Writes what the plan computes. All writes come before all reads, as on a device.
    fn write(&mut self, sequences: &Sequences, scheduled: &ScheduledSeq) {
        let tokens = sequences.get(scheduled.id).tokens();
        let mut hash = fingerprint(&tokens[..scheduled.positions.start as usize]);
        for position in scheduled.positions.clone() {
            hash = extend(hash, tokens[position as usize]);
            let slot = self.slot(sequences, scheduled, position);
            self.slots.device[slot] = Some(hash);
        }
    }

    fn check_reads(&self, sequences: &Sequences, scheduled: &ScheduledSeq) {
        let tokens = sequences.get(scheduled.id).tokens();
        let mut hash = START;
        for position in 0..scheduled.positions.end {
            hash = extend(hash, tokens[position as usize]);
            let found = self.slots.device[self.slot(sequences, scheduled, position)];
            assert_eq!(found, Some(hash), "{scheduled:?} reads stale position {position}");
        }
    }

    fn result(&self, sequences: &Sequences, scheduled: &ScheduledSeq) -> SeqResult {
        let sequence = sequences.get(scheduled.id);
        let model = self.config.models[scheduled.model.index()];
        match model.kind {
            ModelKind::Encoder | ModelKind::CrossEncoder => {
                SeqResult::Embedding(Self::embedding(sequence.tokens()))
            }
            ModelKind::Decoder if scheduled.emits => {
                let index = sequence.choice_index();
                let id = Self::next_token(sequence.tokens(), index, model.vocab_size);
                SeqResult::Token(SampledToken { id, logprobs: None })
            }
            ModelKind::Decoder => SeqResult::Computed,
        }
    }
}

impl Executor for FingerprintExecutor {
    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        self.slots.move_blocks(plan);
        let is_decoder = |scheduled: &&ScheduledSeq| {
            self.config.models[scheduled.model.index()].kind == ModelKind::Decoder
        };
        let decoders: Vec<ScheduledSeq> = plan.seqs.iter().filter(is_decoder).cloned().collect();
        for scheduled in &decoders {
            self.write(sequences, scheduled);
        }
        for scheduled in &decoders {
            self.check_reads(sequences, scheduled);
        }
        let results = plan.seqs.iter().map(|scheduled| self.result(sequences, scheduled));
        self.output = Some(StepOutput {
            results: results.collect(),
            device_time: Nanos(1000),
            ..Default::default()
        });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let Some(output) = self.output.take() else { panic!("collect without submit") };
        Ok(output)
    }
}

/// Which prefix was computed into each slot of the pool, and into each that is saved on the host.
#[derive(Debug)]
pub(crate) struct Slots {
    block_size: usize,
    pub(crate) device: Vec<Option<u64>>,
    host: Vec<Option<u64>>,
}

impl Slots {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let block_size = config.block_size as usize;
        Self {
            block_size,
            device: vec![None; config.num_blocks as usize * block_size],
            host: vec![None; config.num_host_blocks as usize * block_size],
        }
    }

    /// Saves, brings back and copies blocks, in this order.
    pub(crate) fn move_blocks(&mut self, plan: &StepPlan) {
        let size = self.block_size;
        let range = |index: usize| index * size..(index + 1) * size;
        for swap in &plan.swap_out {
            let source = &self.device[range(swap.device.index())];
            self.host[range(swap.host.index())].copy_from_slice(source);
        }
        for swap in &plan.swap_in {
            let source = &self.host[range(swap.host.index())];
            self.device[range(swap.device.index())].copy_from_slice(source);
        }
        for copy in &plan.copies {
            let target = copy.target.index() * size;
            self.device.copy_within(range(copy.source.index()), target);
        }
    }
}

/// The fingerprint of the empty text.
pub(crate) const START: u64 = 7;

/// The fingerprint of a text with `token` after it.
pub(crate) fn extend(hash: u64, token: TokenId) -> u64 {
    (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

fn fingerprint(text: &[TokenId]) -> u64 {
    text.iter().fold(START, |hash, &token| extend(hash, token))
}
