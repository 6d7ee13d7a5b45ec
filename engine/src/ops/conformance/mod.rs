//! What every device must compute: each operation on random shapes against plain f64 loops.
//!
//! A device proves itself by `conformance::check(&make, precision)`. Inputs reach it the way a
//! model's do, as weights and token ids, so nothing but the traits is needed. A failure names the
//! operation and the seed that shows it.

mod reference;

use half::{bf16, f16};
use reference::{Matrix, Reference};

use super::{
    Activation, Batch, Device, Dtype, HeadNorms, HeadPreparation, Heads, HostBytes, HostTensor,
    KvShape, Linear, Lookup, LookupIndex, MadeUp, Norm, PagedAttention, Reserve, Residual, Rope,
    Tensor, Weight,
};
use crate::types::{BlockCopy, BlockId};

/// Random cases for each operation.
const NUM_SEEDS: u64 = 12;
/// Tokens of a sequence, at most.
const MAX_LEN: usize = 120;

/// A kind of device, and what models may ask of it.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    /// Makes one.
    pub(super) make: &'a dyn Fn() -> Box<dyn Device>,
    /// Format of its activations.
    pub(super) dtype: Dtype,
    /// How far a number may be from the f64 result, relative to the sum of magnitudes that went
    /// into it.
    pub(super) tolerance: f64,
    /// Widths of matrices are multiples of this.
    pub(super) cols_step: usize,
    /// Head sizes D.
    pub(super) head_sizes: &'a [usize],
    /// Block sizes P.
    pub(super) block_sizes: &'a [usize],
}

/// Checks every operation of a device. Panics at the first difference above its tolerance.
pub(super) fn check(subject: Subject<'_>) {
    let operations: [(&str, Check); 12] = [
        ("embed", embed),
        ("linear", linear),
        ("linears", linears),
        ("make_up", make_up),
        ("norm", norm),
        ("add_norm", add_norm),
        ("prepare_heads", prepare_heads),
        ("activate_mul", activate_mul),
        ("gather_outputs", gather_outputs),
        ("attention", attention),
        ("paged_attention", paged_attention),
        ("copy_blocks", copy_blocks),
    ];
    for (name, run) in operations {
        for seed in 0..NUM_SEEDS {
            let mut case = Case {
                subject,
                device: (subject.make)(),
                random: Random(seed.wrapping_mul(0x9e37_79b9) ^ name.len() as u64),
                batch: Batch::default(),
                what: format!("{name}, seed {seed}"),
            };
            run(&mut case);
        }
    }
}

