//! Norms of heads, rotation and the KV write on the emulated device, bit by bit against plain
//! loops that round where the kernel promises to.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use common::{Random, assert_panics};
use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{DENSE, Matrix, STRIDED, Words, assert_same};
use folio_kernels::cuda::{
    Context, Element, HeadNorms, KvCacheShape, KvSlots, RopeTables, StoreHeads, store_heads,
};

const EPSILON: f32 = 1e-6;
const NUM_POSITIONS: usize = 50;
const NUM_BLOCKS: usize = 6;
/// Blocks of somebody else in front of the cache.
const NUM_OTHERS: usize = 1;

/// Sizes of heads for each width of access, whole and partial groups of lanes.
const HEAD_SIZES: [usize; 12] = [8, 16, 24, 32, 40, 64, 72, 80, 96, 128, 248, 256];

/// Which parts of the kernel take part.
#[derive(Clone, Copy, Debug)]
struct Parts {
    has_norms: bool,
    has_rope: bool,
    has_cache: bool,
}

impl Parts {
    const ALL: Self = Self { has_norms: true, has_rope: true, has_cache: true };

    fn every() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            has_norms: bits & 1 != 0,
            has_rope: bits & 2 != 0,
            has_cache: bits & 4 != 0,
        })
    }
}

/// One step's worth of heads.
#[derive(Clone, Debug)]
struct Case {
    element: Element,
    num_query_heads: usize,
    num_kv_heads: usize,
    head_size: usize,
    qkv: Vec<f32>,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
    positions: Vec<i32>,
    slots: Vec<i32>,
}

/// What a launch left behind: `qkv`, and the whole cache.
struct Outcome {
    qkv: Vec<f32>,
    cache: Vec<f32>,
}

impl Case {
    /// Multiples of 1/8, whose squares single precision sums exactly in any order.
    fn new(element: Element, heads: [usize; 2], head_size: usize, random: &mut Random) -> Self {
        let num_tokens = 2 + random.below(4);
        let [num_query_heads, num_kv_heads] = heads;
        let num = num_tokens * (num_query_heads + 2 * num_kv_heads) * head_size;
        let mut slots: Vec<i32> = (16..NUM_BLOCKS as i32 * 16).collect();
        random.shuffle(&mut slots);
        let angles = random.values(NUM_POSITIONS * head_size / 2);
        Self {
            element,
            num_query_heads,
            num_kv_heads,
            head_size,
            qkv: random.values(num).iter().map(|x| (x * 32.0).round() / 8.0).collect(),
            query_norm: random.values(head_size),
            key_norm: random.values(head_size),
            cosines: angles.iter().map(|x| (x * 3.0).cos()).collect(),
            sines: angles.iter().map(|x| (x * 3.0).sin()).collect(),
            positions: (0..num_tokens).map(|_| random.below(NUM_POSITIONS) as i32).collect(),
            slots: slots[..num_tokens].to_vec(),
        }
    }

    fn num_heads(&self) -> usize {
        self.num_query_heads + 2 * self.num_kv_heads
    }

    /// A layer in the middle of a cache.
    fn cache_shape(&self) -> KvCacheShape {
        KvCacheShape {
            num_layers: 3,
            num_kv_heads: self.num_kv_heads,
            block_size: 16,
            head_size: self.head_size,
        }
    }

    fn run(&self, context: &Context, parts: Parts, layout: cuda_rows::Layout) -> Outcome {
        let cols = self.num_heads() * self.head_size;
        let qkv = Matrix::new(context, self.element, &self.qkv, cols, layout);
        let shape = self.cache_shape();
        let cache_len = (NUM_OTHERS + NUM_BLOCKS) * shape.block_stride();
        let cache = Matrix::empty(context, self.element, [1, cache_len], DENSE);
        let base = cache.view().ptr.offset(NUM_OTHERS * shape.block_bytes());
        let [query, key] = [&self.query_norm, &self.key_norm].map(|x| Words::floats(context, x));
        let [cosines, sines] = [&self.cosines, &self.sines].map(|x| Words::floats(context, x));
        let [positions, slots] = [&self.positions, &self.slots].map(|x| Words::ints(context, x));
        let args = StoreHeads {
            qkv: qkv.view(),
            num_query_heads: self.num_query_heads,
            num_kv_heads: self.num_kv_heads,
            head_size: self.head_size,
            norms: parts.has_norms.then(|| HeadNorms {
                query: query.ptr(),
                key: key.ptr(),
                epsilon: EPSILON,
            }),
            rope: parts.has_rope.then(|| RopeTables {
                cosines: cosines.ptr(),
                sines: sines.ptr(),
                num_positions: NUM_POSITIONS,
                positions: positions.ptr(),
            }),
            kv: parts
                .has_cache
                .then(|| KvSlots { layer: shape.layer(base, 1), slot_mapping: slots.ptr() }),
            element: self.element,
        };
        store_heads(context, args).unwrap();
        Outcome { qkv: qkv.read(context), cache: cache.read(context) }
    }

