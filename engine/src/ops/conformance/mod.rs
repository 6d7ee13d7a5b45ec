//! What every device must compute: each operation on random shapes against plain f64 loops.
//!
//! A device proves itself by `conformance::check(&make, tolerance)`. Inputs reach it the way a
//! model's do, as weights and token ids, so nothing but the traits is needed. A failure names the
//! operation and the seed that shows it.

mod reference;

use half::{bf16, f16};
use reference::{Matrix, Reference};

use super::{
    Activation, Batch, Device, Dtype, Heads, HostBytes, HostTensor, KvShape, Linear, Lookup,
    LookupIndex, Norm, PagedAttention, Rope, Tensor, Weight,
};
use crate::types::{BlockCopy, BlockId};

/// Random cases for each operation.
const NUM_SEEDS: u64 = 12;
/// Floats of the arena; more than any case needs.
const NUM_FLOATS: usize = 1 << 20;

/// Checks every operation of the devices that `make` makes.
///
/// `tolerance` is how far a number may be from the f64 result, relative to the sum of magnitudes
/// that went into it. Panics at the first difference above it.
pub(super) fn check(make: &dyn Fn() -> Box<dyn Device>, tolerance: f64) {
    let operations: [(&str, Check); 10] = [
        ("embed", embed),
        ("linear", linear),
        ("linear_add", linear_add),
        ("norm", norm),
        ("rope", rope),
        ("activate", activate),
        ("gather_outputs", gather_outputs),
        ("attention", attention),
        ("paged_attention", paged_attention),
        ("copy_blocks", copy_blocks),
    ];
    for (name, run) in operations {
        for seed in 0..NUM_SEEDS {
            let mut case = Case {
                device: make(),
                random: Random(seed.wrapping_mul(0x9e37_79b9) ^ name.len() as u64),
                batch: Batch::default(),
                what: format!("{name}, seed {seed}"),
                tolerance,
            };
            run(&mut case);
        }
    }
}

/// Checks one operation.
type Check = fn(&mut Case);

/// One operation on one device with one seed.
struct Case {
    device: Box<dyn Device>,
    random: Random,
    batch: Batch,
    what: String,
    tolerance: f64,
}

/// A small generator (SplitMix64): the cases need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.between(0, choices.len() - 1)]
    }

    /// Numbers around zero, most within one.
    fn numbers(&mut self, len: usize) -> Vec<f32> {
        let mut one = || (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..len).map(|_| 1.5 * one()).collect()
    }
}

impl Case {
    /// Starts a step of sequences of `lens` tokens, not yet in any cache. Token ids count up.
    fn begin(&mut self, lens: &[usize]) {
        let mut batch = Batch::default();
        batch.cu_seqlens_q.push(0);
        for &len in lens {
            batch.positions.extend(0..len as u32);
            batch.num_computed.push(0);
            batch.cu_seqlens_q.push(batch.positions.len() as u32);
        }
        batch.token_ids = (0..batch.positions.len() as u32).collect();
        let num_outputs = self.random.between(0, batch.num_tokens());
        let every = batch.num_tokens() / num_outputs.max(1);
        batch.output_rows = (0..num_outputs).map(|row| (row * every) as u32).collect();
        self.batch = batch;
        self.device.begin(&self.batch);
    }

    /// A step of up to four sequences with up to `max_len` tokens each.
    fn begin_random(&mut self, max_len: usize) {
        let num_seqs = self.random.between(1, 4);
        let lens = (0..num_seqs).map(|_| self.random.between(1, max_len)).collect::<Vec<_>>();
        self.reserve(None);
        self.begin(&lens);
    }

    fn reserve(&mut self, kv: Option<KvShape>) {
        self.device.reserve(NUM_FLOATS, kv).expect("memory for a small case");
    }

    fn num_tokens(&self) -> usize {
        self.batch.num_tokens()
    }

    /// Random activations `[T, cols]`, on the device and here. Tokens count up, so looking them up
    /// in a table of T rows gives the table.
    fn input(&mut self, cols: usize) -> (Tensor, Matrix) {
        let rows = self.num_tokens();
        let numbers = self.random.numbers(rows * cols);
        let table = HostTensor::of_f32(&numbers, [rows, cols]);
        let table = self.device.load_matrix(table).expect("a small table");
        let lookup = Lookup { table, index: LookupIndex::Token };
        (self.device.embed(&[lookup]), Matrix::of(&numbers, cols))
    }