/// Checks one operation.
type Check = fn(&mut Case<'_>);

/// One operation on one device with one seed.
struct Case<'a> {
    subject: Subject<'a>,
    device: Box<dyn Device>,
    random: Random,
    batch: Batch,
    what: String,
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

    /// A number around zero, mostly within one.
    fn number(&mut self) -> f32 {
        1.5 * ((self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    }
}

impl Case<'_> {
    /// Random numbers. A device of 16-bit activations gets some that are exact in every format, so
    /// that its own rounding is measured and nothing else.
    fn numbers(&mut self, len: usize) -> Vec<f32> {
        let is_short = self.subject.dtype != Dtype::F32;
        let round = |x| if is_short { bf16::from_f32(x).to_f32() } else { x };
        (0..len).map(|_| round(self.random.number())).collect()
    }

    /// A random width up to `max` that the device allows.
    fn cols(&mut self, max: usize) -> usize {
        let step = self.subject.cols_step;
        step * self.random.between(1, max / step)
    }

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
        let reserve = Reserve {
            arena_bytes: 4 << 20,
            kv,
            max_num_tokens: 4 * MAX_LEN,
            max_num_seqs: 4 * MAX_LEN,
            max_model_len: MAX_LEN,
        };
        self.device.reserve(reserve).expect("memory for a small case");
    }

    fn num_tokens(&self) -> usize {
        self.batch.num_tokens()
    }

    /// Random activations `[T, cols]`, on the device and here.
    fn input(&mut self, cols: usize) -> (Tensor, Matrix) {
        let numbers = self.numbers(self.num_tokens() * cols);
        (self.upload(&numbers, cols), Matrix::of(&numbers, cols))
    }

    /// Activations `[T, cols]` on the device. Tokens count up, so looking them up in a table of T
    /// rows gives the table.
    fn upload(&mut self, numbers: &[f32], cols: usize) -> Tensor {
        let table = self.matrix(HostTensor::of_f32(numbers, [numbers.len() / cols, cols]));
        self.device.embed(&[Lookup { table, index: LookupIndex::Token }])
    }

    /// Random activations `[T, cols]` for each of `widths`, laid out like projections of one
    /// input: they are some, of the rows of an identity.
    fn stack<const N: usize>(&mut self, widths: [usize; N]) -> ([Tensor; N], [Matrix; N]) {
        let rows = self.num_tokens();
        let cols = rows.next_multiple_of(self.subject.cols_step);
        let mut identity = vec![0.0; rows * cols];
        for row in 0..rows {
            identity[row * cols + row] = 1.0;
        }
        let identity = self.upload(&identity, cols);
        let matrices = widths.map(|width| Matrix::of(&self.numbers(rows * width), width));
        let parts = matrices.iter().map(|matrix| {
            let element = |index: usize| match index % cols {
                row if row < rows => matrix.row(row)[index / cols] as f32,
                _ => 0.0,
            };
            let numbers = (0..matrix.cols * cols).map(element).collect::<Vec<_>>();
            HostTensor::of_f32(&numbers, [matrix.cols, cols])
        });
        let weights = self.device.load_matrices(parts.collect()).expect("small weights");
        let linear = |weight| Linear { weight, bias: None, activation: None };
        let linears = weights.into_iter().map(linear).collect::<Vec<_>>();
        let mut outputs = [identity; N];
        self.device.linears(identity, &linears, &mut outputs);
        (outputs, matrices)
    }

    fn matrix(&mut self, tensor: HostTensor) -> Weight {
        self.device.load_matrices(vec![tensor]).expect("a small matrix")[0]
    }

    /// A random weight in a random format.
    fn host_weight(&mut self, rows: usize, cols: usize) -> (HostTensor, Matrix) {
        let numbers = self.numbers(rows * cols);
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
        (tensor, stored)
    }

    fn weight(&mut self, rows: usize, cols: usize) -> (Weight, Matrix) {
        let (tensor, stored) = self.host_weight(rows, cols);
        (self.matrix(tensor), stored)
    }

    fn vector(&mut self, len: usize) -> (Weight, Vec<f64>) {
        let numbers = self.numbers(len);
        let wide = numbers.iter().copied().map(f64::from).collect();
        (self.device.load_vector(numbers).expect("a small vector"), wide)
    }

    /// Compares a tensor on the device with its reference.
    fn expect(&mut self, found: Tensor, expected: &Reference) {
        let what = &self.what;
        assert_eq!(found.rows() * found.cols(), expected.values.len(), "{what}: numbers");
        let found = self.device.read(found).expect("a device that works");
        for (index, (found, value)) in found.iter().zip(&expected.values).enumerate() {
            let allowed = self.subject.tolerance * expected.magnitudes[index].max(1e-3);
            let error = (f64::from(*found) - value).abs();
            assert!(
                error <= allowed,
                "{what}: number {index} is {found}, expected {value} within {allowed:e}"
            );
        }
    }
}

fn embed(case: &mut Case<'_>) {
    case.begin_random(9);
    let (cols, offset) = (case.cols(70), case.random.between(0, 3));
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
fn projection(case: &mut Case<'_>, cols: usize) -> (Linear, Matrix, Option<Vec<f64>>) {
    let rows = case.cols(150);
    let (weight, matrix) = case.weight(rows, cols);
    if case.random.between(0, 1) == 0 {
        return (Linear { weight, bias: None, activation: None }, matrix, None);
    }
    let (tensor, numbers) = case.host_weight(1, rows);
    let bias = case.device.load_biases(vec![tensor]).expect("a small bias")[0];
    (Linear { weight, bias: Some(bias), activation: None }, matrix, Some(numbers.numbers))
}

fn linear(case: &mut Case<'_>) {
    case.begin_random(20);
    let cols = case.cols(300);
    let (input, rows) = case.input(cols);
    let (linear, weight, bias) = projection(case, cols);
    let expected = reference::linear(&rows, &weight, bias.as_deref());
    let found = case.device.linear(input, linear);
    case.expect(found, &expected);
    let logits = case.device.logits(input, linear);
    assert_eq!(logits.dtype(), Dtype::F32, "{}", case.what);
    case.expect(logits, &expected);
    for activation in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
        let linear = Linear { activation: Some(activation), ..linear };
        let found = case.device.linear(input, linear);
        case.expect(found, &expected.activated(activation));
    }
}

