//! The integers of a step: which tokens at which positions of which sequences.

use crate::types::TokenId;

/// One model's share of a step, flat: tokens of all its sequences one after the other.
///
/// Buffers are reused from step to step. Built by `exec`, read by the device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Tokens to compute, `[T]`.
    pub token_ids: Vec<TokenId>,
    /// Position of each token in its sequence, `[T]`.
    pub positions: Vec<u32>,
    /// KV slot of each token, block * P + offset, `[T]`. Empty for an encoder.
    pub slot_mapping: Vec<u32>,
    /// Where each sequence's tokens start, and the end: `[S + 1]`.
    pub cu_seqlens_q: Vec<u32>,
    /// Position of each sequence's first token in the step, `[S]`: the tokens before it are in the
    /// KV cache already.
    pub num_computed: Vec<u32>,
    /// KV blocks of each sequence in position order, `[S, max_blocks]`, padded with the scratch
    /// block 0. Empty for an encoder.
    pub block_tables: Vec<u32>,
    /// Width of `block_tables`.
    pub max_blocks: usize,
    /// Tokens whose outputs are wanted, as indices below T: `[E]`.
    pub output_rows: Vec<u32>,
}

impl Batch {
    /// Number of tokens, T.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Number of sequences, S.
    #[must_use]
    pub fn num_seqs(&self) -> usize {
        self.num_computed.len()
    }

    /// Number of rows whose outputs are wanted, E.
    #[must_use]
    pub fn num_outputs(&self) -> usize {
        self.output_rows.len()
    }
}

impl Clone for Batch {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.clone_from(self);
        copy
    }

    /// Keeps the buffers, so that a step allocates nothing.
    fn clone_from(&mut self, source: &Self) {
        self.token_ids.clone_from(&source.token_ids);
        self.positions.clone_from(&source.positions);
        self.slot_mapping.clone_from(&source.slot_mapping);
        self.cu_seqlens_q.clone_from(&source.cu_seqlens_q);
        self.num_computed.clone_from(&source.num_computed);
        self.block_tables.clone_from(&source.block_tables);
        self.max_blocks = source.max_blocks;
        self.output_rows.clone_from(&source.output_rows);
    }
}
