//! The CPU as a device: operations on the kernels of `folio-kernels`.
//!
//! Weights stay in the memory of their checkpoint. Handles are resolved to disjoint parts of one
//! buffer; the kernels check every size again.

use folio_kernels::cpu::{self, KvCacheMut, KvCacheRef, KvLayout, Matrix, Pool, WeightDtype};

use super::{
    Activation, ActivationLayout, Arena, Batch, Device, Dtype, HeadNorms, HeadPreparation, Heads,
    HostTensor, KvShape, Linear, Lookup, LookupIndex, MadeUp, Norm, Ops, PagedAttention, Reserve,
    Residual, Tensor, Weight,
};
use crate::types::{BlockCopy, Error, Result};

/// Operations on host memory, spread over a pool of threads.
pub struct CpuDevice {
    pool: Pool,
    weights: Weights,
    arena: Arena,
    memory: Vec<f32>,
    batch: Batch,
    kv: Option<KvCache>,
    /// Table entries of the embedding in progress.
    entries: Vec<u32>,
}

impl std::fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuDevice")
            .field("num_threads", &self.pool.num_threads())
            .field("num_weights", &self.weights.0.len())
            .field("arena", &self.arena)
            .finish_non_exhaustive()
    }
}

/// Keys and values of all layers.
#[derive(Debug)]
struct KvCache {
    layout: KvLayout,
    /// Keys, then values, of each layer.
    layers: Vec<[Vec<f32>; 2]>,
}

/// What was loaded, by the ids in [`Weight`]s.
#[derive(Debug, Default)]
struct Weights(Vec<Stored>);

/// A norm with its numbers in place of handles.
enum HostNorm<'a> {
    Rms(cpu::RmsNorm<'a>),
    Layer(cpu::LayerNorm<'a>),
}

#[derive(Debug)]
enum Stored {
    Matrix(HostTensor),
    Vector(Vec<f32>),
}

impl CpuDevice {
    /// A device without weights, whose kernels run on `pool`.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self {
            pool,
            weights: Weights::default(),
            arena: Arena::new(0, ActivationLayout::CPU),
            memory: Vec::new(),
            batch: Batch::default(),
            kv: None,
            entries: Vec::new(),
        }
    }
}

impl Ops for CpuDevice {
    fn arena(&mut self) -> &mut Arena {
        &mut self.arena
    }

    fn embed(&mut self, lookups: &[Lookup]) -> Tensor {
        let (rows, cols) = (self.batch.num_tokens(), lookups[0].table.cols);
        let sum = self.arena.alloc(rows, cols);
        let mark = self.arena.mark();
        for (index, lookup) in lookups.iter().enumerate() {
            self.entries.clear();
            match lookup.index {
                LookupIndex::Token => self.entries.extend(&self.batch.token_ids),
                LookupIndex::Position { offset } => {
                    let positions = self.batch.positions.iter();
                    self.entries.extend(positions.map(|position| position + offset));
                }
            }
            let table = self.weights.matrix(lookup.table);
            if index == 0 {
                let [sum] = parts(&mut self.memory, [sum]);
                cpu::embed(&self.pool, &table, &self.entries, sum);
            } else {
                let one = self.arena.alloc(rows, cols);
                let [sum, one] = parts(&mut self.memory, [sum, one]);
                cpu::embed(&self.pool, &table, &self.entries, one);
                cpu::add_assign(&self.pool, one, sum);
                self.arena.rewind(mark);
            }
        }
        sum
    }

    fn linear(&mut self, input: Tensor, linear: Linear) -> Tensor {
        let output = self.arena.alloc(input.rows(), linear.weight.rows);
        let Some(activation) = linear.activation else {
            self.project(input, linear, output);
            return output;
        };
        let mark = self.arena.mark();
        let product = self.arena.alloc(output.rows(), output.cols());
        self.project(input, linear, product);
        let [x, out] = parts(&mut self.memory, [product, output]);
        cpu::activation(&self.pool, activation, x, out);
        self.arena.rewind(mark);
        output
    }

    fn linears(&mut self, input: Tensor, linears: &[Linear], outputs: &mut [Tensor]) {
        let widths = linears.iter().map(|linear| linear.weight.rows);
        self.arena.alloc_stack(input.rows(), widths, outputs);
        for (linear, output) in linears.iter().zip(outputs) {
            self.project(input, *linear, *output);
        }
    }

    fn logits(&mut self, input: Tensor, linear: Linear) -> Tensor {
        self.linear(input, linear)
    }

    fn norm(&mut self, input: Tensor, norm: Norm) -> Tensor {
        let output = self.arena.alloc(input.rows(), input.cols());
        if input.rows() > 0 {
            let [x, out] = parts(&mut self.memory, [input, output]);
            match self.weights.norm(norm) {
                HostNorm::Rms(norm) => cpu::rms_norm(&self.pool, x, norm, out),
                HostNorm::Layer(norm) => cpu::layer_norm(&self.pool, x, norm, out),
            }
        }
        output
    }

