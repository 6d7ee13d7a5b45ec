//! Handles: activations in the step arena and weights on the device.
//!
//! A handle is a few numbers. What it stands for lives in the device, so that model code can pass
//! handles around while the device is borrowed, and so that the same step shape always has the
//! same addresses.

use super::Dtype;

/// A matrix of activations in the step arena, row-major: `[rows, cols]`, `stride` numbers from one
/// row to the next.
///
/// Valid until the arena is rewound below it or the next step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Bytes from the start of the arena.
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
    dtype: Dtype,
}

impl Tensor {
    /// Number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(self) -> usize {
        self.cols
    }

    /// Numbers from the start of one row to the start of the next, at least `cols`.
    #[must_use]
    pub fn stride(self) -> usize {
        self.stride
    }

    /// Format of its numbers: the device's for activations, or single precision.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        self.dtype
    }

    /// Where its first number lies in the arena, in bytes.
    #[must_use]
    pub fn offset(self) -> usize {
        self.offset
    }

    /// Whether rows follow one another without gaps.
    #[must_use]
    pub fn is_dense(self) -> bool {
        self.stride == self.cols || self.rows <= 1
    }

    /// Its first `rows` rows, for what fewer rows go on with.
    #[must_use]
    pub fn first_rows(self, rows: usize) -> Self {
        assert!(rows <= self.rows, "{rows} rows of {self:?}");
        Self { rows, ..self }
    }

    /// Its rows in `range`.
    #[must_use]
    pub fn rows_in(self, range: std::ops::Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows, "rows {range:?} of {self:?}");
        let offset = self.offset + range.start * self.stride * self.dtype.num_bytes();
        Self { offset, rows: range.len(), ..self }
    }

    /// One of its rows.
    #[must_use]
    pub fn row(self, row: usize) -> Self {
        self.rows_in(row..row + 1)
    }

    /// The same rows with `cols` columns, up to where the next row begins.
    #[must_use]
    pub fn with_cols(self, cols: usize) -> Self {
        assert!(cols <= self.stride, "{cols} columns of {self:?}");
        Self { cols, ..self }
    }

    /// Where a dense tensor lies in the arena, in numbers of its format.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        assert!(self.is_dense(), "{self:?} has gaps");
        let start = self.offset / self.dtype.num_bytes();
        start..start + self.rows * self.cols
    }
}

/// How a device lays out activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActivationLayout {
    /// Format of every tensor but logits.
    pub dtype: Dtype,
    /// Where the results of projections of one input lie.
    pub stacking: Stacking,
}

/// Where the results of projections of one input lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacking {
    /// Each on its own.
    Separate,
    /// Side by side in one matrix, of which each is some columns.
    SideBySide,
}

impl ActivationLayout {
    /// That of [`CpuDevice`](super::CpuDevice).
    pub const CPU: Self = Self { dtype: Dtype::F32, stacking: Stacking::Separate };
}

/// The bump allocator of activations: arithmetic only, the memory belongs to the device.
#[derive(Debug)]
pub struct Arena {
    layout: ActivationLayout,
    capacity: usize,
    used: usize,
    peak: usize,
}

/// A height of the arena to come back to.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Mark(usize);

impl Arena {
    /// Tensors start at multiples of this many bytes: one cache line.
    pub const ALIGNMENT: usize = 64;

