//! Steps of the decoder: slots, the upload, the forward pass or its graph, the samples.

use folio_kernels::cuda::{Sample, SampleKind, sample};

use super::Outcome;
use super::graphs::{DecodeGraph, DecodeGraphs, captured_rows};
use super::masks::DeviceMasks;
use super::results::Results;
use super::sampling::{Chooser, DeviceSampling, limits};
use super::slots::{Place, SlotTable, Tenancy};
use crate::exec::sampler::{EmittingRows, Sampler};
use crate::exec::scoring::{self, PromptScorer, Scored, ToScore};
use crate::model::Model;
use crate::ops::{
    CudaDevice, Device, Graphs, Ops, Pages, RowTokens, StepUpload, Tensor, UploadRow,
};
use crate::sched::{Sequence, Sequences};
use crate::types::{Result, ScheduledSeq, SeqResult, SequenceId, TokenSource};

/// What the decoder needs beside its weights.
#[derive(Debug)]
pub(super) struct DecoderState {
    vocab_size: usize,
    max_rows: usize,
    slots: SlotTable,
    sampling: DeviceSampling,
    masks: DeviceMasks,
    graphs: DecodeGraphs,
    host: Sampler,
    scorer: PromptScorer,
    ids: Vec<SequenceId>,
    places: Vec<Place>,
    /// What the latest step sampled on the device: rows, and the most that one of them needs.
    sampled: Option<(usize, SampleKind)>,
}

impl DecoderState {
    /// State for steps of up to `max_rows` sequences.
    pub(super) fn new(device: &CudaDevice, max_rows: usize, vocab_size: usize) -> Result<Self> {
        let limits = limits(max_rows + 1, max_rows, vocab_size);
        Ok(Self {
            vocab_size,
            max_rows,
            slots: SlotTable::new(max_rows as u32),
            sampling: DeviceSampling::new(device.context(), limits)?,
            masks: DeviceMasks::new(device.context(), limits)?,
            graphs: DecodeGraphs::default(),
            host: Sampler::new(),
            scorer: PromptScorer::default(),
            ids: Vec::new(),
            places: Vec::new(),
            sampled: None,
        })
    }

    /// Bytes of the results of a step.
    pub(super) fn results_bytes(&self) -> usize {
        self.sampling.state().results().num_bytes()
    }

    /// Runs decode steps of padding, so that what is allocated at first use is allocated, and
    /// captures them.
    pub(super) fn capture(
        &mut self,
        device: &mut CudaDevice,
        model: &dyn Model,
        graphs: Graphs,
    ) -> Result<()> {
        for num_rows in captured_rows(self.max_rows) {
            device.stage(|upload| self.pad(upload, num_rows));
            device.start_step(Pages::Cached);
            let forward = |device: &mut CudaDevice| {
                let hidden = model.forward(device);
                model.logits(device, hidden)
            };
            let mut logits = forward(device);
            if graphs == Graphs::Captured {
                let graph = device.capture(|device| {
                    device.start_step(Pages::Cached);
                    logits = forward(device);
                })?;
                self.graphs.push(DecodeGraph { num_rows, graph, logits });
            }
            device.check()?;
        }
        Ok(())
    }

    /// Graphs that were captured.
    pub(super) fn num_graphs(&self) -> usize {
        self.graphs.len()
    }

