//! KV blocks in pinned host memory: where the blocks of preempted sequences wait.
//!
//! Copies go on the stream of the steps, one command a block. The order of the stream is all that
//! keeps them right: a block that is saved can be written by the step behind the copy, and a host
//! block that is brought back can be filled again.

use folio_kernels::cuda::{Context, Result as CudaResult};

use super::memory::KvCache;
use super::{CudaDevice, failure};
use crate::types::{BlockSwap, Error, Result};

impl CudaDevice {
    /// Allocates host memory for `num_blocks` KV blocks, after the cache itself.
    pub(crate) fn reserve_host_blocks(&mut self, num_blocks: u32) -> Result<()> {
        let kv = self.memory.as_mut().and_then(|memory| memory.kv.as_mut());
        match kv {
            _ if num_blocks == 0 => Ok(()),
            Some(kv) => {
                let allocated = kv.allocate_host(&self.context, num_blocks as usize);
                allocated.map_err(|error| failure(&error))
            }
            None => Err(Error::Device("host memory for blocks of no KV cache".into())),
        }
    }

    /// Saves the blocks of `out` in host memory, then brings those of `back` back to the device.
    pub(crate) fn swap_blocks(&mut self, out: &[BlockSwap], back: &[BlockSwap]) {
        if self.failure.is_some() || (out.is_empty() && back.is_empty()) {
            return;
        }
        let Some(kv) = self.memory.as_mut().and_then(|memory| memory.kv.as_mut()) else {
            panic!("{} blocks to swap without a KV cache", out.len() + back.len());
        };
        let context = &self.context;
        let saved = out.iter().try_for_each(|&swap| kv.save_block(context, swap));
        let result =
            saved.and_then(|()| back.iter().try_for_each(|&swap| kv.restore_block(context, swap)));
        self.note(result);
    }
}

impl KvCache {
    fn allocate_host(&mut self, context: &Context, num_blocks: usize) -> CudaResult<()> {
        self.host = Some(context.allocate_pinned(self.shape.cache_bytes(num_blocks))?);
        Ok(())
    }

    /// Copies all layers of a block to host memory.
    fn save_block(&mut self, context: &Context, swap: BlockSwap) -> CudaResult<()> {
        let num_bytes = self.shape.block_bytes();
        let start = swap.device.index() * num_bytes;
        let Some(host) = &mut self.host else { panic!("{swap:?} without host blocks") };
        let to = (host, swap.host.index() * num_bytes);
        context.copy_out(&self.memory, start..start + num_bytes, to)
    }

    /// Copies all layers of a block from host memory.
    fn restore_block(&self, context: &Context, swap: BlockSwap) -> CudaResult<()> {
        let num_bytes = self.shape.block_bytes();
        let start = swap.host.index() * num_bytes;
        let Some(host) = &self.host else { panic!("{swap:?} without host blocks") };
        let offset = swap.device.index() * num_bytes;
        context.copy_in(host, start..start + num_bytes, &self.memory, offset)
    }
}