    /// A random weight in a random format.
    fn weight(&mut self, rows: usize, cols: usize) -> (Weight, Matrix) {
        let numbers = self.random.numbers(rows * cols);
        let dtype = self.random.pick(&[Dtype::F32, Dtype::Bf16, Dtype::F16]);
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::Bf16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Dtype::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        };
        let range = 0..bytes.len();
        let bytes = HostBytes::Owned(bytes.into());
        let tensor = HostTensor::new(dtype, [rows, cols], bytes, range);
        let stored = Matrix::of(&tensor.to_f32(), cols);
        (self.device.load_matrix(tensor).expect("a small weight"), stored)
    }

    fn vector(&mut self, len: usize) -> (Weight, Vec<f64>) {
        let numbers = self.random.numbers(len);
        let wide = numbers.iter().copied().map(f64::from).collect();
        (self.device.load_vector(numbers).expect("a small vector"), wide)
    }

    /// Compares a tensor on the device with its reference.
    fn expect(&mut self, found: Tensor, expected: &Reference) {
        let what = &self.what;
        assert_eq!(found.rows() * found.cols(), expected.values.len(), "{what}: numbers");
        let found = self.device.read(found);
        for (index, (found, value)) in found.iter().zip(&expected.values).enumerate() {
            let allowed = self.tolerance * expected.magnitudes[index].max(1e-3);
            let error = (f64::from(*found) - value).abs();
            assert!(
                error <= allowed,
                "{what}: number {index} is {found}, expected {value} within {allowed:e}"
            );
        }
    }
}

fn embed(case: &mut Case) {
    case.begin_random(9);
    let (cols, offset) = (case.random.between(1, 70), case.random.between(0, 3));
    let (words, word_rows) = case.weight(case.num_tokens(), cols);
    let (places, place_rows) = case.weight(9 + offset, cols);
    let index = LookupIndex::Position { offset: offset as u32 };
    let lookups =
        [Lookup { table: words, index: LookupIndex::Token }, Lookup { table: places, index }];
    let found = case.device.embed(&lookups);
    let row_of = |position: &u32| place_rows.row(*position as usize + offset).to_vec();
    let places = case.batch.positions.iter().flat_map(row_of).collect::<Vec<_>>();
    case.expect(found, &reference::sum(&word_rows.numbers, &places));
}

/// A random projection of rows of `cols`, on the device and here.
fn projection(case: &mut Case, cols: usize) -> (Linear, Matrix, Option<Vec<f64>>) {
    let rows = case.random.between(1, 150);
    let (weight, matrix) = case.weight(rows, cols);
    if case.random.between(0, 1) == 0 {
        return (Linear { weight, bias: None }, matrix, None);
    }
    let (bias, numbers) = case.vector(rows);
    let bias = Some(bias);
    (Linear { weight, bias }, matrix, Some(numbers))
}

fn linear(case: &mut Case) {
    case.begin_random(20);
    let cols = case.random.between(1, 300);
    let (input, rows) = case.input(cols);
    let (linear, weight, bias) = projection(case, cols);
    let found = case.device.linear(input, linear);
    case.expect(found, &reference::linear(&rows, &weight, bias.as_deref()));
}

fn linear_add(case: &mut Case) {
    case.begin_random(20);
    let cols = case.random.between(1, 100);
    let (input, rows) = case.input(cols);
    let (linear, weight, bias) = projection(case, cols);
    let (onto, before) = case.input(linear.weight.rows);
    case.device.linear_add(input, linear, onto);
    let product = reference::linear(&rows, &weight, bias.as_deref());
    case.expect(onto, &product.plus(&before.numbers));
}

fn norm(case: &mut Case) {
    case.begin_random(9);
    let cols = case.random.between(1, 200);
    let (scale, scales) = case.vector(cols);
    let (bias, biases) = case.vector(cols);
    let epsilon = case.random.pick(&[1e-12f32, 1e-5]);
    let rms = Norm::Rms { scale, epsilon };
    let layer = Norm::Layer { scale, bias, epsilon };
    for (norm, biases) in [(rms, None), (layer, Some(biases.as_slice()))] {
        let (input, rows) = case.input(cols);
        let expected = reference::norm(&rows, &scales, biases, f64::from(epsilon));
        let found = case.device.norm(input, norm);
        case.expect(found, &expected);
        case.device.norm_in_place(input, norm);
        case.expect(input, &expected);
    }
}

