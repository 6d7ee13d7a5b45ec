//! `linear`: activations times the transpose of a weight matrix.
//!
//! An output is a dot product over K, cut into chunks of [`CHUNK`]; inside a chunk each vector lane
//! sums its own positions in order, the lanes are added by a fixed tree, and the chunk sums are
//! added in order. That order involves nothing but K, so a row never depends on the rows beside it.
//! Tiles of several rows by three or four weight rows share loads; weights are widened in registers
//! and never packed.

use std::cmp::min;

use super::matrix::{Matrix, WeightDtype};
use super::output::Output;
use super::pool::Pool;
use super::simd::{Kernel, MAX_LANES, Simd, dispatch};

/// Positions of K summed before the lanes are folded; a multiple of every lane count. 512 and 768
/// fold more often than their smaller share of the first-level cache repays.
const CHUNK: usize = 1024;
/// A number of weight rows that every width of register tile divides.
const TILE_STEP: usize = 12;
/// Activation rows per task: more would push its activations out of the second-level cache.
const TASK_ROWS: usize = 96;

/// `out = x w^T + bias`, accumulated in f32.
///
/// `x` is `[M, K]`, `w` is `[N, K]`, `bias` is `[N]`, `out` is `[M, N]`; M is taken from `x` and
/// may be zero. Bit-identical for a row of `x` whatever M, the other rows and the number of
/// threads. Panics if the sizes do not agree.
///
/// Streams the weights once per `TASK_ROWS` rows; below about ten rows it runs at memory speed.
pub fn linear(pool: &Pool, x: &[f32], w: &Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
    let (num_outputs, num_inputs) = (w.rows(), w.cols());
    let num_rows = x.len() / num_inputs;
    assert!(
        x.len() == num_rows * num_inputs,
        "linear: x has {} elements, not a multiple of K = {num_inputs}",
        x.len()
    );
    assert!(
        out.len() == num_rows * num_outputs,
        "linear: out has {} elements, expected M x N = {num_rows} x {num_outputs}",
        out.len()
    );
    if let Some(bias) = bias {
        assert!(
            bias.len() == num_outputs,
            "linear: bias has {} elements, expected N = {num_outputs}",
            bias.len()
        );
    }
    if out.is_empty() {
        return;
    }
    let args = Args {
        x: x.as_ptr(),
        w: w.data().as_ptr(),
        bias: bias.map(<[f32]>::as_ptr),
        out: Output::new(out).at(0),
        num_inputs,
        num_outputs,
        row_bytes: w.row_bytes(),
    };
    run_tasks(pool, args, num_rows, w.dtype());
}

/// Cuts the output into tasks and runs them.
fn run_tasks(pool: &Pool, args: Args, num_rows: usize, dtype: WeightDtype) {
    /// Bytes of weights below which a task is not worth its hand-over: three microseconds.
    const MIN_TASK_BYTES: usize = 1 << 16;
    /// Multiply-adds below which the same holds for several rows.
    const MIN_TASK_WORK: usize = 1 << 17;
    /// Weight rows that a task goes through for each group of activation rows: more would push its
    /// chunks of weights out of the second-level cache.
    const MAX_TASK_COLS: usize = 96;
    /// Tasks per thread: enough that a thread which loses its core does not hold up the rest.
    const TASKS_PER_THREAD: usize = 4;
    let row_groups = num_rows.div_ceil(TASK_ROWS);
    let rows_per_task = num_rows.div_ceil(row_groups);
    let by_bytes = MIN_TASK_BYTES.div_ceil(args.row_bytes);
    let by_work = MIN_TASK_WORK.div_ceil(args.num_inputs * rows_per_task);
    let by_threads =
        (args.num_outputs * row_groups).div_ceil(pool.num_threads() * TASKS_PER_THREAD);
    let cols_per_task = by_threads.min(MAX_TASK_COLS).max(by_bytes.min(by_work));
    let cols_per_task = cols_per_task.next_multiple_of(TILE_STEP);
    let col_groups = args.num_outputs.div_ceil(cols_per_task);
    let isa = pool.isa();
    pool.run(row_groups * col_groups, &|index| {
        let (row_group, col_group) = (index / col_groups, index % col_groups);
        let first_row = row_group * rows_per_task;
        let first_col = col_group * cols_per_task;
        let block = Block {
            args,
            first_row,
            num_rows: rows_per_task.min(num_rows - first_row),
            first_col,
            num_cols: cols_per_task.min(args.num_outputs - first_col),
        };
        // SAFETY: `linear` checked the sizes behind the pointers, the blocks are disjoint, and the
        // pool's instruction set is available.
        unsafe {
            match dtype {
                WeightDtype::F32 => dispatch(isa, Typed::<0>(block)),
                WeightDtype::Bf16 => dispatch(isa, Typed::<1>(block)),
                WeightDtype::F16 => dispatch(isa, Typed::<2>(block)),
            }
        }
    });
}