    /// An arena of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize, layout: ActivationLayout) -> Self {
        Self { layout, capacity, used: 0, peak: 0 }
    }

    /// An arena without an end, to find out how much a step needs.
    #[must_use]
    pub fn unbounded(layout: ActivationLayout) -> Self {
        Self::new(usize::MAX, layout)
    }

    /// Activations `[rows, cols]` of undefined content.
    ///
    /// Panics when the arena is full: its size is planned for the largest step, so that would be
    /// an error of the plan.
    pub fn alloc(&mut self, rows: usize, cols: usize) -> Tensor {
        self.alloc_as(self.layout.dtype, rows, cols)
    }

    /// Like [`alloc`](Self::alloc), in a format of the caller's choice.
    pub fn alloc_as(&mut self, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
        let offset = self.used;
        let num_bytes = rows * cols * dtype.num_bytes();
        let end = offset + num_bytes.next_multiple_of(Self::ALIGNMENT);
        assert!(
            end <= self.capacity,
            "the step arena of {} bytes cannot hold [{rows}, {cols}] of {dtype:?} above {offset}",
            self.capacity
        );
        self.used = end;
        self.peak = self.peak.max(end);
        Tensor { offset, rows, cols, stride: cols, dtype }
    }

    /// One tensor `[rows, width]` for each of `widths`, into `outputs`: side by side or each on
    /// its own, as the layout says.
    pub fn alloc_stack(
        &mut self,
        rows: usize,
        widths: impl Iterator<Item = usize> + Clone,
        outputs: &mut [Tensor],
    ) {
        match self.layout.stacking {
            Stacking::Separate => {
                for (output, width) in outputs.iter_mut().zip(widths) {
                    *output = self.alloc(rows, width);
                }
            }
            Stacking::SideBySide => {
                let all = self.alloc(rows, widths.clone().sum());
                let mut offset = all.offset;
                for (output, cols) in outputs.iter_mut().zip(widths) {
                    *output = Tensor { offset, cols, ..all };
                    offset += cols * all.dtype.num_bytes();
                }
            }
        }
    }

    /// The height now.
    pub fn mark(&self) -> Mark {
        Mark(self.used)
    }

    /// Frees all that was allocated since `mark`.
    pub fn rewind(&mut self, mark: Mark) {
        assert!(mark.0 <= self.used, "{mark:?} is above {}", self.used);
        self.used = mark.0;
    }

    /// Frees everything: a new step begins.
    pub fn reset(&mut self) {
        self.used = 0;
    }

    /// Most bytes that were in use at once.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }
}

/// A weight on the device: a matrix `[rows, cols]`, or a vector `[1, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Which of the device's weights; only the device gives it meaning.
    pub id: u32,
    /// Number of rows: outputs of a projection, entries of a table.
    pub rows: usize,
    /// Number of columns: inputs of a projection, width of an entry.
    pub cols: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_steps_get_equal_addresses_and_layers_reuse_memory() {
        let mut arena = Arena::new(4000, ActivationLayout::CPU);
        let mut layout = || {
            arena.reset();
            let kept = arena.alloc(3, 5);
            let layers = [0; 4].map(|_| {
                let mark = arena.mark();
                let inner = (arena.alloc(3, 7), arena.alloc(2, 100));
                arena.rewind(mark);
                inner
            });
            (kept, layers)
        };
        let first = layout();
        assert_eq!(first, layout());
        assert!(first.1.iter().all(|layer| *layer == first.1[0]));
        assert_eq!(arena.peak(), 64 + 128 + 832);
    }

    #[test]
    #[should_panic(expected = "cannot hold")]
    fn a_full_arena_is_a_broken_plan() {
        Arena::new(256, ActivationLayout::CPU).alloc(5, 13);
    }

    #[test]
    fn a_stack_lies_as_the_device_wants_it() {
        let widths = [6, 2, 2];
        let stack = |layout| {
            let mut arena = Arena::unbounded(layout);
            let mut outputs = [arena.alloc(1, 1); 3];
            arena.alloc_stack(4, widths.into_iter(), &mut outputs);
            (outputs, arena.peak())
        };
        let (separate, _) = stack(ActivationLayout::CPU);
        assert!(separate.iter().all(|tensor| tensor.is_dense()));
        let layout = ActivationLayout { dtype: Dtype::Bf16, stacking: Stacking::SideBySide };
        let (merged, peak) = stack(layout);
        for (tensor, (offset, cols)) in merged.into_iter().zip([(64, 6), (76, 2), (80, 2)]) {
            assert_eq!((tensor.offset(), tensor.cols()), (offset, cols));
            assert_eq!((tensor.rows(), tensor.stride()), (4, 10));
            assert!(!tensor.is_dense() && tensor.first_rows(1).is_dense());
        }
        assert_eq!(peak, 64 + 128);
    }
}
