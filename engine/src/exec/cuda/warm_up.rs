//! What runs once after loading, so that nothing has to be allocated, looked up or measured while
//! serving: every model, the decode steps that are captured, prompts of all lengths.

use super::CudaRunner;
use super::decoder::DecoderState;
use crate::exec::runner::Role;
use crate::ops::{
    CudaDevice, CudaOptions, Determinism, Graphs, Pages, Reserve, RowTokens, StepUpload, UploadRow,
};
use crate::types::{Clock, Nanos, Result};

/// The shortest prompt for which the library of matrix products is asked about.
const MIN_PROMPT: usize = 64;
/// The decode step by which the price of determinism is told: sequences, and their tokens.
const PRICED_ROWS: usize = 32;
const PRICED_TOKENS: usize = 1024;
const NUM_TIMED: u32 = 5;

impl CudaRunner {
    /// Runs everything once, captures, and measures.
    pub(super) fn warm_up(&mut self, options: CudaOptions, reserve: Reserve) -> Result<()> {
        let start = self.clock.now();
        for loaded in &self.models {
            if let (Role::Decoder { .. }, Some(decoder)) = (loaded.role, &mut self.decoder) {
                decoder.capture(&mut self.device, loaded.model.as_ref(), options.graphs)?;
            }
        }
        self.run_prompts(reserve);
        self.device.synchronize()?;
        let seconds = self.clock.now().since(start).as_secs_f64();
        let captured = self.decoder.as_ref().filter(|_| options.graphs == Graphs::Captured);
        if let Some(num_graphs) = captured.map(DecoderState::num_graphs) {
            self.notes.push(format!("{num_graphs} decode graphs captured in {seconds:.1} s"));
        }
        if options.determinism == Determinism::Fixed && self.decoder.is_some() {
            let note = self.price_of_determinism(reserve)?;
            self.notes.push(note);
        }
        Ok(())
    }

    /// Runs prompts: one token, and where a library has to be asked how best to multiply, every
    /// power of two of them.
    fn run_prompts(&mut self, reserve: Reserve) {
        let has_library = self.device.context().driver().matmul_library().is_ok();
        let lengths = std::iter::successors(Some(MIN_PROMPT), |len| Some(2 * len))
            .take_while(|_| has_library)
            .take_while(|&len| len < reserve.max_num_tokens)
            // Lengths above the last power of two are measured as the next one.
            .chain(has_library.then_some(reserve.max_num_tokens));
        for num_tokens in std::iter::once(1).chain(lengths) {
            for loaded in &self.models {
                let (pages, slot) = match loaded.role {
                    Role::Decoder { .. } => (Pages::Cached, reserve.max_num_seqs as u32),
                    Role::Encoder { .. } => (Pages::None, 0),
                };
                self.device.begin_step(pages, |upload| {
                    push_prompts(upload, slot, num_tokens, reserve);
                });
                let hidden = loaded.model.forward(&mut self.device);
                loaded.model.logits(&mut self.device, hidden);
            }
        }
    }

    /// What a decode step costs in this mode and in the other.
    fn price_of_determinism(&mut self, reserve: Reserve) -> Result<String> {
        let num_rows = PRICED_ROWS.min(reserve.max_num_seqs);
        let num_tokens = PRICED_TOKENS.min(reserve.max_model_len);
        let fixed = self.time_decode(num_rows, num_tokens, reserve)?;
        self.device.set_determinism(Determinism::Fast);
        let fast = self.time_decode(num_rows, num_tokens, reserve);
        self.device.set_determinism(Determinism::Fixed);
        let (fixed, fast) = (fixed.as_secs_f64() * 1e3, fast?.as_secs_f64() * 1e3);
        Ok(format!(
            "deterministic: a decode step of {num_rows} sequences of {num_tokens} tokens takes \
             {fixed:.2} ms, {:.2} times the {fast:.2} ms without",
            fixed / fast
        ))
    }

    /// The shortest of a few decode steps over the scratch block.
    fn time_decode(
        &mut self,
        num_rows: usize,
        num_tokens: usize,
        reserve: Reserve,
    ) -> Result<Nanos> {
        let Some(loaded) =
            self.models.iter().find(|loaded| matches!(loaded.role, Role::Decoder { .. }))
        else {
            return Ok(Nanos::default());
        };
        let mut shortest: Option<Nanos> = None;
        for _ in 0..NUM_TIMED {
            let device: &mut CudaDevice = &mut self.device;
            device.synchronize()?;
            let start = self.clock.now();
            device.begin_step(Pages::Cached, |upload| {
                for row in 0..num_rows {
                    let (slot, start) = (reserve.max_num_seqs as u32, num_tokens as u32 - 1);
                    let tokens = RowTokens::Given(&[0]);
                    let row_of = UploadRow { slot, start, tokens, first_new_block: 0 };
                    upload.push(row_of, std::iter::empty());
                    upload.push_output(row as u32, None);
                }
            });
            let hidden = loaded.model.forward(device);
            loaded.model.logits(device, hidden);
            device.synchronize()?;
            let time = self.clock.now().since(start);
            shortest = Some(shortest.map_or(time, |shortest| shortest.min(time)));
        }
        Ok(shortest.unwrap_or_default())
    }
}

/// Rows of up to the longest sequence that together have `num_tokens`, or as many as rows hold.
fn push_prompts(upload: &mut StepUpload<'_>, slot: u32, num_tokens: usize, reserve: Reserve) {
    let longest = vec![0; num_tokens.min(reserve.max_model_len)];
    for _ in 0..reserve.max_num_seqs {
        let num_left = num_tokens - upload.num_tokens();
        if num_left == 0 {
            return;
        }
        let tokens = RowTokens::Given(&longest[..num_left.min(longest.len())]);
        let row = UploadRow { slot, start: 0, tokens, first_new_block: 0 };
        upload.push(row, std::iter::empty());
    }
}