fn rope(case: &mut Case) {
    case.begin_random(30);
    let head_size = case.random.pick(&[8, 16, 64, 80, 128]);
    let num_heads = case.random.between(1, 5);
    let angles = case.random.numbers(30 * head_size / 2);
    let table = |f: fn(f32) -> f32| angles.iter().map(|x| f(*x)).collect::<Vec<_>>();
    let rope = Rope {
        cosines: case.device.load_vector(table(f32::cos)).expect("a small table"),
        sines: case.device.load_vector(table(f32::sin)).expect("a small table"),
        head_size,
    };
    let (heads, rows) = case.input(num_heads * head_size);
    case.device.rope(heads, rope);
    let expected = reference::rope(&rows, &case.batch.positions, &angles, head_size);
    case.expect(heads, &expected);
}

fn activate(case: &mut Case) {
    case.begin_random(20);
    let cols = case.random.between(1, 100);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let (input, rows) = case.input(cols);
        let (factor, factors) = case.input(cols);
        let alone = case.device.activate(input, activation, None);
        case.expect(alone, &reference::activate(&rows, activation, None));
        let gated = case.device.activate(input, activation, Some(factor));
        case.expect(gated, &reference::activate(&rows, activation, Some(&factors)));
    }
}

fn gather_outputs(case: &mut Case) {
    case.begin_random(20);
    let cols = case.random.between(1, 100);
    let (input, rows) = case.input(cols);
    let found = case.device.gather_outputs(input);
    let wanted = case.batch.output_rows.iter();
    let rows = wanted.flat_map(|row| rows.row(*row as usize).to_vec()).collect::<Vec<_>>();
    case.expect(found, &reference::exact(rows));
}

fn attention(case: &mut Case) {
    case.begin_random(100);
    let heads = random_heads(case);
    let heads = Heads { num_kv_heads: heads.num_heads, ..heads };
    let (queries, q) = case.input(heads.query_cols());
    let (keys, k) = case.input(heads.query_cols());
    let (values, v) = case.input(heads.query_cols());
    let found = case.device.attention([queries, keys, values], heads);
    let starts = case.batch.cu_seqlens_q.clone();
    let sees = |query: usize, key: usize| {
        let sequence_of = |row: usize| starts.partition_point(|start| *start as usize <= row);
        sequence_of(query) == sequence_of(key)
    };
    case.expect(found, &reference::attention(&q, [&k, &v], heads, &sees));
}

fn random_heads(case: &mut Case) -> Heads {
    let num_kv_heads = case.random.between(1, 3);
    Heads {
        num_heads: num_kv_heads * case.random.between(1, 4),
        num_kv_heads,
        head_size: case.random.pick(&[8, 16, 64, 80, 128]),
    }
}

/// A cache for a case, and the attention over its last layer.
fn begin_paged(case: &mut Case, max_len: usize) -> (KvShape, PagedAttention) {
    let heads = random_heads(case);
    let num_layers = case.random.between(1, 2);
    let block_size = case.random.pick(&[1, 5, 16, 32]);
    let kv = KvShape {
        num_layers,
        num_kv_heads: heads.num_kv_heads,
        head_size: heads.head_size,
        block_size,
        num_blocks: 2 + 2 * max_len.div_ceil(block_size),
    };
    case.reserve(Some(kv));
    let window = case.random.between(1, 40) as u32;
    let attention = PagedAttention {
        layer: num_layers - 1,
        heads,
        window: case.random.pick(&[None, Some(window)]),
    };
    (kv, attention)
}