    /// Computes the rows of a step, given with their places in the plan, samples those that emit,
    /// and scores the prompts among them for which that is wanted, which waits for the device.
    pub(super) fn step(
        &mut self,
        (device, model): (&mut CudaDevice, &dyn Model),
        rows: &[(usize, &ScheduledSeq)],
        sequences: &mut Sequences,
        outcomes: &mut [Outcome],
    ) -> Result<Scored> {
        self.place(device, rows, sequences);
        let is_decode = |(_, seq): &(usize, &ScheduledSeq)| seq.emits && seq.positions.len() == 1;
        let graph =
            if rows.iter().all(is_decode) { self.graphs.with_room_for(rows.len()) } else { None };
        let num_rows = graph.map_or(rows.len(), |graph| graph.num_rows);
        let to_score = scoring::to_score(rows.iter().copied(), sequences);
        device.stage(|upload| {
            self.pack(upload, rows, sequences);
            self.pad(upload, num_rows - rows.len());
            push_to_score(upload, rows, &to_score);
        });
        if let Some(graph) = graph {
            assert!(to_score.is_empty(), "a decode step scores a prompt");
            device.replay(graph.graph);
            self.sample((device, graph.logits), rows, sequences, outcomes)?;
            return Ok(Scored::default());
        }
        device.start_step(Pages::Cached);
        let hidden = model.forward(device);
        let num_scored = to_score.iter().map(|one| one.positions.len()).sum::<usize>();
        let (num_outputs, mark) = (hidden.rows(), device.arena().mark());
        let logits = model.logits(device, hidden.first_rows(num_outputs - num_scored));
        self.sample((device, logits), rows, sequences, outcomes)?;
        // What was sampled from is read in the order of the stream, before it is overwritten.
        device.arena().rewind(mark);
        let hidden = hidden.rows_in(num_outputs - num_scored..num_outputs);
        self.scorer.score((device, model), hidden, &to_score, sequences)
    }

    /// Has the samples of the latest step copied out.
    pub(super) fn fetch(&mut self, device: &mut CudaDevice, results: &mut Results) {
        let Some((num_rows, kind)) = self.sampled.take() else { return };
        let state = self.sampling.state();
        let num_bytes = state.results_bytes(num_rows, kind);
        let to = results.samples_mut();
        device.launch(|context| context.copy_out(state.results(), 0..num_bytes, (to, 0)));
    }

    /// What became of emitting row `row`.
    pub(super) fn read(&self, samples: &[u8], row: usize) -> SeqResult {
        self.sampling.read(samples, row)
    }

    /// Gives every row a slot, and new tenants of slots their parameters.
    fn place(
        &mut self,
        device: &mut CudaDevice,
        rows: &[(usize, &ScheduledSeq)],
        sequences: &Sequences,
    ) {
        self.ids.clear();
        self.ids.extend(rows.iter().map(|(_, seq)| seq.id));
        self.slots.place(&self.ids, &mut self.places);
        for (place, (_, seq)) in self.places.iter().zip(rows) {
            if place.tenancy == Tenancy::New {
                assert_eq!(seq.token, TokenSource::Known, "the token of {seq:?} was lost");
                self.sampling.assign(device, place.slot, sequences.get(seq.id));
            }
        }
        self.sampling.upload(device);
    }

    fn pack(
        &mut self,
        upload: &mut StepUpload<'_>,
        rows: &[(usize, &ScheduledSeq)],
        sequences: &Sequences,
    ) {
        let mut end = 0;
        for (row, ((_, seq), place)) in rows.iter().zip(&self.places).enumerate() {
            let sequence = sequences.get(seq.id);
            let positions = seq.positions.start as usize..seq.positions.end as usize;
            end += positions.len() as u32;
            let tokens = match seq.token {
                TokenSource::Known => RowTokens::Given(&sequence.tokens()[positions]),
                TokenSource::Placeholder => RowTokens::Latest,
            };
            let (first_new_block, blocks) =
                self.slots.update_blocks(place.slot, sequence.table().blocks());
            let start = seq.positions.start;
            let upload_row = UploadRow { slot: place.slot, start, tokens, first_new_block };
            upload.push(upload_row, blocks.iter().map(|block| block.0));
            if seq.emits {
                let is_host = self.sampling.chooser(place.slot) == Chooser::Host;
                upload.push_output(end - 1, if is_host { None } else { Some(row as u32) });
            }
        }
    }