    fn add_norm(&mut self, delta: Tensor, residual: Residual, norm: Norm) {
        if delta.rows() == 0 {
            return;
        }
        let tensors = [delta, residual.sum, residual.normed];
        let [delta, sum, out] = parts(&mut self.memory, tensors);
        match self.weights.norm(norm) {
            HostNorm::Rms(norm) => cpu::add_rms_norm(&self.pool, delta, sum, norm, out),
            HostNorm::Layer(norm) => cpu::add_layer_norm(&self.pool, delta, sum, norm, out),
        }
    }

    fn prepare_heads(&mut self, qkv: [Tensor; 3], preparation: HeadPreparation) {
        let [q, k, v] = parts(&mut self.memory, qkv);
        let HeadPreparation { layer, heads, norms, rope } = preparation;
        if let Some(HeadNorms { queries, keys, epsilon }) = norms {
            for (x, scale) in [(&mut *q, queries), (&mut *k, keys)] {
                let weight = self.weights.vector(scale);
                cpu::rms_norm_in_place(&self.pool, x, cpu::RmsNorm { weight, epsilon });
            }
        }
        let tables = cpu::Rope {
            cos: self.weights.vector(rope.cosines),
            sin: self.weights.vector(rope.sines),
            rotary_size: heads.head_size,
            head_size: heads.head_size,
        };
        cpu::rope(&self.pool, q, &self.batch.positions, tables);
        cpu::rope(&self.pool, k, &self.batch.positions, tables);
        let mut cache = kv_of(self.kv.as_mut()).write(layer);
        cpu::store_kv(&self.pool, k, v, &self.batch.slot_mapping, &mut cache);
    }

    fn activate_mul(&mut self, gate: Tensor, up: Tensor, activation: Activation) -> Tensor {
        let output = self.arena.alloc(gate.rows(), gate.cols());
        let [gate, up, out] = parts(&mut self.memory, [gate, up, output]);
        cpu::activation_mul(&self.pool, activation, gate, up, out);
        output
    }

    fn paged_attention(&mut self, queries: Tensor, attention: PagedAttention) -> Tensor {
        let output = self.arena.alloc(queries.rows(), queries.cols());
        let [q, out] = parts(&mut self.memory, [queries, output]);
        let heads = attention.heads;
        let args = cpu::PagedAttention {
            q,
            num_heads: heads.num_heads,
            scale: heads.scale(),
            window: attention.window.map(|window| window as usize),
            cache: kv_of(self.kv.as_ref()).read(attention.layer),
            cu_seqlens: &self.batch.cu_seqlens_q,
            num_computed: &self.batch.num_computed,
            block_tables: &self.batch.block_tables,
            max_num_blocks: self.batch.max_blocks,
        };
        cpu::paged_attention(&self.pool, &args, out);
        output
    }

    fn attention(&mut self, qkv: [Tensor; 3], heads: Heads) -> Tensor {
        let [queries, keys, values] = qkv;
        let output = self.arena.alloc(queries.rows(), queries.cols());
        let [q, k, v, out] = parts(&mut self.memory, [queries, keys, values, output]);
        let args = cpu::EncoderAttention {
            q,
            k,
            v,
            num_heads: heads.num_heads,
            num_kv_heads: heads.num_kv_heads,
            head_size: heads.head_size,
            scale: heads.scale(),
            cu_seqlens: &self.batch.cu_seqlens_q,
        };
        cpu::encoder_attention(&self.pool, &args, out);
        output
    }

    fn gather_outputs(&mut self, input: Tensor) -> Tensor {
        let output = self.arena.alloc(self.batch.num_outputs(), input.cols());
        if output.rows() > 0 {
            let [x, out] = parts(&mut self.memory, [input, output]);
            cpu::gather_rows(&self.pool, x, &self.batch.output_rows, out);
        }
        output
    }
}

impl CpuDevice {
    /// The product and the bias of `linear`, without its activation.
    fn project(&mut self, input: Tensor, linear: Linear, output: Tensor) {
        if input.rows() > 0 {
            let [x, out] = parts(&mut self.memory, [input, output]);
            let weight = self.weights.matrix(linear.weight);
            let bias = linear.bias.map(|bias| self.weights.vector(bias));
            cpu::linear(&self.pool, x, &weight, bias, out);
        }
    }
}

