//! A dry run: the arena of a step without its arithmetic.
//!
//! A model's forward pass over it tells how many bytes the largest step needs on a device, so that
//! the plan of memory and its use cannot diverge.

use super::{
    Activation, ActivationLayout, Arena, Dtype, HeadPreparation, Heads, Linear, Lookup, Norm, Ops,
    PagedAttention, Residual, Tensor,
};

/// Operations that allocate their results and compute nothing.
#[derive(Debug)]
pub struct DryOps {
    arena: Arena,
    num_tokens: usize,
    num_outputs: usize,
}

impl DryOps {
    /// A step of `num_tokens` tokens of which `num_outputs` emit, on a device with this layout.
    #[must_use]
    pub fn new(num_tokens: usize, num_outputs: usize, layout: ActivationLayout) -> Self {
        Self { arena: Arena::unbounded(layout), num_tokens, num_outputs }
    }

    /// Most bytes that were in use at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.arena.peak()
    }

    /// Room for an operation that a device has to do in two parts.
    fn aside(&mut self, like: Tensor) {
        let mark = self.arena.mark();
        self.arena.alloc(like.rows(), like.cols());
        self.arena.rewind(mark);
    }
}

impl Ops for DryOps {
    fn arena(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn embed(&mut self, lookups: &[Lookup]) -> Tensor {
        let sum = self.arena.alloc(self.num_tokens, lookups[0].table.cols);
        if lookups.len() > 1 {
            self.aside(sum);
        }
        sum
    }

    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor {
        let output = self.arena.alloc(input.rows(), linear.weight.rows);
        if linear.activation.is_some() {
            self.aside(output);
        }
        output
    }

    fn linears(&mut self, input: Tensor, linears: &[Linear], outputs: &mut [Tensor]) {
        let widths = linears.iter().map(|linear| linear.weight.rows);
        self.arena.alloc_stack(input.rows(), widths, outputs);
    }

    fn logits(&mut self, input: Tensor, linear: Linear) -> Tensor {
        self.arena.alloc_as(Dtype::F32, input.rows(), linear.weight.rows)
    }

    fn norm(&mut self, input: Tensor, _norm: Norm) -> Tensor {
        self.arena.alloc(input.rows(), input.cols())
    }

    fn add_norm(&mut self, _delta: Tensor, _residual: Residual, _norm: Norm) {}

    fn prepare_heads(&mut self, _qkv: [Tensor; 3], _preparation: HeadPreparation) {}

    fn activate_mul(&mut self, gate: Tensor, _up: Tensor, _activation: Activation) -> Tensor {
        self.arena.alloc(gate.rows(), gate.cols())
    }

    fn paged_attention(&mut self, queries: Tensor, _attention: PagedAttention) -> Tensor {
        self.arena.alloc(queries.rows(), queries.cols())
    }

    fn attention(&mut self, qkv: [Tensor; 3], _heads: Heads) -> Tensor {
        self.arena.alloc(qkv[0].rows(), qkv[0].cols())
    }

    fn gather_outputs(&mut self, input: Tensor) -> Tensor {
        self.arena.alloc(self.num_outputs, input.cols())
    }
}
