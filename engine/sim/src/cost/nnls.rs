//! Least squares with coefficients that must not be negative: Lawson and Hanson's active sets
//! (Solving Least Squares Problems, 1974, chapter 23), on the normal equations.
//!
//! Columns are scaled to length one first. A column that depends on those in use is left out.

/// Smallest pivot of a Cholesky factor of columns of length one; below it they are dependent.
const MIN_PIVOT: f64 = 1e-10;
/// Of the largest right-hand side, what counts as zero.
const TOLERANCE: f64 = 1e-12;

/// The x >= 0 that makes |A x - y| smallest, for the rows of A. All rows are of one length; no
/// rows give no coefficients.
#[must_use]
pub fn nnls(rows: &[Vec<f64>], targets: &[f64]) -> Vec<f64> {
    assert_eq!(rows.len(), targets.len(), "one target for each row");
    let num_columns = rows.first().map_or(0, Vec::len);
    let length = |column: usize| rows.iter().map(|row| row[column].powi(2)).sum::<f64>().sqrt();
    let lengths: Vec<f64> = (0..num_columns).map(length).collect();
    let scaled = |row: &[f64], column: usize| {
        if lengths[column] > 0.0 { row[column] / lengths[column] } else { 0.0 }
    };
    let mut gram = vec![vec![0.0; num_columns]; num_columns];
    let mut right = vec![0.0; num_columns];
    for (row, target) in rows.iter().zip(targets) {
        for i in 0..num_columns {
            let value = scaled(row, i);
            right[i] += value * target;
            for (j, product) in gram[i].iter_mut().enumerate() {
                *product += value * scaled(row, j);
            }
        }
    }
    let solution = Solver { gram, right }.run();
    let unscaled = |(value, length): (f64, &f64)| if *length > 0.0 { value / length } else { 0.0 };
    solution.into_iter().zip(&lengths).map(unscaled).collect()
}

/// The normal equations: `gram` is AᵀA, `right` is Aᵀy.
struct Solver {
    gram: Vec<Vec<f64>>,
    right: Vec<f64>,
}

impl Solver {
    fn run(&self) -> Vec<f64> {
        let num_columns = self.right.len();
        let largest = self.right.iter().fold(0.0f64, |max, value| max.max(value.abs()));
        let mut x = vec![0.0; num_columns];
        let mut used = Vec::new();
        let mut left_out = Vec::new();
        // Each round enters a column for good or leaves it out; Lawson and Hanson need about half
        // as many rounds as columns.
        for _ in 0..10 * num_columns {
            let candidates = (0..num_columns)
                .filter(|column| !used.contains(column) && !left_out.contains(column))
                .map(|column| (column, self.gradient(&x, column)))
                .filter(|&(_, gradient)| gradient > TOLERANCE * largest);
            let Some((entering, _)) = candidates.max_by(|a, b| a.1.total_cmp(&b.1)) else {
                break;
            };
            if self.enter(entering, &mut used, &mut x) {
                left_out.clear();
            } else {
                left_out.push(entering);
            }
        }
        x
    }

    /// How fast the error falls with the coefficient of `column`.
    fn gradient(&self, x: &[f64], column: usize) -> f64 {
        let product = self.gram[column].iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
        self.right[column] - product
    }

    /// Adds a column to those in use, and drops those whose coefficients would fall below zero.
    /// Whether it helped.
    fn enter(&self, entering: usize, used: &mut Vec<usize>, x: &mut [f64]) -> bool {
        used.push(entering);
        let mut is_first = true;
        while let Some(best) = self.solve(used) {
            let of_entering = used.iter().position(|&column| column == entering);
            if is_first && of_entering.is_some_and(|index| best[index] <= 0.0) {
                break;
            }
            is_first = false;
            if best.iter().all(|&value| value > 0.0) {
                x.fill(0.0);
                used.iter().zip(&best).for_each(|(&column, &value)| x[column] = value);
                return true;
            }
            let steps = used.iter().zip(&best).filter(|&(_, &value)| value <= 0.0);
            let step = steps
                .map(|(&column, &value)| x[column] / (x[column] - value))
                .fold(1.0f64, f64::min);
            let mut dropped = Vec::new();
            for (&column, &value) in used.iter().zip(&best) {
                x[column] += step * (value - x[column]);
                if value <= 0.0 && x[column] <= TOLERANCE {
                    x[column] = 0.0;
                    dropped.push(column);
                }
            }
            used.retain(|column| !dropped.contains(column));
        }
        used.retain(|&column| column != entering);
        x[entering] = 0.0;
        false
    }