impl Device for CpuDevice {
    fn load_matrices(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>> {
        let load = |tensor: HostTensor| {
            let (rows, cols) = (tensor.rows(), tensor.cols());
            self.weights.push(Stored::Matrix(tensor), rows, cols)
        };
        Ok(parts.into_iter().map(load).collect())
    }

    fn load_biases(&mut self, parts: Vec<HostTensor>) -> Result<Vec<Weight>> {
        parts.into_iter().map(|part| self.load_vector(part.to_f32())).collect()
    }

    fn load_vector(&mut self, numbers: Vec<f32>) -> Result<Weight> {
        let cols = numbers.len();
        Ok(self.weights.push(Stored::Vector(numbers), 1, cols))
    }

    fn make_up(&mut self, rows: &[usize], cols: usize, numbers: MadeUp) -> Result<Vec<Weight>> {
        self.load_matrices(numbers.matrices(rows, cols))
    }

    fn reserve(&mut self, reserve: Reserve) -> Result<()> {
        self.memory = zeros(reserve.arena_bytes.div_ceil(4), "the step arena")?;
        self.arena = Arena::new(reserve.arena_bytes, ActivationLayout::CPU);
        self.kv = reserve.kv.map(KvCache::new).transpose()?;
        Ok(())
    }

    fn begin(&mut self, batch: &Batch) {
        self.arena.reset();
        self.batch.clone_from(batch);
    }

    fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        if copies.is_empty() {
            return;
        }
        let kv = kv_of(self.kv.as_mut());
        for layer in 0..kv.layers.len() {
            let mut cache = kv.write(layer);
            for copy in copies {
                cpu::copy_block(&mut cache, copy.source.0, copy.target.0);
            }
        }
    }

    fn read(&mut self, tensor: Tensor) -> Result<&mut [f32]> {
        Ok(&mut self.memory[tensor.range()])
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Weights {
    fn push(&mut self, stored: Stored, rows: usize, cols: usize) -> Weight {
        let id = self.0.len() as u32;
        self.0.push(stored);
        Weight { id, rows, cols }
    }

    fn matrix(&self, weight: Weight) -> Matrix<'_> {
        let Stored::Matrix(tensor) = &self.0[weight.id as usize] else {
            panic!("{weight:?} is a vector where a matrix is needed");
        };
        let dtype = match tensor.dtype() {
            Dtype::F32 => WeightDtype::F32,
            Dtype::Bf16 => WeightDtype::Bf16,
            Dtype::F16 => WeightDtype::F16,
        };
        Matrix::new(dtype, tensor.as_bytes(), weight.rows, weight.cols)
            .unwrap_or_else(|error| panic!("{weight:?}: {error}"))
    }

    fn vector(&self, weight: Weight) -> &[f32] {
        match &self.0[weight.id as usize] {
            Stored::Vector(numbers) => numbers,
            Stored::Matrix(_) => panic!("{weight:?} is a matrix where a vector is needed"),
        }
    }

    fn norm(&self, norm: Norm) -> HostNorm<'_> {
        match norm {
            Norm::Rms { scale, epsilon } => {
                HostNorm::Rms(cpu::RmsNorm { weight: self.vector(scale), epsilon })
            }
            Norm::Layer { scale, bias, epsilon } => HostNorm::Layer(cpu::LayerNorm {
                weight: self.vector(scale),
                bias: Some(self.vector(bias)),
                epsilon,
            }),
        }
    }
}

impl KvCache {
    fn new(shape: KvShape) -> Result<Self> {
        let layout = KvLayout {
            num_blocks: shape.num_blocks,
            num_kv_heads: shape.num_kv_heads,
            block_size: shape.block_size,
            head_size: shape.head_size,
        };
        let len = layout.num_elements();
        let layers = (0..shape.num_layers)
            .map(|_| Ok([zeros(len, "the KV cache")?, zeros(len, "the KV cache")?]))
            .collect::<Result<_>>()?;
        Ok(Self { layout, layers })
    }

    fn read(&self, layer: usize) -> KvCacheRef<'_> {
        let [keys, values] = &self.layers[layer];
        KvCacheRef::new(self.layout, keys, values)
    }

    fn write(&mut self, layer: usize) -> KvCacheMut<'_> {
        let [keys, values] = &mut self.layers[layer];
        KvCacheMut::new(self.layout, keys, values)
    }
}

fn kv_of<T>(kv: Option<T>) -> T {
    let Some(kv) = kv else {
        panic!("a decoder runs on a device without a KV cache");
    };
    kv
}

/// Zeros straight from the system, which backs them with memory as they are touched.
fn zeros(len: usize, what: &str) -> Result<Vec<f32>> {
    // Asked for first, since a failing allocation of `vec!` would end the process.
    let mut probe = Vec::<f32>::new();
    probe.try_reserve_exact(len).map_err(|error| {
        let num_bytes = len.saturating_mul(4);
        Error::OutOfMemory(format!("{what} of {num_bytes} bytes: {error}"))
    })?;
    drop(probe);
    Ok(vec![0.0; len])
}

/// The numbers of tensors that do not overlap.
fn parts<const N: usize>(memory: &mut [f32], tensors: [Tensor; N]) -> [&mut [f32]; N] {
    memory
        .get_disjoint_mut(tensors.map(Tensor::range))
        .unwrap_or_else(|error| panic!("{tensors:?}: {error}"))
}
