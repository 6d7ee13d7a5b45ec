//! Captured decode steps: one graph for each of a few numbers of rows.
//!
//! A step of rows that decode is filled up to the next number with rows of a slot that nobody has,
//! whose one block is the scratch block. Everything that differs from step to step is read from
//! memory at fixed addresses, so one replay stands for some three hundred launches.

use folio_kernels::cuda::GraphId;

use crate::ops::Tensor;

/// The captured steps, by their number of rows.
#[derive(Debug, Default)]
pub(super) struct DecodeGraphs(Vec<DecodeGraph>);

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct DecodeGraph {
    /// Rows, those of padding included.
    pub(super) num_rows: usize,
    /// The forward pass.
    pub(super) graph: GraphId,
    /// Where it leaves the logits, `[num_rows, V]`.
    pub(super) logits: Tensor,
}

impl DecodeGraphs {
    /// Adds one; they come in descending numbers of rows.
    pub(super) fn push(&mut self, graph: DecodeGraph) {
        let is_smaller = self.0.last().is_none_or(|last| graph.num_rows < last.num_rows);
        assert!(is_smaller, "{graph:?} after {:?}", self.0.last());
        self.0.push(graph);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The smallest graph with room for `num_rows`.
    pub(super) fn with_room_for(&self, num_rows: usize) -> Option<DecodeGraph> {
        self.0.iter().rev().find(|graph| graph.num_rows >= num_rows).copied()
    }
}

/// The numbers of rows to capture for steps of up to `max_rows`, largest first: 1, 2, 4, then
/// multiples of 8 up to 256, then of 64.
pub(super) fn captured_rows(max_rows: usize) -> Vec<usize> {
    let small = [1, 2, 4].into_iter();
    let middle = (8..=256).step_by(8);
    let large = (320..).step_by(64);
    let mut rows: Vec<usize> =
        small.chain(middle).chain(large).take_while(|&num_rows| num_rows < max_rows).collect();
    rows.push(max_rows);
    rows.reverse();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_up_to_the_largest_has_a_size_that_wastes_little() {
        for max_rows in 1..=1024 {
            let sizes = captured_rows(max_rows);
            assert_eq!(sizes.first(), Some(&max_rows));
            assert!(sizes.windows(2).all(|pair| pair[0] > pair[1]), "{sizes:?}");
            for num_rows in 1..=max_rows {
                let size = sizes.iter().rev().find(|&&size| size >= num_rows).unwrap();
                assert!(size - num_rows < 8.max(num_rows / 4), "{num_rows} rows run as {size}");
            }
        }
        assert_eq!(captured_rows(17), [17, 16, 8, 4, 2, 1]);
    }
}
