//! Attention over a paged cache with shuffled blocks: rows of one token, and whole prompts.

use anyhow::Result;
use folio_kernels::cuda::{
    AttentionHeads, AttentionLimits, AttentionPlan, AttentionStep, BlockTables, DeviceBuffer,
    KvCacheShape, PagedAttention, PrepareAttention, RowKinds, Splits, paged_attention,
};

use super::{Bench, ELEMENT};

const BLOCK_SIZE: usize = 16;

/// Heads of Llama-3.1-8B and of Qwen3-0.6B.
const HEADS: [(&str, AttentionHeads); 2] = [
    ("8B", AttentionHeads { num_heads: 32, num_kv_heads: 8, head_size: 128 }),
    ("0.6B", AttentionHeads { num_heads: 16, num_kv_heads: 8, head_size: 128 }),
];

/// A step of equal rows, on the device.
struct Step {
    heads: AttentionHeads,
    sizes: AttentionStep,
    plan: AttentionPlan,
    cu_seqlens: DeviceBuffer,
    seq_lens: DeviceBuffer,
    row_slots: DeviceBuffer,
    tables: DeviceBuffer,
    max_blocks: usize,
    cache: DeviceBuffer,
    queries: DeviceBuffer,
    output: DeviceBuffer,
}

impl Bench<'_> {
    pub(super) fn decode_attention(&mut self) -> Result<()> {
        let sizes = self.pick(
            vec![(1, 1024), (1, 16384), (8, 8192), (32, 1024), (64, 1024), (64, 4096), (256, 1024)],
            vec![(3, 70)],
        );
        for (name, heads) in HEADS {
            for &(num_rows, seq_len) in &sizes {
                let step = self.attention_step(heads, [num_rows, 1, seq_len], Splits::Balanced)?;
                let micros = self.time_attention(&step)?;
                let kv_bytes = num_rows * seq_len * 2 * heads.num_kv_heads * heads.head_size * 2;
                let shape = format!("{name} {num_rows} x {seq_len} keys");
                self.report("attention_decode", shape, micros, (kv_bytes as f64, 0.0));
            }
        }
        Ok(())
    }

    pub(super) fn prefill_attention(&mut self) -> Result<()> {
        let sizes = self.pick(vec![(1, 2048), (4, 2048), (1, 8192), (16, 512)], vec![(2, 40)]);
        for (name, heads) in HEADS {
            for &(num_rows, len) in &sizes {
                let step = self.attention_step(heads, [num_rows, len, len], Splits::Balanced)?;
                let micros = self.time_attention(&step)?;
                // Queries and keys, then weights and values; half of it is masked.
                let pairs = num_rows * len * (len + 1) / 2;
                let flops = 4 * pairs * heads.num_heads * heads.head_size;
                let shape = format!("{name} {num_rows} x {len} tokens");
                self.report("attention_prefill", shape, micros, (0.0, flops as f64));
            }
        }
        Ok(())
    }

    fn time_attention(&self, step: &Step) -> Result<f64> {
        let kv = KvCacheShape {
            num_layers: 1,
            num_kv_heads: step.heads.num_kv_heads,
            block_size: BLOCK_SIZE,
            head_size: step.heads.head_size,
        };
        let (num_rows, num_tokens) = (step.sizes.num_rows, step.sizes.num_tokens);
        let size = [num_tokens, step.heads.num_heads * step.heads.head_size];
        let args = PagedAttention {
            queries: step.queries.view(0, size, 2),
            output: step.output.view(0, size, 2),
            element: ELEMENT,
            kv: kv.layer(step.cache.ptr(), 0),
            block_tables: BlockTables {
                blocks: step.tables.view(0, [num_rows, step.max_blocks], 4),
                block_size: BLOCK_SIZE,
            },
            scale: 1.0 / (step.heads.head_size as f32).sqrt(),
            window: None,
            soft_cap: None,
            sinks: None,
            step: step.sizes,
        };
        let prepare = PrepareAttention {
            cu_seqlens: step.cu_seqlens.ptr(),
            seq_lens: Some(step.seq_lens.ptr()),
            row_slots: Some(step.row_slots.ptr()),
            step: step.sizes,
        };
        step.plan.prepare(self.context, &prepare)?;
        self.micros(|context, _| Ok(paged_attention(context, &step.plan, &args)?))
    }

    /// `num_rows` rows of `num_new` tokens whose sequences are then `seq_len` long.
    fn attention_step(
        &self,
        heads: AttentionHeads,
        [num_rows, num_new, seq_len]: [usize; 3],
        splits: Splits,
    ) -> Result<Step> {
        let num_tokens = num_rows * num_new;
        let max_blocks = seq_len.div_ceil(BLOCK_SIZE);
        let num_blocks = num_rows * max_blocks;
        // A stride that shares no factor with the number of blocks visits each once.
        let stride = (7919..9000).find(|stride| gcd(*stride, num_blocks) == 1).unwrap_or(1);
        let tables = (0..num_blocks).map(|i| (i * stride % num_blocks) as i32).collect::<Vec<_>>();
        let limits = AttentionLimits {
            heads,
            windows: vec![None],
            max_rows: num_rows,
            max_tokens: num_tokens,
        };
        let kinds = if num_new == 1 { RowKinds::DecodeOnly } else { RowKinds::PrefillOnly };
        let width = heads.num_heads * heads.head_size;
        let block_width = 2 * heads.num_kv_heads * BLOCK_SIZE * heads.head_size;
        let ramp =
            |step: usize, len: usize| -> Vec<i32> { (0..len).map(|i| (i * step) as i32).collect() };
        Ok(Step {
            heads,
            sizes: AttentionStep { num_rows, num_tokens, kinds, splits },
            plan: AttentionPlan::new(self.context, limits)?,
            cu_seqlens: self.upload_words(&ramp(num_new, num_rows + 1))?,
            seq_lens: self.upload_words(&vec![seq_len as i32; num_rows])?,
            row_slots: self.upload_words(&ramp(1, num_rows))?,
            tables: self.upload_words(&tables)?,
            max_blocks,
            cache: self.random([num_blocks, block_width], 3)?,
            queries: self.random([num_tokens, width], 4)?,
            output: self.random([num_tokens, width], 5)?,
        })
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