    /// A query or key head as it leaves the kernel.
    fn turned(&self, parts: Parts, head: &[f32], weight: &[f32], position: i32) -> Vec<f32> {
        let mut head = head.to_vec();
        if parts.has_norms {
            let squares: f32 = head.iter().map(|x| x * x).sum();
            let factor = 1.0 / (squares * (1.0 / self.head_size as f32) + EPSILON).sqrt();
            for (x, weight) in head.iter_mut().zip(weight) {
                *x = round(self.element, round(self.element, *x * factor) * weight);
            }
        }
        let half = self.head_size / 2;
        let (mut cosines, mut sines) = (vec![f32::NAN; half], vec![f32::NAN; half]);
        if let Ok(position) = usize::try_from(position)
            && position < NUM_POSITIONS
        {
            cosines = self.cosines[position * half..][..half].to_vec();
            sines = self.sines[position * half..][..half].to_vec();
        }
        if parts.has_rope {
            for i in 0..half {
                let (x, y) = (head[i], head[i + half]);
                head[i] = round(self.element, x.mul_add(cosines[i], -(y * sines[i])));
                head[i + half] = round(self.element, y.mul_add(cosines[i], x * sines[i]));
            }
        }
        head
    }

    fn expected(&self, parts: Parts) -> Outcome {
        let shape = self.cache_shape();
        let mut qkv = self.qkv.clone();
        let mut cache = vec![f32::NAN; (NUM_OTHERS + NUM_BLOCKS) * shape.block_stride()];
        let size = self.head_size;
        for (index, head) in qkv.chunks_mut(size).enumerate() {
            let (token, number) = (index / self.num_heads(), index % self.num_heads());
            let position = self.positions[token];
            let Some(number) = number.checked_sub(self.num_query_heads) else {
                let queries = self.turned(parts, head, &self.query_norm, position);
                head.copy_from_slice(&queries);
                continue;
            };
            let (half, kv_head) = (number / self.num_kv_heads, number % self.num_kv_heads);
            let result = match half {
                0 => self.turned(parts, head, &self.key_norm, position),
                _ => head.to_vec(),
            };
            if !parts.has_cache {
                head.copy_from_slice(&result);
            } else if let Ok(slot) = usize::try_from(self.slots[token]) {
                let (block, offset) = (NUM_OTHERS + slot / 16, slot % 16);
                let place = ((3 * block + 1) * 2 + half) * self.num_kv_heads + kv_head;
                cache[(place * 16 + offset) * size..][..size].copy_from_slice(&result);
            }
        }
        Outcome { qkv, cache }
    }

    fn check(&self, context: &Context, parts: Parts, layout: cuda_rows::Layout) {
        let actual = self.run(context, parts, layout);
        let expected = self.expected(parts);
        let what = format!(
            "{parts:?} {:?} {} + {} heads of {} {layout:?}",
            self.element, self.num_query_heads, self.num_kv_heads, self.head_size
        );
        assert_same(&actual.qkv, &expected.qkv, &format!("qkv: {what}"));
        assert_same(&actual.cache, &expected.cache, &format!("cache: {what}"));
    }
}

#[test]
fn every_head_size_is_normalised_rotated_and_stored() {
    let context = context();
    let mut random = Random::new(1);
    for head_size in HEAD_SIZES {
        for element in ELEMENTS {
            for (heads, layout) in [([1, 1], DENSE), ([4, 2], STRIDED), ([7, 1], DENSE)] {
                let mut case = Case::new(element, heads, head_size, &mut random);
                case.check(&context, Parts::ALL, layout);
                // One token, as when a single sequence is decoded.
                case.qkv.truncate(case.num_heads() * head_size);
                case.positions.truncate(1);
                case.slots.truncate(1);
                case.check(&context, Parts::ALL, layout);
            }
        }
    }
}