fn linears(case: &mut Case<'_>) {
    case.begin_random(20);
    let cols = case.cols(100);
    let (input, rows) = case.input(cols);
    let widths = [case.cols(50), case.cols(50), case.cols(50)];
    let (tensors, matrices): (Vec<_>, Vec<_>) =
        widths.iter().map(|width| case.host_weight(*width, cols)).unzip();
    let weights = case.device.load_matrices(tensors).expect("small weights");
    let (tensors, biases): (Vec<_>, Vec<_>) =
        widths.iter().map(|width| case.host_weight(1, *width)).unzip();
    let bias_weights = case.device.load_biases(tensors).expect("small biases");
    let has_bias = case.random.between(0, 1) == 1;
    let linear = |index: usize| Linear {
        weight: weights[index],
        bias: has_bias.then_some(bias_weights[index]),
        activation: None,
    };
    let mut outputs = [input; 3];
    case.device.linears(input, &[linear(0), linear(1), linear(2)], &mut outputs);
    for (index, output) in outputs.into_iter().enumerate() {
        let bias = has_bias.then_some(biases[index].numbers.as_slice());
        case.expect(output, &reference::linear(&rows, &matrices[index], bias));
    }
}

/// Made-up weights are the same numbers everywhere, one after the other.
fn make_up(case: &mut Case<'_>) {
    case.begin_random(20);
    let cols = case.cols(100);
    let (input, rows) = case.input(cols);
    let widths = [case.cols(50), case.cols(50)];
    let numbers = MadeUp { seed: case.random.next(), scale: 0.5 };
    let weights = case.device.make_up(&widths, cols, numbers).expect("small weights");
    let linear = |weight| Linear { weight, bias: None, activation: None };
    let mut outputs = [input; 2];
    let linears = [linear(weights[0]), linear(weights[1])];
    case.device.linears(input, &linears, &mut outputs);
    // Single precision has no format of its own for them: it takes bfloat16.
    let is_short = case.subject.dtype != Dtype::F32;
    let rounded = |x: f32| if is_short { x } else { bf16::from_f32(x).to_f32() };
    let len = (widths[0] + widths[1]) * cols;
    let all = numbers.numbers().take(len).map(rounded).collect::<Vec<_>>();
    let (first, second) = all.split_at(widths[0] * cols);
    for (output, numbers) in outputs.into_iter().zip([first, second]) {
        case.expect(output, &reference::linear(&rows, &Matrix::of(numbers, cols), None));
    }
}

/// Both kinds of norms of rows of `cols`, with their references.
fn norms(case: &mut Case<'_>, cols: usize) -> [(Norm, reference::Norm); 2] {
    let (scale, scales) = case.vector(cols);
    let (bias, biases) = case.vector(cols);
    let epsilon = case.random.pick(&[1e-12f32, 1e-5]);
    let expected = |biases| reference::Norm { scales: scales.clone(), biases, epsilon };
    [
        (Norm::Rms { scale, epsilon }, expected(None)),
        (Norm::Layer { scale, bias, epsilon }, expected(Some(biases))),
    ]
}

fn norm(case: &mut Case<'_>) {
    case.begin_random(9);
    let cols = case.cols(200);
    for (norm, expected) in norms(case, cols) {
        let (input, rows) = case.input(cols);
        let found = case.device.norm(input, norm);
        case.expect(found, &expected.of(&rows));
    }
}

fn add_norm(case: &mut Case<'_>) {
    case.begin_random(9);
    let cols = case.cols(200);
    for (norm, expected) in norms(case, cols) {
        let (sum, before) = case.input(cols);
        let (delta, added) = case.input(cols);
        let (normed, _) = case.input(cols);
        case.device.add_norm(delta, Residual { sum, normed }, norm);
        let sums = reference::sum(&before.numbers, &added.numbers);
        case.expect(sum, &sums);
        let sums = Matrix { numbers: sums.values, cols };
        case.expect(normed, &expected.of(&sums));
    }
}