/// Starts a step of `rows` of two sequences: which sequence, and its positions.
fn begin_positions(case: &mut Case, kv: KvShape, rows: &[(usize, std::ops::Range<usize>)]) {
    let lens = rows.iter().map(|(_, positions)| positions.len()).collect::<Vec<_>>();
    case.begin(&lens);
    let batch = &mut case.batch;
    batch.max_blocks = kv.num_blocks / 2 - 1;
    batch.positions.clear();
    for (index, (sequence, positions)) in rows.iter().enumerate() {
        // Blocks of two sequences take turns, from the end of the pool.
        let block = |n: usize| (kv.num_blocks - 1 - 2 * n - sequence) as u32;
        let slot = |position: usize| {
            let (block_size, within) = (kv.block_size, position % kv.block_size);
            block(position / block_size) * block_size as u32 + within as u32
        };
        batch.num_computed[index] = positions.start as u32;
        batch.positions.extend(positions.clone().map(|position| position as u32));
        batch.slot_mapping.extend(positions.clone().map(slot));
        batch.block_tables.extend((0..batch.max_blocks).map(block));
    }
    case.device.begin(&case.batch);
}

fn paged_attention(case: &mut Case) {
    const MAX_LEN: usize = 120;
    let (kv, attention) = begin_paged(case, MAX_LEN);
    let heads = attention.heads;
    let lens = [case.random.between(1, MAX_LEN), case.random.between(1, MAX_LEN)];
    let starts = lens.map(|len| case.random.between(0, len - 1));
    let empty = || Matrix::of(&[], 1);
    let mut known = [(empty(), empty()), (empty(), empty())];
    let mut last = None;
    // First what lies before the queries, then the queries with the rest.
    for rows in [[0..starts[0], 0..starts[1]], [starts[0]..lens[0], starts[1]..lens[1]]] {
        let rows = rows.into_iter().enumerate().filter(|(_, positions)| !positions.is_empty());
        let rows = rows.collect::<Vec<_>>();
        if rows.is_empty() {
            continue;
        }
        begin_positions(case, kv, &rows);
        let (queries, q) = case.input(heads.query_cols());
        let (keys, k) = case.input(heads.kv_cols());
        let (values, v) = case.input(heads.kv_cols());
        case.device.store_kv(attention.layer, keys, values);
        let mut row = 0;
        for (sequence, positions) in &rows {
            known[*sequence].0.append(&k, row..row + positions.len());
            known[*sequence].1.append(&v, row..row + positions.len());
            row += positions.len();
        }
        last = Some((queries, q, rows));
    }
    let Some((queries, q, rows)) = last else {
        panic!("{}: no step", case.what);
    };
    let found = case.device.paged_attention(queries, attention);
    let mut expected = Reference::default();
    let mut row = 0;
    for (sequence, positions) in rows {
        let (keys, values) = &known[sequence];
        let own = q.rows(row..row + positions.len());
        let sees = |query: usize, key: usize| {
            let position = positions.start + query;
            let window = attention.window.map_or(usize::MAX, |window| window as usize);
            key <= position && position - key < window
        };
        expected.extend(reference::attention(&own, [keys, values], heads, &sees));
        row += positions.len();
    }
    case.expect(found, &expected);
}

/// A copied block reads like its source, in every layer.
fn copy_blocks(case: &mut Case) {
    let (kv, attention) = begin_paged(case, 40);
    let heads = attention.heads;
    let len = kv.block_size;
    begin_positions(case, kv, &[(0, 0..len)]);
    let (keys, k) = case.input(heads.kv_cols());
    let (values, v) = case.input(heads.kv_cols());
    for layer in 0..kv.num_layers {
        case.device.store_kv(layer, keys, values);
    }
    // Blocks of the two sequences take turns, so the one below is the other's first.
    let source = BlockId(kv.num_blocks as u32 - 1);
    let target = BlockId(kv.num_blocks as u32 - 2);
    case.device.copy_blocks(&[BlockCopy { source, target }]);
    begin_positions(case, kv, &[(1, len - 1..len)]);
    let (queries, q) = case.input(heads.query_cols());
    for layer in 0..kv.num_layers {
        let attention = PagedAttention { layer, window: None, ..attention };
        let found = case.device.paged_attention(queries, attention);
        case.expect(found, &reference::attention(&q, [&k, &v], heads, &|_, _| true));
    }
}

#[cfg(test)]
mod tests {
    use folio_kernels::cpu::Pool;

    use super::*;
    use crate::ops::CpuDevice;

    #[test]
    fn the_cpu_conforms() {
        for num_threads in [1, 3] {
            let make = || Box::new(CpuDevice::new(Pool::new(num_threads))) as Box<_>;
            check(&make, 2e-6);
        }
    }
}
