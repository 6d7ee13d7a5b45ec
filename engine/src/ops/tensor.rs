//! Handles: activations in the step arena and weights on the device.
//!
//! A handle is a few numbers. What it stands for lives in the device, so that model code can pass
//! handles around while the device is borrowed, and so that the same step shape always has the
//! same addresses.

/// A matrix of f32 activations in the step arena, row-major and dense: `[rows, cols]`.
///
/// Valid until the arena is rewound below it or the next step begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tensor {
    offset: usize,
    rows: usize,
    cols: usize,
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

    /// The same numbers as rows of `cols`, which must divide them evenly.
    #[must_use]
    pub fn with_cols(self, cols: usize) -> Self {
        let len = self.rows * self.cols;
        assert!(cols > 0 && len.is_multiple_of(cols), "{self:?} as rows of {cols}");
        Self { offset: self.offset, rows: len / cols, cols }
    }

    /// Where its numbers lie in the arena, in floats.
    #[must_use]
    pub fn range(self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.rows * self.cols
    }
}

/// The bump allocator of activations: arithmetic only, the memory belongs to the device.
#[derive(Debug, Default)]
pub struct Arena {
    capacity: usize,
    used: usize,
    peak: usize,
}

/// A height of the arena to come back to.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Mark(usize);

impl Arena {
    /// Tensors start at multiples of this many floats: one cache line.
    const ALIGNMENT: usize = 16;

    /// An arena of `capacity` floats.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, used: 0, peak: 0 }
    }

    /// An arena without an end, to find out how much a step needs.
    #[must_use]
    pub fn unbounded() -> Self {
        Self::new(usize::MAX)
    }

    /// A tensor `[rows, cols]` of undefined content.
    ///
    /// Panics when the arena is full: its size is planned for the largest step, so that would be
    /// an error of the plan.
    pub fn alloc(&mut self, rows: usize, cols: usize) -> Tensor {
        let offset = self.used;
        let end = offset + (rows * cols).next_multiple_of(Self::ALIGNMENT);
        assert!(
            end <= self.capacity,
            "the step arena of {} floats cannot hold [{rows}, {cols}] above {offset}",
            self.capacity
        );
        self.used = end;
        self.peak = self.peak.max(end);
        Tensor { offset, rows, cols }
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

    /// Most floats that were in use at once.
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
        let mut arena = Arena::new(1000);
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
        assert_eq!(arena.peak(), 16 + 32 + 208);
    }

    #[test]
    #[should_panic(expected = "cannot hold")]
    fn a_full_arena_is_a_broken_plan() {
        Arena::new(64).alloc(5, 13);
    }

    #[test]
    fn views_cover_the_same_numbers() {
        let mut arena = Arena::unbounded();
        let tensor = arena.alloc(6, 8);
        let view = tensor.with_cols(4);
        assert_eq!((view.rows(), view.cols()), (12, 4));
        assert_eq!(view.range(), tensor.range());
        assert_eq!(arena.alloc(0, 8).with_cols(4).rows(), 0);
    }
}
