//! Operands of the attention benchmarks: random keys and values in blocks that interleave.

use folio_kernels::cpu::{EncoderAttention, KvCacheRef, KvLayout, PagedAttention};

use crate::values;

/// Query heads N of every case.
pub const NUM_HEADS: usize = 16;
/// Key/value heads K of the paged cases.
pub const NUM_KV_HEADS: usize = 8;
/// Block size P of the paged cases.
pub const BLOCK_SIZE: usize = 16;

/// Ranges of queries at the ends of sequences of one length.
#[derive(Debug)]
pub struct PagedCase {
    /// Number of sequences S.
    pub num_sequences: usize,
    /// Queries of each sequence.
    pub num_queries: usize,
    /// Positions of each sequence, the queries included.
    pub context: usize,
    /// Shape of the cache.
    pub layout: KvLayout,
    keys: Vec<f32>,
    cached: Vec<f32>,
    q: Vec<f32>,
    block_tables: Vec<u32>,
    cu_seqlens: Vec<u32>,
    num_computed: Vec<u32>,
}

impl PagedCase {
    /// `num_sequences` ranges of `num_queries` each, at the end of `context` positions.
    pub fn new(num_sequences: usize, num_queries: usize, context: usize, head_size: usize) -> Self {
        let per_sequence = context.div_ceil(BLOCK_SIZE);
        let num_blocks = num_sequences * per_sequence;
        let layout =
            KvLayout { num_blocks, num_kv_heads: NUM_KV_HEADS, block_size: BLOCK_SIZE, head_size };
        // Blocks of the sequences interleave, as they do after some time of serving.
        let block = |i: usize| i % per_sequence * num_sequences + i / per_sequence;
        Self {
            num_sequences,
            num_queries,
            context,
            layout,
            keys: values(layout.num_elements(), 1),
            cached: values(layout.num_elements(), 2),
            q: values(num_sequences * num_queries * NUM_HEADS * head_size, 3),
            block_tables: (0..num_blocks).map(|i| block(i) as u32).collect(),
            cu_seqlens: (0..=num_sequences).map(|i| (i * num_queries) as u32).collect(),
            num_computed: vec![(context - num_queries) as u32; num_sequences],
        }
    }

    /// The operands.
    pub fn args(&self) -> PagedAttention<'_> {
        PagedAttention {
            q: &self.q,
            num_heads: NUM_HEADS,
            scale: 1.0 / (self.layout.head_size as f32).sqrt(),
            window: None,
            cache: KvCacheRef::new(self.layout, &self.keys, &self.cached),
            cu_seqlens: &self.cu_seqlens,
            num_computed: &self.num_computed,
            block_tables: &self.block_tables,
            max_num_blocks: self.context.div_ceil(BLOCK_SIZE),
        }
    }

    /// Zeros of the output's length.
    pub fn out(&self) -> Vec<f32> {
        vec![0.0; self.q.len()]
    }

    /// Floating-point operations: two products of each visible pair, two operations per element.
    pub fn num_operations(&self) -> usize {
        let pairs: usize = (0..self.num_queries).map(|i| self.context - i).sum();
        4 * self.num_sequences * pairs * NUM_HEADS * self.layout.head_size
    }

    /// Bytes of keys and values, each read once.
    pub fn num_bytes(&self) -> usize {
        8 * self.layout.num_elements()
    }

    /// A short name.
    pub fn name(&self) -> String {
        let Self { num_sequences, num_queries, context, layout, .. } = self;
        format!("S{num_sequences} Q{num_queries} C{context} D{}", layout.head_size)
    }
}

/// Whole sequences of one length.
#[derive(Debug)]
pub struct EncoderCase {
    num_sequences: usize,
    length: usize,
    head_size: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    cu_seqlens: Vec<u32>,
}

impl EncoderCase {
    /// `num_sequences` sequences of `length` tokens, as many key/value heads as query heads.
    pub fn new(num_sequences: usize, length: usize, head_size: usize) -> Self {
        let make = |seed| values(num_sequences * length * NUM_HEADS * head_size, seed);
        Self {
            num_sequences,
            length,
            head_size,
            q: make(1),
            k: make(2),
            v: make(3),
            cu_seqlens: (0..=num_sequences).map(|i| (i * length) as u32).collect(),
        }
    }

    /// The operands.
    pub fn args(&self) -> EncoderAttention<'_> {
        EncoderAttention {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            num_heads: NUM_HEADS,
            num_kv_heads: NUM_HEADS,
            head_size: self.head_size,
            scale: 1.0 / (self.head_size as f32).sqrt(),
            cu_seqlens: &self.cu_seqlens,
        }
    }

    /// Zeros of the output's length.
    pub fn out(&self) -> Vec<f32> {
        vec![0.0; self.q.len()]
    }

    /// Floating-point operations, as for [`PagedCase::num_operations`].
    pub fn num_operations(&self) -> usize {
        4 * self.num_sequences * self.length * self.length * NUM_HEADS * self.head_size
    }

    /// A short name.
    pub fn name(&self) -> String {
        format!("S{} L{} D{}", self.num_sequences, self.length, self.head_size)
    }
}