    /// Adds rows of a slot that nobody has, which emit and are not sampled.
    fn pad(&self, upload: &mut StepUpload<'_>, num_rows: usize) {
        for _ in 0..num_rows {
            let token = upload.num_tokens() as u32;
            let (slot, tokens) = (self.max_rows as u32, RowTokens::Given(&[0]));
            let row = UploadRow { slot, start: 0, tokens, first_new_block: 0 };
            upload.push(row, std::iter::empty());
            upload.push_output(token, None);
        }
    }

    /// Samples the rows that emit, `logits` having at least as many, in their order.
    fn sample(
        &mut self,
        (device, logits): (&mut CudaDevice, Tensor),
        rows: &[(usize, &ScheduledSeq)],
        sequences: &mut Sequences,
        outcomes: &mut [Outcome],
    ) -> Result<()> {
        let emitting = rows.iter().zip(&self.places).filter(|((_, seq), _)| seq.emits);
        let mut kind: Option<SampleKind> = None;
        let mut on_host = Vec::new();
        let mut num_emitting = 0;
        for (row, (&(index, seq), place)) in emitting.enumerate() {
            num_emitting += 1;
            match self.sampling.chooser(place.slot) {
                Chooser::Device(needed) => {
                    kind = kind.max(Some(needed));
                    let sequence = sequences.get_mut(seq.id);
                    outcomes[index] = match mask_row(&mut self.masks, device, row, sequence) {
                        Ok(()) => Outcome::Sampled { row },
                        Err(message) => Outcome::Decided(SeqResult::Failed(message)),
                    };
                }
                Chooser::Host => on_host.push((row, index, seq.id, place.slot)),
            }
        }
        let logits = logits.first_rows(num_emitting);
        if let Some(kind) = kind {
            self.sample_on_device(device, logits, kind);
        }
        for (row, index, id, slot) in on_host {
            let row = device.read(logits.row(row))?;
            let mut results = Vec::with_capacity(1);
            let emitting = EmittingRows { logits: row, vocab_size: self.vocab_size, ids: &[id] };
            self.host.sample(emitting, sequences, &mut results);
            for result in results {
                if let SeqResult::Token(token) = &result {
                    device.set_last_token(slot, token.id);
                }
                outcomes[index] = Outcome::Decided(result);
            }
        }
        Ok(())
    }

    fn sample_on_device(&mut self, device: &mut CudaDevice, logits: Tensor, kind: SampleKind) {
        let arrays = device.step_arrays();
        let args = Sample {
            logits: device.view(logits),
            rows: device.emitting_rows(),
            row_slots: arrays.row_slots,
            seq_lens: arrays.seq_lens,
            masks: self.masks.upload(device),
            last_tokens: device.last_tokens(),
            kind,
        };
        let state = self.sampling.state();
        device.launch(|context| sample(context, state, args));
        self.sampled = Some((logits.rows(), kind));
    }
}

/// Wants the outputs of the positions of `to_score`, behind those of the rows that emit.
fn push_to_score(
    upload: &mut StepUpload<'_>,
    rows: &[(usize, &ScheduledSeq)],
    to_score: &[ToScore],
) {
    if to_score.is_empty() {
        return;
    }
    let mut tokens = Vec::new();
    let mut first_token = 0;
    for (index, seq) in rows {
        let of_row = to_score.iter().filter(|one| one.index == *index);
        for one in of_row {
            let offsets = one.positions.clone().map(|position| position - seq.positions.start);
            tokens.extend(offsets.map(|offset| first_token + offset));
        }
        first_token += seq.positions.len() as u32;
    }
    upload.push_more_outputs(tokens.into_iter());
}

/// Gives the row of a sequence with a grammar its mask. Says why there is none.
fn mask_row(
    masks: &mut DeviceMasks,
    device: &mut CudaDevice,
    row: usize,
    sequence: &mut Sequence,
) -> std::result::Result<(), String> {
    let Some(mask) = sequence.mask() else { return Ok(()) };
    let mask = mask?;
    if masks.push(device, row, mask) {
        return Ok(());
    }
    Err(format!("the mask of the grammar has only {} words", mask.len()))
}
