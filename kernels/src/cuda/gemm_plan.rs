//! Which kernel multiplies a shape, and in what grid: a small model of what each would cost.
//!
//! Everything here follows from sizes that the host knows, so a launch can be captured. The figures
//! of the model are cycles of an H100 derived from its data sheet and from the kernels' machine
//! code; they decide between our own kernels only, never what a kernel computes.

use super::context::Element;
use super::driver::Device;

/// What a matrix product may do for speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GemmMode {
    /// The fastest kernel for the shape; a row's last bits may depend on the number of rows.
    Fast,
    /// A row's bits are the same whatever other rows there are, and how many.
    Deterministic,
}

/// Sizes of a matrix product: `[rows, inner]` times the transpose of `[cols, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GemmShape {
    /// Rows of input and output, M.
    pub rows: usize,
    /// Columns of the output, N.
    pub cols: usize,
    /// Columns of input and weight, K.
    pub inner: usize,
}

/// How the work is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GemmWork {
    /// A block a tile of the output, over all of K.
    Tiles {
        /// Tiles along the rows.
        num_row_tiles: usize,
        /// Tiles along the columns.
        num_col_tiles: usize,
    },
    /// A list of units (rows of the weight by a stretch of K), and an equal run of it a block.
    Units {
        /// Units of a tile of the output.
        per_tile: usize,
        /// Units of a block.
        per_block: usize,
        /// Units of all tiles.
        total: usize,
    },
}

/// A kernel for a shape, and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GemmPlan {
    /// What it multiplies.
    pub shape: GemmShape,
    /// The kernel's name, less the number format.
    pub kernel: &'static str,
    /// How the work is cut up.
    pub work: GemmWork,
    /// Blocks of the grid.
    pub num_blocks: usize,
    /// Threads of a block.
    pub num_threads: usize,
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: usize,
    /// What the model expects it to take, in cycles of an H100.
    pub cycles: u64,
}

/// Blocks of a `gemm_small` grid are at most this many a multiprocessor.
pub(super) const STREAM_BLOCKS_PER_MULTIPROCESSOR: usize = 1;

/// Bytes of the largest tile of sums that a block of `gemm_small` may leave to another.
pub(super) const MAX_PARTIAL_BYTES: usize = 64 * 128 * 4;

/// Bytes a cycle that memory gives to all of an H100's multiprocessors together (3.0 TB/s).
const MEMORY_BYTES_PER_CYCLE: u64 = 1710;
/// Bytes a cycle that one multiprocessor draws from the L2 cache with 48 KB under way, at most.
const MULTIPROCESSOR_BYTES_PER_CYCLE: u64 = 20;
/// Cycles until the first numbers of a block are there, and from its last sums to its end.
const FILL_CYCLES: u64 = 1200;
/// Cycles until the last block of a tile knows that it is the last: stores reach the L2 cache, an
/// atomic goes there and back, the others' sums come.
const SPLIT_CYCLES: u64 = 2200;
/// Bytes a cycle at which it then reads what the others left.
const PARTIAL_BYTES_PER_CYCLE: u64 = 30;

/// Columns of K in a step of the tile kernels.
const TILE_INNER: usize = 64;

/// One of the tile kernels of `gemm.cu`.
struct TileKernel {
    name: &'static str,
    rows: usize,
    cols: usize,
    num_threads: usize,
    num_stages: usize,
    /// Blocks that a multiprocessor holds.
    residents: u64,
    /// Cycles of a multiprocessor for a step of 64 columns: the most of tensor cores, shared memory
    /// and its share of the L2 cache.
    busy: u64,
    /// Cycles of such a step for a block that has the multiprocessor to itself.
    alone: u64,
}

/// Every one of them adds up K in the same order, 16 columns at a time from the first to the last,
/// with the same instruction; which one is chosen changes no bit.
const TILE_KERNELS: [TileKernel; 4] = [
    TileKernel {
        name: "gemm_128x256",
        rows: 128,
        cols: 256,
        num_threads: 256,
        num_stages: 3,
        residents: 1,
        busy: 1640,
        alone: 1700,
    },
    TileKernel {
        name: "gemm_128x128",
        rows: 128,
        cols: 128,
        num_threads: 128,
        num_stages: 3,
        residents: 2,
        busy: 1090,
        alone: 1090,
    },
    TileKernel {
        name: "gemm_64x64",
        rows: 64,
        cols: 64,
        num_threads: 128,
        num_stages: 4,
        residents: 3,
        busy: 546,
        alone: 560,
    },
    TileKernel {
        name: "gemm_16x32",
        rows: 16,
        cols: 32,
        num_threads: 64,
        num_stages: 10,
        residents: 3,
        busy: 205,
        alone: 280,
    },
];