/// The operands, with checked sizes.
#[derive(Clone, Copy)]
struct Args {
    x: *const f32,
    w: *const u8,
    bias: Option<*const f32>,
    out: *mut f32,
    num_inputs: usize,
    num_outputs: usize,
    row_bytes: usize,
}

// SAFETY: the pointers are to borrowed slices that outlive the job; `out` is written in disjoint
// blocks.
unsafe impl Send for Args {}
// SAFETY: as above.
unsafe impl Sync for Args {}

/// The part of the output that one task computes.
#[derive(Clone, Copy)]
struct Block {
    args: Args,
    first_row: usize,
    num_rows: usize,
    first_col: usize,
    num_cols: usize,
}

impl Block {
    /// Sets the outputs to the bias, or to zero.
    ///
    /// # Safety
    /// The block must lie inside the operands.
    unsafe fn start(&self) {
        for row in self.first_row..self.first_row + self.num_rows {
            // SAFETY: as the caller's.
            unsafe {
                let out = self.args.out.add(row * self.args.num_outputs + self.first_col);
                match self.args.bias {
                    Some(bias) => out.copy_from(bias.add(self.first_col), self.num_cols),
                    None => out.write_bytes(0, self.num_cols),
                }
            }
        }
    }
}

/// A block whose weights have a format known at compile time: 0 f32, 1 bf16, 2 f16.
struct Typed<const DTYPE: u8>(Block);

impl<const DTYPE: u8> Typed<DTYPE> {
    const NUM_BYTES: usize = if DTYPE == 0 { 4 } else { 2 };

    #[inline(always)]
    unsafe fn load<S: Simd>(source: *const u8) -> S::V {
        // SAFETY: as the caller's.
        unsafe {
            match DTYPE {
                0 => S::load(source.cast()),
                1 => S::load_bf16(source),
                _ => S::load_f16(source),
            }
        }
    }

    /// `len < S::LANES` weights, the other lanes zero.
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(source: *const u8, len: usize) -> S::V {
        let mut lanes = [0u8; MAX_LANES * 4];
        // SAFETY: as the caller's; the buffer holds the widest vector.
        unsafe {
            std::ptr::copy_nonoverlapping(source, lanes.as_mut_ptr(), len * Self::NUM_BYTES);
            Self::load::<S>(lanes.as_ptr())
        }
    }

    /// One vector of positions of [`Self::tile`].
    #[inline(always)]
    unsafe fn step<S: Simd, const ROWS: usize, const COLS: usize>(
        sums: &mut [[S::V; COLS]; ROWS],
        x: &[*const f32; ROWS],
        w: &[*const u8; COLS],
        k: usize,
    ) {
        // SAFETY: as the caller's.
        unsafe {
            let mut weights = [S::splat(0.0); COLS];
            for j in 0..COLS {
                weights[j] = Self::load::<S>(w[j].add(k * Self::NUM_BYTES));
            }
            for i in 0..ROWS {
                let value = S::load(x[i].add(k));
                for j in 0..COLS {
                    sums[i][j] = S::fma(value, weights[j], sums[i][j]);
                }
            }
        }
    }