/// A rotation by random angles, and the angles.
fn rope(case: &mut Case<'_>, head_size: usize) -> (Rope, Vec<f32>) {
    let angles = case.numbers(MAX_LEN * head_size / 2);
    let mut table = |function: fn(f32) -> f32| {
        let numbers = angles.iter().map(|angle| function(*angle)).collect();
        case.device.load_vector(numbers).expect("a small table")
    };
    (Rope { cosines: table(f32::cos), sines: table(f32::sin) }, angles)
}

/// A rotation that changes nothing.
fn no_rope(case: &mut Case<'_>, head_size: usize) -> Rope {
    let mut table = |number: f32| {
        let numbers = vec![number; MAX_LEN * head_size / 2];
        case.device.load_vector(numbers).expect("a small table")
    };
    Rope { cosines: table(1.0), sines: table(0.0) }
}

/// Queries change in place; what became of keys and values, attention over them tells.
fn prepare_heads(case: &mut Case<'_>) {
    let (kv, attention) = begin_paged(case);
    let (layer, heads, size) = (attention.layer, attention.heads, kv.head_size);
    let num_tokens = case.random.between(1, MAX_LEN);
    begin_positions(case, kv, &[(0, 0..num_tokens)]);
    let (rope, angles) = rope(case, size);
    let (queries, query_scales) = case.vector(size);
    let (keys, key_scales) = case.vector(size);
    let epsilon = 1e-5;
    let has_norms = case.random.between(0, 1) == 1;
    let norms = has_norms.then_some(HeadNorms { queries, keys, epsilon });
    let (qkv, [q, k, v]) = case.stack([heads.query_cols(), heads.kv_cols(), heads.kv_cols()]);
    case.device.prepare_heads(qkv, HeadPreparation { layer, heads, norms, rope });
    let positions = case.batch.positions.clone();
    let prepared = |rows: Matrix, scales: Vec<f64>| {
        let cols = rows.cols;
        let norm = reference::Norm { scales, biases: None, epsilon };
        let normed = if has_norms { norm.of_heads(&rows) } else { rows };
        let rotated = reference::rope(&normed, &positions, &angles, size);
        (Matrix { numbers: rotated.values.clone(), cols }, rotated)
    };
    let (q, rotated) = prepared(q, query_scales);
    case.expect(qkv[0], &rotated);
    let (k, _) = prepared(k, key_scales);
    let attention = PagedAttention { window: None, ..attention };
    let found = case.device.paged_attention(qkv[0], attention);
    case.expect(found, &reference::attention(&q, [&k, &v], heads, &|query, key| key <= query));
}

fn activate_mul(case: &mut Case<'_>) {
    case.begin_random(20);
    let cols = case.cols(100);
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let ([gate, up], [gates, ups]) = case.stack([cols, cols]);
        let found = case.device.activate_mul(gate, up, activation);
        case.expect(found, &reference::activate_mul(&gates, &ups, activation));
    }
}

fn gather_outputs(case: &mut Case<'_>) {
    case.begin_random(20);
    let cols = case.cols(100);
    let (input, rows) = case.input(cols);
    let found = case.device.gather_outputs(input);
    let wanted = case.batch.output_rows.iter();
    let rows = wanted.flat_map(|row| rows.row(*row as usize).to_vec()).collect::<Vec<_>>();
    case.expect(found, &reference::exact(rows));
}

fn attention(case: &mut Case<'_>) {
    case.begin_random(100);
    let heads = random_heads(case);
    let heads = Heads { num_kv_heads: heads.num_heads, ..heads };
    let (qkv, [q, k, v]) = case.stack([heads.query_cols(); 3]);
    let found = case.device.attention(qkv, heads);
    let starts = case.batch.cu_seqlens_q.clone();
    let sees = |query: usize, key: usize| {
        let sequence_of = |row: usize| starts.partition_point(|start| *start as usize <= row);
        sequence_of(query) == sequence_of(key)
    };
    case.expect(found, &reference::attention(&q, [&k, &v], heads, &sees));
}