impl TileKernel {
    fn plan(&self, shape: GemmShape, num_multiprocessors: u64) -> GemmPlan {
        let num_row_tiles = shape.rows.div_ceil(self.rows);
        let num_col_tiles = shape.cols.div_ceil(self.cols);
        let num_blocks = num_row_tiles * num_col_tiles;
        let num_steps = shape.inner.div_ceil(TILE_INNER) as u64;
        let per_multiprocessor = (num_blocks as u64).div_ceil(num_multiprocessors);
        let waves = (num_blocks as u64).div_ceil(num_multiprocessors * self.residents);
        let weight_bytes = (num_col_tiles * self.cols * shape.inner * Element::NUM_BYTES) as u64;
        let work = num_steps * (per_multiprocessor * self.busy).max(waves * self.alone);
        GemmPlan {
            shape,
            kernel: self.name,
            work: GemmWork::Tiles { num_row_tiles, num_col_tiles },
            num_blocks,
            num_threads: self.num_threads,
            shared_bytes: self.num_stages * (self.rows + self.cols) * TILE_INNER * 2,
            cycles: work.max(weight_bytes / MEMORY_BYTES_PER_CYCLE)
                + waves * FILL_CYCLES
                + input_cycles(num_col_tiles, num_row_tiles * self.rows, shape),
        }
    }
}

/// One of the kernels of `gemm_small.cu`.
struct StreamKernel {
    name: &'static str,
    /// Rows of x that fit.
    rows: usize,
    /// Rows of the weight in a unit, columns of a tile of the output.
    tile: usize,
    /// Columns of K in a unit.
    unit: usize,
}

const STREAM_KERNELS: [StreamKernel; 8] = [
    StreamKernel { name: "gemm_small_8x16", rows: 8, tile: 16, unit: 512 },
    StreamKernel { name: "gemm_small_8x32", rows: 8, tile: 32, unit: 256 },
    StreamKernel { name: "gemm_small_8x64", rows: 8, tile: 64, unit: 128 },
    StreamKernel { name: "gemm_small_16x32", rows: 16, tile: 32, unit: 256 },
    StreamKernel { name: "gemm_small_16x64", rows: 16, tile: 64, unit: 128 },
    StreamKernel { name: "gemm_small_32x64", rows: 32, tile: 64, unit: 128 },
    StreamKernel { name: "gemm_small_32x128", rows: 32, tile: 128, unit: 64 },
    StreamKernel { name: "gemm_small_64x128", rows: 64, tile: 128, unit: 64 },
];

/// What reading `rows` of x for every tile of columns costs: an eighth of its time at 5.5 TB/s, as
/// it comes from the L2 cache beside all else.
fn input_cycles(num_col_tiles: usize, rows: usize, shape: GemmShape) -> u64 {
    (num_col_tiles * rows * shape.inner * Element::NUM_BYTES) as u64 / (8 * 3134)
}

impl StreamKernel {
    fn stage_bytes(&self) -> usize {
        (self.tile + self.rows) * self.unit * 2
    }

    /// The plan with runs of `per_block` units.
    fn plan(&self, shape: GemmShape, per_block: usize) -> GemmPlan {
        let per_tile = shape.inner.div_ceil(self.unit);
        let total = shape.cols.div_ceil(self.tile) * per_tile;
        let num_blocks = total.div_ceil(per_block);
        let weight_bytes = (total * self.tile * self.unit * 2) as u64;
        let run = (per_block * self.stage_bytes()) as u64 / MULTIPROCESSOR_BYTES_PER_CYCLE;
        let split = if per_block.is_multiple_of(per_tile) {
            0
        } else {
            let parts = per_tile.div_ceil(per_block) + 1;
            let bytes = (parts * self.rows * self.tile * 4) as u64;
            SPLIT_CYCLES + bytes / PARTIAL_BYTES_PER_CYCLE
        };
        GemmPlan {
            shape,
            kernel: self.name,
            work: GemmWork::Units { per_tile, per_block, total },
            num_blocks,
            num_threads: 256,
            shared_bytes: 4 * self.stage_bytes() + 16,
            cycles: run.max(weight_bytes / MEMORY_BYTES_PER_CYCLE)
                + FILL_CYCLES
                + split
                + input_cycles(total / per_tile, self.rows, shape),
        }
    }

    /// The better of equal runs for every multiprocessor and of whole tiles.
    fn best_plan(&self, shape: GemmShape, num_multiprocessors: usize) -> GemmPlan {
        let per_tile = shape.inner.div_ceil(self.unit);
        let num_tiles = shape.cols.div_ceil(self.tile);
        let num_blocks = num_multiprocessors * STREAM_BLOCKS_PER_MULTIPROCESSOR;
        let equal = self.plan(shape, (num_tiles * per_tile).div_ceil(num_blocks));
        let whole = self.plan(shape, num_tiles.div_ceil(num_blocks) * per_tile);
        if whole.cycles <= equal.cycles { whole } else { equal }
    }
}