    /// Least squares over the columns in use alone; `None` where they are dependent.
    fn solve(&self, used: &[usize]) -> Option<Vec<f64>> {
        let size = used.len();
        let mut factor = vec![vec![0.0; size]; size];
        for i in 0..size {
            for j in 0..=i {
                let product: f64 = (0..j).map(|k| factor[i][k] * factor[j][k]).sum();
                let rest = self.gram[used[i]][used[j]] - product;
                if i != j {
                    factor[i][j] = rest / factor[j][j];
                } else if rest > MIN_PIVOT {
                    factor[i][i] = rest.sqrt();
                } else {
                    return None;
                }
            }
        }
        let mut solution = vec![0.0; size];
        for i in 0..size {
            let known: f64 = (0..i).map(|k| factor[i][k] * solution[k]).sum();
            solution[i] = (self.right[used[i]] - known) / factor[i][i];
        }
        for i in (0..size).rev() {
            let known: f64 = (i + 1..size).map(|k| factor[k][i] * solution[k]).sum();
            solution[i] = (solution[i] - known) / factor[i][i];
        }
        Some(solution)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-9 * b.abs().max(1.0), "{found:?}, expected {expected:?}");
        }
    }

    /// A line through three points, by the textbook: slope 1.5, intercept 1/3.
    #[test]
    fn a_line_is_fitted_as_without_the_bound() {
        let rows = [vec![1.0, 0.0], vec![1.0, 1.0], vec![1.0, 2.0]];
        assert_close(&nnls(&rows, &[0.5, 1.5, 3.5]), &[1.0 / 3.0, 1.5]);
    }

    /// Unbound, the best is (2, -1); with the bound the second is 0 and the first is the mean of
    /// what it alone explains: 1 * 1 + 0 * 1 over 2.
    #[test]
    fn what_would_be_negative_is_zero() {
        let rows = [vec![1.0, 1.0], vec![1.0, 2.0]];
        assert_close(&nnls(&rows, &[1.0, 0.0]), &[0.5, 0.0]);
    }

    #[test]
    fn a_column_that_repeats_another_does_no_harm() {
        let rows: Vec<_> = (1..9).map(f64::from).map(|x| vec![x, 2.0 * x, 1.0]).collect();
        let targets: Vec<f64> = (1..9).map(|i| 3.0 * f64::from(i) + 5.0).collect();
        let x = nnls(&rows, &targets);
        assert_close(&[x[0] + 2.0 * x[1], x[2]], &[3.0, 5.0]);
    }

    #[test]
    fn nothing_gives_nothing_and_a_column_of_zeros_gets_zero() {
        assert!(nnls(&[], &[]).is_empty());
        assert_close(&nnls(&[vec![0.0, 1.0], vec![0.0, 1.0]], &[2.0, 4.0]), &[0.0, 3.0]);
        assert_close(&nnls(&[vec![1.0]], &[-1.0]), &[0.0]);
    }

    proptest! {
        /// The conditions of Karush, Kuhn and Tucker, which hold at the best point and nowhere
        /// else: no coefficient is negative, the error rises with each that is 0 and is level in
        /// each that is not.
        #[test]
        fn the_best_point_is_found(
            rows in prop::collection::vec(prop::collection::vec(-1.0f64..1.0, 6), 8..30),
            seed in prop::collection::vec(-2.0f64..2.0, 30),
        ) {
            let targets = &seed[..rows.len()];
            let x = nnls(&rows, targets);
            let residual: Vec<f64> = rows.iter().zip(targets).map(|(row, target)| {
                row.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>() - target
            }).collect();
            for (column, &value) in x.iter().enumerate() {
                let gradient: f64 =
                    rows.iter().zip(&residual).map(|(row, r)| row[column] * r).sum();
                prop_assert!(value >= 0.0);
                prop_assert!(gradient > -1e-7, "column {} would help: {}", column, gradient);
                prop_assert!(value < 1e-9 || gradient.abs() < 1e-7, "{}: {}", value, gradient);
            }
        }

        /// What was made of known coefficients is taken apart again.
        #[test]
        fn coefficients_that_made_the_targets_are_found(
            rows in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 5), 20..30),
            planted in prop::collection::vec(0.0f64..10.0, 5),
            is_zero in 0usize..5,
        ) {
            let mut planted = planted;
            planted[is_zero] = 0.0;
            let dot = |row: &Vec<f64>| row.iter().zip(&planted).map(|(a, b)| a * b).sum::<f64>();
            let targets: Vec<f64> = rows.iter().map(dot).collect();
            let x = nnls(&rows, &targets);
            for (a, b) in x.iter().zip(&planted) {
                prop_assert!((a - b).abs() < 1e-5, "{:?}, planted {:?}", x, planted);
            }
        }
    }
}
