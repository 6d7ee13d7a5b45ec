//! A fingerprint executor that takes several steps and carries each out as late as it may.
//!
//! It models a device with a queue. At `submit` it copies what a device is sent: block tables,
//! positions and the tokens that are known. It computes when a step is collected, feeding a
//! placeholder the token that it sampled itself. It stops the run when a block that a step in
//! flight names is written for another sequence, and when a read finds anything but the keys and
//! values of its own text.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use folio_engine::exec::Executor;
use folio_engine::sched::{Sequence, Sequences};
use folio_engine::types::{
    BlockId, EngineConfig, Error, ModelKind, Nanos, Result, SampledToken, ScheduledSeq, SeqResult,
    SequenceId, StepOutput, StepPlan, TokenId, TokenSource,
};

use crate::FingerprintExecutor;
use crate::fingerprint::{START, Slots, extend};

/// Carries out plans on fingerprints, late.
#[derive(Debug)]
pub struct LateExecutor {
    config: EngineConfig,
    max_in_flight: usize,
    slots: Slots,
    /// What was computed and sampled for each sequence.
    texts: HashMap<SequenceId, Vec<TokenId>>,
    /// Sequences whose numbers are garbage.
    broken: HashSet<SequenceId>,
    in_flight: VecDeque<Submitted>,
    faults: Faults,
    log: Arc<Mutex<StepLog>>,
}

/// What a [`LateExecutor`] was given.
#[derive(Clone, Debug, Default)]
pub struct StepLog {
    /// For each submitted step, how many were in flight already.
    pub num_in_flight: Vec<usize>,
    /// The plans.
    pub plans: Vec<StepPlan>,
    /// Steps that failed on purpose, at submission or at collection, and sequences that did alone.
    pub num_failed: [u32; 3],
}

impl StepLog {
    /// Rows that took a token which was not known at submission.
    #[must_use]
    pub fn num_placeholders(&self) -> usize {
        let rows = self.plans.iter().flat_map(|plan| &plan.seqs);
        rows.filter(|row| row.token == TokenSource::Placeholder).count()
    }
}

/// What fails, every other time with a panic instead of an error.
#[derive(Clone, Copy, Debug)]
pub enum Faults {
    /// None.
    Never,
    /// About one in so many submissions, collections and results, from a seed.
    OneIn(u32, u64),
}

impl Faults {
    fn strike(&mut self) -> bool {
        let Self::OneIn(num, state) = self else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99_991);
        ((*state >> 33) as u32).is_multiple_of(*num)
    }

    fn strike_every_other(self) -> bool {
        match self {
            Self::Never => false,
            Self::OneIn(_, state) => (state >> 40).is_multiple_of(2),
        }
    }
}

#[derive(Debug)]
struct Submitted {
    rows: Vec<Row>,
    plan: StepPlan,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Succeeds,
    Fails,
}

/// What a device is sent of a scheduled sequence.
#[derive(Debug)]
struct Row {
    scheduled: ScheduledSeq,
    choice_index: u32,
    blocks: Vec<BlockId>,
    /// The text up to the end of the row, less a placeholder.
    known: Vec<TokenId>,
}

impl LateExecutor {
    /// An executor with the pool of `config` that takes `max_in_flight` steps at once.
    #[must_use]
    pub fn new(config: &EngineConfig, max_in_flight: usize) -> Self {
        Self {
            config: config.clone(),
            max_in_flight,
            slots: Slots::new(config),
            texts: HashMap::new(),
            broken: HashSet::new(),
            in_flight: VecDeque::new(),
            faults: Faults::Never,
            log: Arc::default(),
        }
    }

    /// The same with steps that fail.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// The same, entering what it is given into `log`, after what another executor was.
    #[must_use]
    pub fn with_log(self, log: Arc<Mutex<StepLog>>) -> Self {
        Self { log, ..self }
    }

    /// What it will have been given; stays readable when the engine owns the executor.
    #[must_use]
    pub fn log(&self) -> Arc<Mutex<StepLog>> {
        Arc::clone(&self.log)
    }

