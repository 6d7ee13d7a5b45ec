//! Loading, steps, and the way back to the host.

use half::{bf16, f16};

use super::memory::{Pages, StepMemory};
use super::upload::{RowTokens, StepUpload, UploadRow};
use super::{CudaDevice, failure};
use crate::ops::{
    Arena, Batch, Device, Dtype, HostTensor, KvShape, MadeUp, Reserve, Tensor, Weight,
};
use crate::types::{BlockCopy, ConfigError, Result};

impl Device for CudaDevice {
    fn load_matrices(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>> {
        self.weights.load(&self.context, &parts)
    }

    fn load_biases(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>> {
        self.weights.load(&self.context, &parts)
    }

    fn load_vector(&mut self, numbers: Vec<f32>) -> Result<Weight> {
        self.weights.load_vector(&self.context, &numbers)
    }

    fn make_up(&mut self, rows: &[usize], cols: usize, numbers: MadeUp) -> Result<Vec<Weight>> {
        self.weights.make_up(&self.context, rows, cols, numbers)
    }

    fn reserve(&mut self, reserve: Reserve) -> Result<()> {
        if let Some(kv) = reserve.kv {
            check_blocks(kv)?;
        }
        let memory = StepMemory::allocate(&self.context, reserve);
        self.memory = Some(memory.map_err(|error| failure(&error))?);
        self.arena = Arena::new(reserve.arena_bytes, self.options.layout());
        Ok(())
    }

    fn begin(&mut self, batch: &Batch) {
        let is_cached = !batch.slot_mapping.is_empty();
        let pages = if is_cached { Pages::Cached } else { Pages::None };
        self.begin_step(pages, |upload| pack(upload, batch));
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        if copies.is_empty() || self.failure.is_some() {
            return;
        }
        let Some(kv) = &self.memory().kv else {
            panic!("{} block copies without a KV cache", copies.len());
        };
        let mut copies = copies.iter();
        let result =
            copies.try_for_each(|copy| kv.copy_block(&self.context, copy.source.0, copy.target.0));
        self.note(result);
    }

    fn read(&mut self, tensor: Tensor) -> Result<&mut [f32]> {
        self.check()?;
        let width = tensor.dtype().num_bytes();
        let num_numbers = match tensor.rows() {
            0 => 0,
            rows => (rows - 1) * tensor.stride() + tensor.cols(),
        };
        let mut bytes = vec![0; num_numbers * width];
        let result = self.context.read(&self.memory().arena, tensor.offset(), &mut bytes);
        self.note(result);
        self.check()?;
        self.mirror.clear();
        for row in bytes.chunks(tensor.stride().max(1) * width) {
            let row = &row[..tensor.cols() * width];
            match tensor.dtype() {
                Dtype::F32 => widen(row, f32::from_ne_bytes, &mut self.mirror),
                Dtype::Bf16 => widen(row, |x| bf16::from_ne_bytes(x).to_f32(), &mut self.mirror),
                Dtype::F16 => widen(row, |x| f16::from_ne_bytes(x).to_f32(), &mut self.mirror),
            }
        }
        Ok(&mut self.mirror)
    }

    fn check(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |error| Err(failure(error)))
    }
}

/// Block sizes that kernels can compute with.
fn check_blocks(kv: KvShape) -> Result<()> {
    if kv.block_size.is_power_of_two() && kv.block_size >= 16 {
        return Ok(());
    }
    Err(ConfigError {
        field: "block_size",
        value: kv.block_size.to_string(),
        limit: "must be a power of two of at least 16 on CUDA".into(),
    }
    .into())
}

/// Packs a batch in which row i has slot i and brings all of its blocks.
fn pack(upload: &mut StepUpload<'_>, batch: &Batch) {
    for row in 0..batch.num_seqs() {
        let (first, end) = (batch.cu_seqlens_q[row], batch.cu_seqlens_q[row + 1]);
        let tokens = &batch.token_ids[first as usize..end as usize];
        let row_of = UploadRow {
            slot: row as u32,
            start: batch.num_computed[row],
            tokens: RowTokens::Given(tokens),
            first_new_block: 0,
        };
        let blocks = &batch.block_tables[row * batch.max_blocks..][..batch.max_blocks];
        upload.push(row_of, blocks.iter().copied());
    }
    upload.push_more_outputs(batch.output_rows.iter().copied());
}

fn widen<const N: usize>(bytes: &[u8], parse: impl Fn([u8; N]) -> f32, into: &mut Vec<f32>) {
    let (numbers, _) = bytes.as_chunks::<N>();
    into.extend(numbers.iter().map(|number| parse(*number)));
}