/// Every way in which our kernels can multiply `shape` on `device`, for tests and for timing. All
/// sizes are at least 1.
///
/// The mode counts for small numbers of rows only: `gemm_small` adds up K in another order than the
/// tile kernels do, so a product that must not depend on the number of rows keeps to tiles.
pub fn gemm_plans(
    device: &Device,
    shape: GemmShape,
    mode: GemmMode,
) -> impl Iterator<Item = GemmPlan> {
    let num_multiprocessors = device.num_multiprocessors.max(1) as usize;
    let max_shared_bytes = device.max_shared_bytes as usize;
    let streams = STREAM_KERNELS
        .iter()
        .filter(move |kernel| mode == GemmMode::Fast && shape.rows <= kernel.rows)
        .map(move |kernel| kernel.best_plan(shape, num_multiprocessors));
    let tiles =
        TILE_KERNELS.iter().map(move |kernel| kernel.plan(shape, num_multiprocessors as u64));
    streams.chain(tiles).filter(move |plan| plan.shared_bytes <= max_shared_bytes)
}

/// Which of our kernels multiplies `shape` on `device`: the one that the model takes for the
/// fastest, and on a device too small for all of them the one that asks for least.
#[must_use]
pub fn plan_gemm(device: &Device, shape: GemmShape, mode: GemmMode) -> GemmPlan {
    let smallest = || TILE_KERNELS[3].plan(shape, u64::from(device.num_multiprocessors.max(1)));
    gemm_plans(device, shape, mode).min_by_key(|plan| plan.cycles).unwrap_or_else(smallest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device with as many multiprocessors and as much shared memory a block as an H100.
    fn hopper() -> Device {
        Device {
            name: "H100".to_owned(),
            capability: (9, 0),
            num_multiprocessors: 132,
            max_shared_bytes: 227 << 10,
        }
    }

    fn shape(rows: usize, cols: usize, inner: usize) -> GemmShape {
        GemmShape { rows, cols, inner }
    }

    #[test]
    fn few_rows_are_expected_at_the_pace_of_memory_and_many_in_large_tiles() {
        for (cols, inner) in [(6144, 4096), (4096, 14336), (28672, 4096), (128_256, 4096)] {
            let floor = (cols * inner * 2) as u64 / MEMORY_BYTES_PER_CYCLE;
            for rows in [1, 8, 9, 16, 17, 32] {
                let plan = plan_gemm(&hopper(), shape(rows, cols, inner), GemmMode::Fast);
                assert!(plan.cycles * 4 <= floor * 5, "{plan:?}, floor {floor}");
                assert!(rows > 8 || plan.kernel.starts_with("gemm_small"), "{plan:?}");
            }
            let plan = plan_gemm(&hopper(), shape(2048, cols, inner), GemmMode::Fast);
            assert_eq!(plan.kernel, "gemm_128x256", "{plan:?}");
        }
    }

    #[test]
    fn deterministic_products_keep_to_tiles() {
        for rows in [1, 16, 64, 65, 300] {
            let plan = plan_gemm(&hopper(), shape(rows, 4096, 4096), GemmMode::Deterministic);
            assert!(matches!(plan.work, GemmWork::Tiles { .. }), "{plan:?}");
        }
    }

    #[test]
    fn a_plan_covers_the_output_and_its_shared_memory_exists() {
        let small = Device { max_shared_bytes: 99 << 10, ..hopper() };
        let tiny = Device { max_shared_bytes: 48 << 10, num_multiprocessors: 1, ..hopper() };
        for device in [hopper(), small, tiny] {
            for rows in [1, 12, 50, 100, 1000] {
                for plan in gemm_plans(&device, shape(rows, 1000, 1000), GemmMode::Fast) {
                    assert!(plan.shared_bytes <= device.max_shared_bytes as usize, "{plan:?}");
                    match plan.work {
                        GemmWork::Tiles { num_row_tiles, num_col_tiles } => {
                            assert_eq!(plan.num_blocks, num_row_tiles * num_col_tiles);
                        }
                        GemmWork::Units { per_block, total, per_tile } => {
                            assert!(total.is_multiple_of(per_tile), "{plan:?}");
                            assert!((plan.num_blocks - 1) * per_block < total, "{plan:?}");
                            assert!(plan.num_blocks * per_block >= total, "{plan:?}");
                        }
                    }
                }
            }
        }
    }
}