    fn note(&self, enter: impl FnOnce(&mut StepLog)) {
        enter(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_decoder(&self, row: &Row) -> bool {
        self.config.models[row.scheduled.model.index()].kind == ModelKind::Decoder
    }

    fn row(&self, scheduled: &ScheduledSeq, sequences: &Sequences) -> Row {
        let sequence = sequences.get(scheduled.id);
        let end = scheduled.positions.end;
        assert_eq!(sequence.num_scheduled(), end, "{scheduled:?} of {sequence:?}");
        let num_known = match scheduled.token {
            TokenSource::Known => end,
            TokenSource::Placeholder => {
                let is_needed = sequence.needs_latest_token();
                assert!(!is_needed, "the token is needed on the host: {scheduled:?}");
                end - 1
            }
        };
        let size = self.config.block_size as usize;
        let num_blocks = (end as usize).div_ceil(size).min(sequence.table().blocks().len());
        Row {
            scheduled: scheduled.clone(),
            choice_index: sequence.choice_index(),
            blocks: sequence.table().blocks()[..num_blocks].to_vec(),
            known: sequence.tokens()[..(num_known as usize).min(sequence.tokens().len())].to_vec(),
        }
    }

    /// What a step writes may not be named by a step in flight for another sequence.
    fn check_writes(&self, step: &Submitted, sequences: &Sequences) {
        let size = self.config.block_size;
        let mut written: Vec<(SequenceId, BlockId)> = Vec::new();
        for row in step.rows.iter().filter(|row| self.is_decoder(row)) {
            let positions = &row.scheduled.positions;
            let blocks = positions.start / size..positions.end.div_ceil(size);
            let ids = row.blocks[blocks.start as usize..blocks.end as usize].iter();
            written.extend(ids.map(|&block| (row.scheduled.id, block)));
        }
        for copy in &step.plan.copies {
            let is_written = written.iter().any(|&(_, block)| block == copy.target);
            assert!(is_written, "{copy:?} is made for nobody");
        }
        for swap in &step.plan.swap_in {
            // Not a row's, where a planner has it brought back ahead of need.
            let is_held = |one: &&Sequence| one.table().blocks().contains(&swap.device);
            let owner = sequences.iter().find(is_held);
            let Some(owner) = owner else { panic!("{swap:?} is made for nobody") };
            written.push((owner.id(), swap.device));
        }
        let num_in_flight = self.in_flight.len();
        let is_alone = step.plan.swap_out.is_empty() || num_in_flight == 0;
        assert!(is_alone, "blocks are saved beside {num_in_flight} steps in flight");
        for earlier in self.in_flight.iter().flat_map(|step| &step.rows) {
            for &(id, block) in &written {
                let is_named = earlier.blocks.contains(&block) && earlier.scheduled.id != id;
                assert!(!is_named, "sequence {id} writes block {block} of {earlier:?} in flight");
            }
        }
    }

    fn slot(&self, row: &Row, position: u32) -> usize {
        let size = self.config.block_size;
        let block = row.blocks[(position / size) as usize];
        assert!(block.0 != 0, "the scratch block is in a table");
        block.index() * size as usize + (position % size) as usize
    }

    /// The text of a row up to its end, with the token that was sampled for a placeholder; `None`
    /// when it is garbage.
    fn text(&self, row: &Row) -> Option<Vec<TokenId>> {
        if self.broken.contains(&row.scheduled.id) {
            return None;
        }
        if row.scheduled.token == TokenSource::Known {
            return Some(row.known.clone());
        }
        let end = row.scheduled.positions.end as usize;
        let text = self.texts.get(&row.scheduled.id).cloned().unwrap_or_default();
        assert_eq!(text.len(), end, "no token was sampled for {row:?}");
        assert!(text.starts_with(&row.known), "{text:?} sampled, {row:?}");
        Some(text)
    }

    fn execute(&mut self, step: &Submitted) -> StepOutput {
        self.slots.move_blocks(&step.plan);
        let texts: Vec<_> = step.rows.iter().map(|row| self.text(row)).collect();
        for (row, text) in step.rows.iter().zip(&texts) {
            self.write(row, text.as_deref());
        }
        for (row, text) in step.rows.iter().zip(&texts) {
            if let Some(text) = text {
                self.check_reads(row, text);
            }
        }
        let results = step.rows.iter().zip(texts).map(|(row, text)| self.result(row, text));
        StepOutput { results: results.collect(), device_time: Nanos(1000), ..Default::default() }
    }

    /// Writes the positions of a decoder's row, or garbage.
    fn write(&mut self, row: &Row, text: Option<&[TokenId]>) {
        if !self.is_decoder(row) {
            return;
        }
        let mut hash = START;
        for position in 0..row.scheduled.positions.end {
            hash = text.map_or(hash, |text| extend(hash, text[position as usize]));
            if position >= row.scheduled.positions.start {
                let slot = self.slot(row, position);
                self.slots.device[slot] = text.map(|_| hash);
            }
        }
    }

    fn check_reads(&self, row: &Row, text: &[TokenId]) {
        if !self.is_decoder(row) {
            return;
        }
        let mut hash = START;
        for (position, &token) in (0..).zip(text) {
            hash = extend(hash, token);
            let found = self.slots.device[self.slot(row, position)];
            assert_eq!(found, Some(hash), "{row:?} reads stale position {position}");
        }
    }

    fn result(&mut self, row: &Row, text: Option<Vec<TokenId>>) -> SeqResult {
        let Some(mut text) = text.filter(|_| !row.scheduled.emits || !self.faults.strike()) else {
            self.note(|log| log.num_failed[2] += 1);
            self.write(row, None);
            self.broken.insert(row.scheduled.id);
            return SeqResult::Failed("not finite".into());
        };
        let model = self.config.models[row.scheduled.model.index()];
        if model.kind.is_encoder() {
            return SeqResult::Embedding(FingerprintExecutor::embedding(&text));
        }
        if !row.scheduled.emits {
            return SeqResult::Computed;
        }
        let id = FingerprintExecutor::next_token(&text, row.choice_index, model.vocab_size);
        text.push(id);
        self.texts.insert(row.scheduled.id, text);
        SeqResult::Token(SampledToken { id, logprobs: None })
    }

    fn fail(&mut self, message: &str) -> Error {
        assert!(!self.faults.strike_every_other(), "{message}");
        Error::Device(message.into())
    }
}

impl Executor for LateExecutor {
    fn max_in_flight(&self) -> usize {
        self.max_in_flight
    }

    fn submit(&mut self, plan: &StepPlan, sequences: &mut Sequences) -> Result<()> {
        let num_in_flight = self.in_flight.len();
        assert!(num_in_flight < self.max_in_flight, "{num_in_flight} steps in flight already");
        let is_named =
            |id| self.in_flight.iter().any(|step| step.rows.iter().any(|r| r.scheduled.id == id));
        self.texts.retain(|&id, _| sequences.contains(id) || is_named(id));
        let rows = plan.seqs.iter().map(|scheduled| self.row(scheduled, sequences)).collect();
        let mut step = Submitted { rows, plan: plan.clone(), fate: Fate::Succeeds };
        self.check_writes(&step, sequences);
        if self.faults.strike() {
            self.note(|log| log.num_failed[0] += 1);
            return Err(self.fail("refused"));
        }
        if self.faults.strike() {
            step.fate = Fate::Fails;
        }
        self.in_flight.push_back(step);
        self.note(|log| {
            log.num_in_flight.push(num_in_flight);
            log.plans.push(plan.clone());
        });
        Ok(())
    }

    fn collect(&mut self) -> Result<StepOutput> {
        let Some(step) = self.in_flight.pop_front() else { panic!("collect without submit") };
        if step.fate == Fate::Succeeds {
            return Ok(self.execute(&step));
        }
        self.note(|log| log.num_failed[1] += 1);
        Err(self.fail("lost"))
    }
}
