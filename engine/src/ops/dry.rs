//! A dry run: the arena of a step without its arithmetic.
//!
//! A model's forward pass over it tells how many floats the largest step needs, so that the plan of
//! memory and its use cannot diverge.

use super::{Activation, Arena, Heads, Linear, Lookup, Norm, Ops, PagedAttention, Rope, Tensor};

/// Operations that allocate their results and compute nothing.
#[derive(Debug)]
pub struct DryOps {
    arena: Arena,
    num_tokens: usize,
    num_outputs: usize,
}

impl DryOps {
    /// A step of `num_tokens` tokens of which `num_outputs` emit.
    #[must_use]
    pub fn new(num_tokens: usize, num_outputs: usize) -> Self {
        Self { arena: Arena::unbounded(), num_tokens, num_outputs }
    }

    /// Most floats that were in use at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.arena.peak()
    }

    /// Room for an operation that a device has to do in two parts.
    fn aside(&mut self, rows: usize, cols: usize) {
        let mark = self.arena.mark();
        self.arena.alloc(rows, cols);
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
            self.aside(sum.rows(), sum.cols());
        }
        sum
    }

    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor {
        self.arena.alloc(input.rows(), linear.weight.rows)
    }

    fn linear_add(&mut self, input: Tensor, linear: Linear, _onto: Tensor) {
        self.aside(input.rows(), linear.weight.rows);
    }

    fn norm(&mut self, input: Tensor, _norm: Norm) -> Tensor {
        self.arena.alloc(input.rows(), input.cols())
    }

    fn norm_in_place(&mut self, tensor: Tensor, _norm: Norm) {
        self.aside(tensor.rows(), tensor.cols());
    }

    fn rope(&mut self, _heads: Tensor, _rope: Rope) {}

    fn activate(
        &mut self,
        input: Tensor,
        _activation: Activation,
        _factor: Option<Tensor>,
    ) -> Tensor {
        self.arena.alloc(input.rows(), input.cols())
    }

    fn store_kv(&mut self, _layer: usize, _keys: Tensor, _values: Tensor) {}

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