fn random_heads(case: &mut Case<'_>) -> Heads {
    let num_kv_heads = case.random.between(1, 3);
    Heads {
        num_heads: num_kv_heads * case.random.between(1, 4),
        num_kv_heads,
        head_size: case.random.pick(case.subject.head_sizes),
    }
}

/// A cache for a case, and the attention over its last layer.
fn begin_paged(case: &mut Case<'_>) -> (KvShape, PagedAttention) {
    let heads = random_heads(case);
    let num_layers = case.random.between(1, 2);
    let block_size = case.random.pick(case.subject.block_sizes);
    let kv = KvShape {
        num_layers,
        num_kv_heads: heads.num_kv_heads,
        head_size: heads.head_size,
        block_size,
        num_blocks: 2 + 2 * MAX_LEN.div_ceil(block_size),
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
fn begin_positions(case: &mut Case<'_>, kv: KvShape, rows: &[(usize, std::ops::Range<usize>)]) {
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

fn paged_attention(case: &mut Case<'_>) {
    let (kv, attention) = begin_paged(case);
    let (layer, heads) = (attention.layer, attention.heads);
    let rope = no_rope(case, heads.head_size);
    let preparation = HeadPreparation { layer, heads, norms: None, rope };
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
        let widths = [heads.query_cols(), heads.kv_cols(), heads.kv_cols()];
        let (qkv, [q, k, v]) = case.stack(widths);
        case.device.prepare_heads(qkv, preparation);
        let mut row = 0;
        for (sequence, positions) in &rows {
            known[*sequence].0.append(&k, row..row + positions.len());
            known[*sequence].1.append(&v, row..row + positions.len());
            row += positions.len();
        }
        last = Some((qkv[0], q, rows));
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
fn copy_blocks(case: &mut Case<'_>) {
    let (kv, attention) = begin_paged(case);
    let heads = attention.heads;
    let rope = no_rope(case, heads.head_size);
    let len = kv.block_size;
    begin_positions(case, kv, &[(0, 0..len)]);
    let (qkv, [_, k, v]) = case.stack([heads.query_cols(), heads.kv_cols(), heads.kv_cols()]);
    for layer in 0..kv.num_layers {
        case.device.prepare_heads(qkv, HeadPreparation { layer, heads, norms: None, rope });
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
    use folio_emulator::test_driver;
    use folio_kernels::cpu::Pool;
    use folio_kernels::cuda::Element;

    use super::*;
    use crate::ops::{CpuDevice, CudaDevice, CudaOptions, Determinism};

    #[test]
    fn the_cpu_conforms() {
        for num_threads in [1, 3] {
            let make = || Box::new(CpuDevice::new(Pool::new(num_threads))) as Box<_>;
            check(Subject {
                make: &make,
                dtype: Dtype::F32,
                tolerance: 2e-6,
                cols_step: 1,
                head_sizes: &[8, 16, 64, 80, 128],
                block_sizes: &[1, 5, 16, 32],
            });
        }
    }

    /// Whatever the number format does to one rounding, an operation rounds four times at most:
    /// the sum of the residual, its norm, the scaled norm, the rotation.
    fn check_cuda(element: Element, determinism: Determinism) {
        let options = CudaOptions { element, determinism, graphs: crate::ops::Graphs::Off };
        let make = || {
            let device = CudaDevice::new(test_driver(), options);
            Box::new(device.expect("a device")) as Box<_>
        };
        let half_unit = match element {
            Element::Bf16 => 1.0 / f64::from(1 << 8),
            Element::F16 => 1.0 / f64::from(1 << 11),
        };
        check(Subject {
            make: &make,
            dtype: options.layout().dtype,
            tolerance: 4.0 * half_unit + 2e-6,
            cols_step: 8,
            head_sizes: &[32, 64, 80, 96, 128],
            block_sizes: &[16, 32],
        });
    }

    #[test]
    fn cuda_conforms_in_bfloat16() {
        check_cuda(Element::Bf16, Determinism::Fast);
    }

    #[test]
    fn cuda_conforms_in_float16() {
        check_cuda(Element::F16, Determinism::Fast);
    }

    #[test]
    fn cuda_conforms_when_results_are_fixed() {
        check_cuda(Element::Bf16, Determinism::Fixed);
    }
}