    /// Sums of one chunk for `ROWS` rows from `x` by `COLS` weight rows from `w`.
    #[inline(always)]
    unsafe fn tile<S: Simd, const ROWS: usize, const COLS: usize>(
        args: &Args,
        x: *const f32,
        w: *const u8,
        len: usize,
    ) -> [[S::V; COLS]; ROWS] {
        // SAFETY: rows and columns lie inside the operands by the caller's promise.
        unsafe {
            let ahead = COLS * args.row_bytes;
            let mut sums = [[S::splat(0.0); COLS]; ROWS];
            // Addresses by `from_fn`: written as loops they make the six-row tile a fifth slower.
            let x: [*const f32; ROWS] = std::array::from_fn(|i| x.add(i * args.num_inputs));
            let w: [*const u8; COLS] = std::array::from_fn(|j| w.add(j * args.row_bytes));
            let mut k = 0;
            // Two steps at once, so that each line of weights is asked for once: for the tile that
            // comes next, and into the second-level cache, whose many outstanding lines reach the
            // memory's full speed (21.9 GB/s of 22 to 25; near prefetches into the first level stop
            // at 15).
            while k + 2 * S::LANES <= len {
                for w in w {
                    S::prefetch(w.wrapping_add(k * Self::NUM_BYTES + ahead));
                }
                Self::step::<S, ROWS, COLS>(&mut sums, &x, &w, k);
                Self::step::<S, ROWS, COLS>(&mut sums, &x, &w, k + S::LANES);
                k += 2 * S::LANES;
            }
            if k + S::LANES <= len {
                Self::step::<S, ROWS, COLS>(&mut sums, &x, &w, k);
                k += S::LANES;
            }
            if k < len {
                for j in 0..COLS {
                    let weight = Self::load_partial::<S>(w[j].add(k * Self::NUM_BYTES), len - k);
                    for i in 0..ROWS {
                        let value = S::load_partial(x[i].add(k), len - k);
                        sums[i][j] = S::fma(value, weight, sums[i][j]);
                    }
                }
            }
            sums
        }
    }

    /// One chunk of `ROWS` rows for some columns, in tiles of `COLS` columns.
    #[inline(always)]
    unsafe fn rows<S: Simd, const ROWS: usize, const COLS: usize>(
        block: &Block,
        row: usize,
        cols: Cols,
        k: usize,
    ) {
        // SAFETY: inside the block by the caller's promise.
        unsafe {
            let mut col = cols.first;
            while col + COLS <= cols.last {
                Self::put::<S, ROWS, COLS>(&block.args, row, col, k);
                col += COLS;
            }
            while col < cols.last {
                Self::put::<S, ROWS, 1>(&block.args, row, col, k);
                col += 1;
            }
        }
    }

    /// Computes one tile, folds its lanes and adds the sums to the output.
    #[inline(always)]
    unsafe fn put<S: Simd, const ROWS: usize, const COLS: usize>(
        args: &Args,
        row: usize,
        col: usize,
        k: usize,
    ) {
        let len = CHUNK.min(args.num_inputs - k);
        // SAFETY: inside the block by the caller's promise.
        unsafe {
            let x = args.x.add(row * args.num_inputs + k);
            let w = args.w.add(col * args.row_bytes + k * Self::NUM_BYTES);
            let sums = fold::<S, ROWS, COLS>(&Self::tile::<S, ROWS, COLS>(args, x, w, len));
            let out = args.out.add(row * args.num_outputs + col);
            for i in 0..ROWS {
                for j in 0..COLS {
                    *out.add(i * args.num_outputs + j) += sums[i][j];
                }
            }
        }
    }