#[test]
fn every_part_may_be_missing() {
    let context = context();
    let mut random = Random::new(2);
    for parts in Parts::every() {
        for head_size in [40, 64] {
            for element in ELEMENTS {
                let case = Case::new(element, [3, 2], head_size, &mut random);
                case.check(&context, parts, STRIDED);
            }
        }
    }
}

#[test]
fn tokens_without_a_slot_are_not_stored() {
    let context = context();
    let mut random = Random::new(3);
    let mut case = Case::new(Element::Bf16, [2, 2], 64, &mut random);
    case.slots.fill(-1);
    case.slots[0] = 35;
    case.check(&context, Parts::ALL, DENSE);
}

#[test]
fn positions_beyond_the_tables_give_nan() {
    let context = context();
    let mut random = Random::new(4);
    for position in [NUM_POSITIONS as i32, -1, i32::MAX, i32::MIN] {
        let mut case = Case::new(Element::F16, [2, 1], 32, &mut random);
        case.positions[0] = position;
        case.check(&context, Parts::ALL, DENSE);
        case.check(&context, Parts { has_cache: false, ..Parts::ALL }, DENSE);
    }
}

#[test]
fn the_last_position_of_large_tables_is_reached() {
    // 2^17 positions of 32 frequencies: a table of 16 MiB.
    let context = context();
    let half = 32;
    let num_positions = 1 << 17;
    let mut cosines = vec![1.0; num_positions * half];
    cosines[(num_positions - 1) * half..].fill(0.0);
    let sines: Vec<f32> = cosines.iter().map(|x| 1.0 - x).collect();
    let values: Vec<f32> = (0..3 * 64).map(|i| i as f32).collect();
    let qkv = Matrix::new(&context, Element::F16, &values, 3 * 64, DENSE);
    let [cosines, sines] = [&cosines, &sines].map(|x| Words::floats(&context, x));
    let positions = Words::ints(&context, &[num_positions as i32 - 1]);
    let args = StoreHeads {
        qkv: qkv.view(),
        num_query_heads: 1,
        num_kv_heads: 1,
        head_size: 64,
        norms: None,
        rope: Some(RopeTables {
            cosines: cosines.ptr(),
            sines: sines.ptr(),
            num_positions,
            positions: positions.ptr(),
        }),
        kv: None,
        element: Element::F16,
    };
    store_heads(&context, args).unwrap();
    let mut expected = values.clone();
    for head in [0, 64] {
        for i in 0..half {
            expected[head + i] = -values[head + half + i];
            expected[head + half + i] = values[head + i];
        }
    }
    assert_same(&qkv.read(&context), &expected, "a quarter turn");
}

#[test]
fn no_tokens_are_no_launch_and_wrong_shapes_a_panic() {
    let context = context();
    let qkv = Matrix::new(&context, Element::Bf16, &[1.0; 128], 64, DENSE);
    let args = |num_query_heads, head_size| StoreHeads {
        qkv: qkv.view(),
        num_query_heads,
        num_kv_heads: 1,
        head_size,
        norms: None,
        rope: None,
        kv: None,
        element: Element::Bf16,
    };
    let mut nothing = args(2, 16);
    nothing.qkv.rows = 0;
    let layer = KvCacheShape { num_layers: 1, num_kv_heads: 1, block_size: 16, head_size: 16 };
    let slot_mapping = Words::ints(&context, &[0]);
    let layer = layer.layer(qkv.view().ptr, 0);
    nothing.kv = Some(KvSlots { layer, slot_mapping: slot_mapping.ptr() });
    store_heads(&context, nothing).unwrap();
    assert_same(&qkv.read(&context), &[1.0; 128], "nothing was to be written");
    assert_panics(&["store_heads", "3 + 2 x 1 heads of 16"], || {
        store_heads(&context, args(3, 16)).unwrap();
    });
    assert_panics(&["store_heads", "head size 12"], || {
        store_heads(&context, args(2, 12)).unwrap();
    });
    let mut other = nothing;
    other.qkv.cols = 32;
    other.head_size = 8;
    assert_panics(&["store_heads", "KvLayer", "1 heads of 8"], || {
        store_heads(&context, other).unwrap();
    });
}
