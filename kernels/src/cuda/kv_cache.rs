//! Where the keys and values of a paged cache lie in device memory.
//!
//! One allocation holds every block; all layers of a block are contiguous, so that copying or
//! swapping a block is one transfer. Within a layer keys come before values, then heads, then
//! positions: the keys of one head of a block are a contiguous `[P, D]` tile. `heads.cu` writes
//! the cache and the attention kernels read it; block 0 is the scratch block, where padding rows
//! write.

use super::context::Element;
use super::driver::DevicePtr;

/// Sizes of a paged cache on the device: `[B, layers, 2, K, P, D]` of 16-bit elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheShape {
    /// Number of layers.
    pub num_layers: usize,
    /// Key/value heads of a layer, K.
    pub num_kv_heads: usize,
    /// Positions of a block, P: a power of two of at least 16.
    pub block_size: usize,
    /// Numbers in a head, D: a multiple of 8.
    pub head_size: usize,
}

impl KvCacheShape {
    /// Elements from the keys of a layer to its values: K x P x D.
    #[must_use]
    pub fn half_layer(&self) -> usize {
        self.num_kv_heads * self.block_size * self.head_size
    }

    /// Elements from one block to the next: layers x 2 x K x P x D.
    #[must_use]
    pub fn block_stride(&self) -> usize {
        self.num_layers * 2 * self.half_layer()
    }

    /// Bytes of one block with all its layers: the unit of copies and swaps.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_stride() * Element::NUM_BYTES
    }

    /// Bytes of a cache of `num_blocks`, the scratch block included.
    #[must_use]
    pub fn cache_bytes(&self, num_blocks: usize) -> usize {
        num_blocks * self.block_bytes()
    }

    /// The part of `layer` in the cache that begins at `base`.
    ///
    /// Panics when there is no such layer, or the sizes are not what kernels can address.
    #[must_use]
    pub fn layer(&self, base: DevicePtr, layer: usize) -> KvLayer {
        assert!(layer < self.num_layers, "kv cache: layer {layer} of {}", self.num_layers);
        assert!(
            self.block_size >= 16 && self.block_size.is_power_of_two(),
            "kv cache: block size {} is not a power of two of at least 16",
            self.block_size
        );
        assert!(
            self.head_size > 0 && self.head_size.is_multiple_of(8),
            "kv cache: head size {} is not a multiple of 8",
            self.head_size
        );
        let keys = base.offset(layer * 2 * self.half_layer() * Element::NUM_BYTES);
        KvLayer {
            keys,
            values: keys.offset(self.half_layer() * Element::NUM_BYTES),
            block_stride: self.block_stride() as i64,
            num_kv_heads: self.num_kv_heads,
            block_size: self.block_size,
            head_size: self.head_size,
        }
    }
}

/// One layer's part of the cache, as kernels are given it.
///
/// Dimension `d` of the key at offset `p` of head `h` in block `b` is element
/// `b * block_stride + (h * P + p) * D + d` from `keys`; the value is as far from `values`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// Address of the keys of block 0.
    pub keys: DevicePtr,
    /// Address of the values of block 0: K x P x D elements after the keys.
    pub values: DevicePtr,
    /// Elements from one block to the next, all layers included.
    pub block_stride: i64,
    /// Key/value heads, K.
    pub num_kv_heads: usize,
    /// Positions of a block, P: a power of two of at least 16.
    pub block_size: usize,
    /// Numbers in a head, D: a multiple of 8.
    pub head_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address that the layout of the whole cache gives an element.
    fn element(shape: &KvCacheShape, index: [usize; 6]) -> usize {
        let sizes = [
            usize::MAX,
            shape.num_layers,
            2,
            shape.num_kv_heads,
            shape.block_size,
            shape.head_size,
        ];
        index.iter().zip(sizes).fold(0, |sum, (&index, size)| {
            assert!(index < size);
            if size == usize::MAX { index } else { sum * size + index }
        })
    }

    #[test]
    fn layers_tile_the_cache() {
        let shape = KvCacheShape { num_layers: 3, num_kv_heads: 2, block_size: 16, head_size: 8 };
        assert_eq!(shape.cache_bytes(5), 5 * 3 * 2 * 2 * 16 * 8 * 2);
        let base = DevicePtr(4096);
        for (block, number, head, offset) in [(0, 0, 0, 0), (4, 2, 1, 15), (2, 1, 0, 7)] {
            let layer = shape.layer(base, number);
            let inside = block * layer.block_stride as usize + (head * 16 + offset) * 8;
            for (half, start) in [layer.keys, layer.values].into_iter().enumerate() {
                let expected = element(&shape, [block, number, half, head, offset, 0]);
                assert_eq!(start.offset(inside * 2), base.offset(expected * 2));
            }
        }
    }
}