    /// [`Self::rows`] for a number of rows known at run time, at most [`max_rows`], with the widest
    /// tile that leaves registers for the operands.
    #[inline(always)]
    unsafe fn some_rows<S: Simd>(block: &Block, rows: (usize, usize), cols: Cols, k: usize) {
        let (row, num_rows) = rows;
        // SAFETY: as the caller's.
        unsafe {
            match (num_rows, tile_cols::<S>(num_rows)) {
                (1, _) => Self::rows::<S, 1, 4>(block, row, cols, k),
                (2, _) => Self::rows::<S, 2, 4>(block, row, cols, k),
                (3, 4) => Self::rows::<S, 3, 4>(block, row, cols, k),
                (3, _) => Self::rows::<S, 3, 3>(block, row, cols, k),
                (4, 4) => Self::rows::<S, 4, 4>(block, row, cols, k),
                (4, _) => Self::rows::<S, 4, 3>(block, row, cols, k),
                (5, _) => Self::rows::<S, 5, 4>(block, row, cols, k),
                _ => Self::rows::<S, 6, 4>(block, row, cols, k),
            }
        }
    }
}

/// Folds the lanes of a tile's sums, four vectors at a time along rows or columns: either way a sum
/// is folded in the same order.
#[inline(always)]
unsafe fn fold<S: Simd, const ROWS: usize, const COLS: usize>(
    sums: &[[S::V; COLS]; ROWS],
) -> [[f32; COLS]; ROWS] {
    let mut folded = [[0.0; COLS]; ROWS];
    // Closures and iterators are left out here: not inlined, they would pass vectors through
    // memory. SAFETY: the instruction set is the caller's.
    unsafe {
        if COLS == 4 {
            for i in 0..ROWS {
                let row = sums[i];
                let four = [row[0], row[1 % COLS], row[2 % COLS], row[3 % COLS]];
                let four = S::reduce_add4(four);
                folded[i][..COLS].copy_from_slice(&four[..COLS]);
            }
        } else {
            for j in 0..COLS {
                let mut i = 0;
                while i < ROWS {
                    let last = ROWS - 1;
                    let low = [sums[i][j], sums[min(i + 1, last)][j]];
                    let high = [sums[min(i + 2, last)][j], sums[min(i + 3, last)][j]];
                    let four = S::reduce_add4([low[0], low[1], high[0], high[1]]);
                    for n in 0..min(4, ROWS - i) {
                        folded[i + n][j] = four[n];
                    }
                    i += 4;
                }
            }
        }
    }
    folded
}

/// Rows of the tallest register tile.
const fn max_rows<S: Simd>() -> usize {
    if S::NUM_REGISTERS >= 32 { 6 } else { 4 }
}

/// Columns of the register tile for a number of rows.
const fn tile_cols<S: Simd>(num_rows: usize) -> usize {
    let widest = if S::NUM_REGISTERS >= 32 { 6 } else { 2 };
    if num_rows <= widest { 4 } else { 3 }
}

/// A range of columns of the output.
#[derive(Clone, Copy)]
struct Cols {
    first: usize,
    last: usize,
}

impl<const DTYPE: u8> Kernel for Typed<DTYPE> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let block = self.0;
        // SAFETY: inside the block.
        unsafe { block.start() };
        let num_groups = block.num_rows.div_ceil(max_rows::<S>());
        let last_col = block.first_col + block.num_cols;
        // With one group of rows the weights are used once: follow each row to its end. With more,
        // finish a chunk for all, so that its weights stay in the cache.
        let col_step =
            if num_groups == 1 { tile_cols::<S>(block.num_rows) } else { block.num_cols };
        let mut first = block.first_col;
        while first < last_col {
            let cols = Cols { first, last: last_col.min(first + col_step) };
            for k in (0..block.args.num_inputs).step_by(CHUNK) {
                for group in 0..num_groups {
                    let begin = group * block.num_rows / num_groups;
                    let end = (group + 1) * block.num_rows / num_groups;
                    let rows = (block.first_row + begin, end - begin);
                    // SAFETY: inside the block.
                    unsafe { Self::some_rows::<S>(&block, rows, cols, k) };
                }
            }
            first += col_step;
        }
    }
}
