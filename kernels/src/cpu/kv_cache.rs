//! The paged key/value cache of one layer, and what writes it.
//!
//! Keys of a block lie `[K, D, P]`, positions innermost, so that attention scores 16 positions per
//! vector with no sums across lanes; values lie `[K, P, D]`. Other code treats both as opaque.

use super::output::Output;
use super::pool::Pool;

/// The shape of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Number of blocks B.
    pub num_blocks: usize,
    /// Number of key/value heads K.
    pub num_kv_heads: usize,
    /// Positions per block P. Multiples of 16 are fastest.
    pub block_size: usize,
    /// Head size D.
    pub head_size: usize,
}

impl KvLayout {
    /// Number of `f32` in the key buffer, and as many in the value buffer: B x K x P x D.
    pub fn num_elements(&self) -> usize {
        self.num_blocks * self.block_elements()
    }

    /// Elements of one block in one buffer.
    pub(crate) fn block_elements(&self) -> usize {
        self.num_kv_heads * self.head_elements()
    }

    /// Elements of one head of one block.
    pub(crate) fn head_elements(&self) -> usize {
        self.block_size * self.head_size
    }

    fn check(&self, keys: usize, values: usize) {
        let expected = self.num_elements();
        assert!(
            keys == expected && values == expected,
            "kv cache: buffers of {keys} and {values} elements, expected {expected} for {self:?}"
        );
    }
}

/// One layer's cache, to read.
#[derive(Clone, Copy, Debug)]
pub struct KvCacheRef<'a> {
    pub(crate) layout: KvLayout,
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

impl<'a> KvCacheRef<'a> {
    /// Views two buffers of [`KvLayout::num_elements`] each; panics if they are not that long.
    pub fn new(layout: KvLayout, keys: &'a [f32], values: &'a [f32]) -> Self {
        layout.check(keys.len(), values.len());
        Self { layout, keys, values }
    }
}

/// One layer's cache, to write.
#[derive(Debug)]
pub struct KvCacheMut<'a> {
    layout: KvLayout,
    keys: &'a mut [f32],
    values: &'a mut [f32],
}

impl<'a> KvCacheMut<'a> {
    /// Views two buffers of [`KvLayout::num_elements`] each; panics if they are not that long.
    pub fn new(layout: KvLayout, keys: &'a mut [f32], values: &'a mut [f32]) -> Self {
        layout.check(keys.len(), values.len());
        Self { layout, keys, values }
    }

    /// The same cache, to read.
    pub fn as_ref(&self) -> KvCacheRef<'_> {
        KvCacheRef { layout: self.layout, keys: self.keys, values: self.values }
    }
}

/// Writes the keys and values of T tokens into their slots.
///
/// `k` and `v` are `[T, K, D]`; `slots` is `[T]`, each block number times P plus offset. Of equal
/// slots the last wins. Panics if a slot lies outside the cache.
pub fn store_kv(pool: &Pool, k: &[f32], v: &[f32], slots: &[u32], cache: &mut KvCacheMut<'_>) {
    let layout = cache.layout;
    let KvLayout { num_blocks, num_kv_heads, block_size, head_size } = layout;
    let expected = slots.len() * num_kv_heads * head_size;
    assert!(
        k.len() == expected && v.len() == expected,
        "store_kv: k and v have {} and {} elements, expected T x K x D = {} x {num_kv_heads} x \
         {head_size}",
        k.len(),
        v.len(),
        slots.len()
    );
    let num_slots = num_blocks * block_size;
    for (token, &slot) in slots.iter().enumerate() {
        assert!(
            (slot as usize) < num_slots,
            "store_kv: token {token} has slot {slot}, the cache has {num_slots}"
        );
    }
    let (keys, values) = (Output::new(cache.keys), Output::new(cache.values));
    // By heads, not tokens: equal slots then meet in one thread.
    pool.run_ranges(num_kv_heads, 4 * slots.len() * head_size, &|first, last| {
        for (token, &slot) in slots.iter().enumerate() {
            let (block, offset) = (slot as usize / block_size, slot as usize % block_size);
            for head in first..last {
                let source = (token * num_kv_heads + head) * head_size;
                let target = (block * num_kv_heads + head) * layout.head_elements();
                // SAFETY: each task has heads of its own.
                let (keys, values) = unsafe {
                    let end = target + layout.head_elements();
                    (keys.part(target, end), values.part(target, end))
                };
                let k = &k[source..source + head_size];
                for (&value, place) in k.iter().zip(keys[offset..].iter_mut().step_by(block_size)) {
                    *place = value;
                }
                let row = offset * head_size;
                values[row..row + head_size].copy_from_slice(&v[source..source + head_size]);
            }
        }
    });
}

/// Copies block `source` over block `target`, all heads: the copy of copy-on-write.
///
/// Panics if either lies outside the cache.
pub fn copy_block(cache: &mut KvCacheMut<'_>, source: u32, target: u32) {
    let (source, target) = (source as usize, target as usize);
    let num_blocks = cache.layout.num_blocks;
    assert!(
        source < num_blocks && target < num_blocks,
        "copy_block: from {source} to {target}, the cache has {num_blocks} blocks"
    );
    let size = cache.layout.block_elements();
    for buffer in [&mut *cache.keys, &mut *cache.values] {
        buffer.copy_within(source * size..(source + 1) * size, target * size);
    }
}
