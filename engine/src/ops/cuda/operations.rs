//! The operations: handles to views, views to launches.

use folio_kernels::cuda::{
    self, Activate, Embed, Epilogue, Gemm, KvSlots, LayerNorm, NormInput, OutputElement, RmsNorm,
    RopeTables, StoreHeads, TableLookup, View,
};

use super::CudaDevice;
use crate::ops::{
    Activation, Arena, Dtype, HeadPreparation, Heads, Linear, Lookup, LookupIndex, Norm, Ops,
    PagedAttention, Residual, Tensor,
};

impl Ops for CudaDevice {
    fn arena(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn embed(&mut self, lookups: &[Lookup]) -> Tensor {
        let (first, second) = match lookups {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => panic!("an embedding of {} tables", lookups.len()),
        };
        let output = self.arena.alloc(self.step.num_tokens, first.table.cols);
        let arrays = self.memory().arrays();
        let table = |lookup: &Lookup| {
            let (indices, offset) = match lookup.index {
                LookupIndex::Token => (arrays.token_ids, 0),
                LookupIndex::Position { offset } => (arrays.positions, offset as i32),
            };
            TableLookup { table: self.weights.matrix(lookup.table), indices, offset }
        };
        let args = Embed {
            first: table(first),
            second: second.map(table),
            output: self.view(output),
            element: self.options.element,
        };
        self.launch(|context| cuda::embed(context, args));
        output
    }

    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor {
        let output = self.arena.alloc(input.rows(), linear.weight.rows);
        let (epilogue, rest) = epilogue_of(linear);
        self.multiply(input, &[linear], epilogue, output);
        if let Some(function) = rest {
            let view = self.view(output);
            let element = self.options.element;
            let args = Activate { input: view, factor: None, output: view, function, element };
            self.launch(|context| cuda::activate(context, args));
        }
        output
    }

    fn linears(&mut self, input: Tensor, linears: &[Linear], outputs: &mut [Tensor]) {
        let widths = linears.iter().map(|linear| linear.weight.rows);
        self.arena.alloc_stack(input.rows(), widths, outputs);
        let is_one = self.weights.stacked(linears.iter().map(|linear| linear.weight)).is_some()
            && (linears.iter().all(|linear| linear.bias.is_none())
                || self.weights.stacked(linears.iter().filter_map(|linear| linear.bias)).is_some());
        if is_one {
            let all = side_by_side(outputs);
            self.multiply(input, linears, epilogue_of(linears[0]).0, all);
            return;
        }
        for (linear, output) in linears.iter().zip(outputs) {
            self.multiply(input, &[*linear], epilogue_of(*linear).0, *output);
        }
    }

    fn logits(&mut self, input: Tensor, linear: Linear) -> Tensor {
        let output = self.arena.alloc_as(Dtype::F32, input.rows(), linear.weight.rows);
        let (epilogue, rest) = epilogue_of(linear);
        assert!(rest.is_none(), "logits through an activation");
        self.multiply(input, &[linear], epilogue, output);
        output
    }

    fn norm(&mut self, input: Tensor, norm: Norm) -> Tensor {
        let output = self.arena.alloc(input.rows(), input.cols());
        self.normalise(NormInput::Rows(self.view(input)), norm, output);
        output
    }

    fn add_norm(&mut self, delta: Tensor, residual: Residual, norm: Norm) {
        let (delta, sum) = (self.view(delta), self.view(residual.sum));
        self.normalise(NormInput::AddTo { residual: sum, delta }, norm, residual.normed);
    }

    fn prepare_heads(&mut self, qkv: [Tensor; 3], preparation: HeadPreparation) {
        let HeadPreparation { layer, heads, norms, rope } = preparation;
        let (memory, vector) = (self.memory(), |weight| self.weights.vector(weight));
        let Some(kv) = &memory.kv else {
            panic!("a decoder runs on a device without a KV cache");
        };
        let arrays = memory.arrays();
        let args = StoreHeads {
            qkv: self.view(side_by_side(&qkv)),
            num_query_heads: heads.num_heads,
            num_kv_heads: heads.num_kv_heads,
            head_size: heads.head_size,
            norms: norms.map(|norms| cuda::HeadNorms {
                query: vector(norms.queries),
                key: vector(norms.keys),
                epsilon: norms.epsilon,
            }),
            rope: Some(RopeTables {
                cosines: vector(rope.cosines),
                sines: vector(rope.sines),
                num_positions: rope.cosines.cols / (heads.head_size / 2),
                positions: arrays.positions,
            }),
            kv: Some(KvSlots { layer: kv.layer(layer), slot_mapping: arrays.slot_mapping }),
            element: self.options.element,
        };
        self.launch(|context| cuda::store_heads(context, args));
    }

    fn activate_mul(&mut self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor {
        let output = self.arena.alloc(gate.rows(), gate.cols());
        let args = Activate {
            input: self.view(gate),
            factor: Some(self.view(up)),
            output: self.view(output),
            function: activation,
            element: self.options.element,
        };
        self.launch(|context| cuda::activate(context, args));
        output
    }

    fn paged_attention(&mut self, queries: Tensor, attention: PagedAttention) -> Tensor {
        let output = self.arena.alloc(queries.rows(), queries.cols());
        self.attend_pages(queries, attention, output);
        output
    }

    fn attention(&mut self, qkv: [Tensor; 3], heads: Heads) -> Tensor {
        let output = self.arena.alloc(qkv[0].rows(), qkv[0].cols());
        self.attend_texts(qkv, heads, output);
        output
    }

    fn gather_outputs(&mut self, input: Tensor) -> Tensor {
        let output = self.arena.alloc(self.step.num_outputs, input.cols());
        let rows = self.memory().output_rows(self.step);
        let (from, to) = (self.view(input), self.view(output));
        self.launch(|context| cuda::gather_rows(context, from, rows, to));
        output
    }
}

impl CudaDevice {
    /// One product with the weights of `linears`, which lie one after the other.
    fn multiply(&mut self, input: Tensor, linears: &[Linear], epilogue: Epilogue, output: Tensor) {
        let stacked = |weights: &mut dyn Iterator<Item = _>| self.weights.stacked(weights);
        let Some(weight) = stacked(&mut linears.iter().map(|linear| linear.weight)) else {
            panic!("{linears:?} do not lie one after the other");
        };
        let bias = stacked(&mut linears.iter().filter_map(|linear| linear.bias));
        let args = Gemm {
            input: self.view(input),
            weight: View { cols: input.cols(), ..weight },
            bias: bias.map(|bias| bias.ptr),
            epilogue,
            output: self.view(output),
            output_element: match output.dtype() {
                Dtype::F32 => OutputElement::F32,
                Dtype::Bf16 | Dtype::F16 => OutputElement::Same,
            },
            element: self.options.element,
            mode: self.gemm_mode(),
        };
        if self.failure.is_none() {
            let result = self.products.multiply(&self.context, args);
            self.note(result);
        }
    }

    fn normalise(&mut self, input: NormInput, norm: Norm, output: Tensor) {
        let (output, element) = (self.view(output), self.options.element);
        match norm {
            Norm::Rms { scale, epsilon } => {
                let weight = self.weights.vector(scale);
                let args = RmsNorm { input, rows: None, weight, epsilon, output, element };
                self.launch(|context| cuda::rms_norm(context, args));
            }
            Norm::Layer { scale, bias, epsilon } => {
                let weight = self.weights.vector(scale);
                let bias = Some(self.weights.vector(bias));
                let args = LayerNorm { input, rows: None, weight, bias, epsilon, output, element };
                self.launch(|context| cuda::layer_norm(context, args));
            }
        }
    }
}

/// What the product does itself, and the activation that is left to do.
fn epilogue_of(linear: Linear) -> (Epilogue, Option<Activation>) {
    match (linear.bias, linear.activation) {
        (Some(_), Some(Activation::Gelu)) => (Epilogue::BiasGelu, None),
        (Some(_), Some(Activation::GeluTanh)) => (Epilogue::BiasGeluTanh, None),
        (Some(_), rest) => (Epilogue::Bias, rest),
        (None, rest) => (Epilogue::None, rest),
    }
}

/// The matrix of which `tensors` are the columns, in order.
fn side_by_side(tensors: &[Tensor]) -> Tensor {
    let first = tensors[0];
    let mut cols = 0;
    for tensor in tensors {
        let offset = first.offset() + cols * first.dtype().num_bytes();
        assert!(
            tensor.offset() == offset && tensor.stride() == first.stride(),
            "{tensors:?} do not lie side by side"
        );
        cols += tensor.cols();
    }
    first.with_cols(cols)
}
