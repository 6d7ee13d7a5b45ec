//! Norms on the emulated device against loops in f64, and bit by bit where every sum is exact.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use common::{Random, assert_panics};
use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{
    DENSE, LAYOUTS, Layout, MISALIGNED, Matrix, STRIDED, Words, assert_same, half_ulp,
};
use folio_kernels::cuda::{
    Context, DevicePtr, Element, LayerNorm, NormInput, RmsNorm, View, layer_norm, rms_norm,
};

const EPSILON: f32 = 1e-5;

/// Widths for each kernel and both sides of their limits.
const WIDTHS: [usize; 12] = [1, 7, 8, 64, 200, 1000, 1024, 1032, 2048, 4104, 16384, 16392];

/// Which norm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Rms,
    Layer,
}

/// One case: x of `[rows, cols]`, and whether it is a sum.
struct Case {
    element: Element,
    cols: usize,
    layout: Layout,
    left: Vec<f32>,
    right: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    /// Numbers of any kind, or multiples of 1/8, whose squares single precision sums exactly.
    fn new(element: Element, cols: usize, layout: Layout, seed: u64, is_grid: bool) -> Self {
        let mut random = Random::new(seed);
        let mut values = |num: usize, scale: f32| -> Vec<f32> {
            let value = |x: f32| if is_grid { (x * 16.0).round() / 8.0 } else { x * scale };
            random.values(num).into_iter().map(|x| round(element, value(x))).collect()
        };
        let num_rows = if cols > 4000 { 2 } else { 5 };
        Self {
            element,
            cols,
            layout,
            left: values(num_rows * cols, 7.0),
            right: values(num_rows * cols, 0.9),
            weight: values(cols, 2.0),
            bias: values(cols, 1.0),
        }
    }

    fn num_rows(&self) -> usize {
        self.left.len() / self.cols
    }

    fn matrix(&self, context: &Context, values: &[f32]) -> Matrix {
        Matrix::new(context, self.element, values, self.cols, self.layout)
    }

    /// x as the kernel sees it.
    fn sums(&self) -> Vec<f32> {
        let sum = |(x, y): (&f32, &f32)| round(self.element, x + y);
        self.left.iter().zip(&self.right).map(sum).collect()
    }

    /// The norm of one row in f64, and how far a result may be off.
    fn expected(&self, kind: Kind, x: &[f32]) -> Vec<(f64, f64)> {
        let size = x.len() as f64;
        let mean = match kind {
            Kind::Rms => 0.0,
            Kind::Layer => x.iter().map(|&x| f64::from(x)).sum::<f64>() / size,
        };
        let squares: f64 = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let factor = 1.0 / (squares / size + f64::from(EPSILON)).sqrt();
        let largest = x.iter().fold(0.0, |largest: f64, &x| largest.max(f64::from(x).abs()));
        let result = |(i, &x): (usize, &f32)| {
            let y = (f64::from(x) - mean) * factor;
            let weight = f64::from(self.weight[i]);
            // Sums of n numbers in single precision, in a tree of at most 14 + 32 levels.
            let slack = 64.0 * f64::from(f32::EPSILON) * largest * factor * weight.abs();
            match kind {
                Kind::Rms => {
                    let first = half_ulp(self.element, y * 1.001) * weight.abs();
                    (y * weight, slack + first + half_ulp(self.element, y * weight * 1.01))
                }
                Kind::Layer => {
                    let y = y * weight + f64::from(self.bias[i]);
                    (y, slack + 1.001 * half_ulp(self.element, y))
                }
            }
        };
        x.iter().enumerate().map(result).collect()
    }

    /// The result of the kernel when all sums are exact.
    fn exact_rms(&self, x: &[f32]) -> Vec<f32> {
        let squares: f32 = x.iter().map(|&x| x * x).sum();
        let factor = 1.0 / (squares * (1.0 / x.len() as f32) + EPSILON).sqrt();
        let result = |(&x, weight): (&f32, &f32)| {
            round(self.element, round(self.element, x * factor) * weight)
        };
        x.iter().zip(&self.weight).map(result).collect()
    }
}

/// What a launch needs beside its input.
struct Parts {
    weight: Words,
    bias: Words,
    output: Matrix,
}

impl Parts {
    fn new(context: &Context, case: &Case, num_rows: usize) -> Self {
        let shape = [num_rows, case.cols];
        Self {
            weight: Words::floats(context, &case.weight),
            bias: Words::floats(context, &case.bias),
            output: Matrix::empty(context, case.element, shape, case.layout),
        }
    }

    fn run(
        &self,
        context: &Context,
        (kind, element): (Kind, Element),
        input: NormInput,
        rows: Option<DevicePtr>,
    ) {
        let (weight, epsilon, output) = (self.weight.ptr(), EPSILON, self.output.view());
        match kind {
            Kind::Rms => {
                rms_norm(context, RmsNorm { input, rows, weight, epsilon, output, element })
            }
            Kind::Layer => {
                let bias = Some(self.bias.ptr());
                let args = LayerNorm { input, rows, weight, bias, epsilon, output, element };
                layer_norm(context, args)
            }
        }
        .unwrap();
    }
}

#[track_caller]
fn assert_near(actual: &[f32], expected: &[(f64, f64)], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    for (i, (&actual, &(expected, bound))) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(
            error <= bound,
            "{what}: element {i} is {actual}, expected {expected}: off by {error:e} of {bound:e}"
        );
    }
}

#[test]
fn norms_of_rows_match_f64_at_every_width() {
    let context = context();
    for (seed, cols) in WIDTHS.into_iter().enumerate() {
        for element in ELEMENTS {
            for layout in [DENSE, STRIDED, MISALIGNED] {
                let case = Case::new(element, cols, layout, seed as u64, false);
                let input = case.matrix(&context, &case.left);
                for kind in [Kind::Rms, Kind::Layer] {
                    let parts = Parts::new(&context, &case, case.num_rows());
                    let from = NormInput::Rows(input.view());
                    parts.run(&context, (kind, element), from, None);
                    let expected: Vec<_> =
                        case.left.chunks(cols).flat_map(|x| case.expected(kind, x)).collect();
                    let what = format!("{kind:?} {element:?} {layout:?} {cols}");
                    assert_near(&parts.output.read(&context), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn the_residual_is_added_rounded_and_kept() {
    let context = context();
    for (seed, cols) in [8, 500, 1024, 2064, 5000].into_iter().enumerate() {
        for element in ELEMENTS {
            for layout in LAYOUTS {
                let case = Case::new(element, cols, layout, seed as u64, false);
                let sums = case.sums();
                for kind in [Kind::Rms, Kind::Layer] {
                    let residual = case.matrix(&context, &case.left);
                    let delta = case.matrix(&context, &case.right);
                    let parts = Parts::new(&context, &case, case.num_rows());
                    let input = NormInput::AddTo { residual: residual.view(), delta: delta.view() };
                    parts.run(&context, (kind, element), input, None);
                    let what = format!("{kind:?} {element:?} {layout:?} {cols}");
                    assert_same(&residual.read(&context), &sums, &what);
                    assert_same(&delta.read(&context), &case.right, &what);
                    let expected: Vec<_> =
                        sums.chunks(cols).flat_map(|x| case.expected(kind, x)).collect();
                    assert_near(&parts.output.read(&context), &expected, &what);
                }
            }
        }
    }
}

#[test]
fn a_sum_may_be_normalised_in_its_own_place() {
    let context = context();
    for cols in [48, 77, 1536] {
        for element in ELEMENTS {
            for layout in LAYOUTS {
                let case = Case::new(element, cols, layout, 5, false);
                let left = case.matrix(&context, &case.left);
                let right = case.matrix(&context, &case.right);
                let parts = Parts::new(&context, &case, case.num_rows());
                let input = NormInput::Sum { left: left.view(), right: right.view() };
                parts.run(&context, (Kind::Layer, element), input, None);
                let elsewhere = parts.output.read(&context);
                let parts = Parts { output: left, ..parts };
                parts.run(&context, (Kind::Layer, element), input, None);
                let what = format!("{element:?} {layout:?} {cols}");
                assert_same(&parts.output.read(&context), &elsewhere, &what);
                let expected: Vec<_> =
                    case.sums().chunks(cols).flat_map(|x| case.expected(Kind::Layer, x)).collect();
                assert_near(&elsewhere, &expected, &what);
            }
        }
    }
}

#[test]
fn roundings_of_the_rms_norm_are_those_of_the_reference_code() {
    let context = context();
    for (seed, cols) in WIDTHS.into_iter().enumerate() {
        for element in ELEMENTS {
            for layout in [DENSE, MISALIGNED] {
                let case = Case::new(element, cols, layout, seed as u64, true);
                let input = case.matrix(&context, &case.left);
                let parts = Parts::new(&context, &case, case.num_rows());
                let from = NormInput::Rows(input.view());
                parts.run(&context, (Kind::Rms, element), from, None);
                let expected: Vec<f32> =
                    case.left.chunks(cols).flat_map(|x| case.exact_rms(x)).collect();
                let what = format!("{element:?} {layout:?} {cols}");
                assert_same(&parts.output.read(&context), &expected, &what);
            }
        }
    }
}

#[test]
fn chosen_rows_are_the_rows_of_the_whole() {
    let context = context();
    for cols in [64, 1000, 1048] {
        for (element, layout) in [(Element::Bf16, STRIDED), (Element::F16, MISALIGNED)] {
            let case = Case::new(element, cols, layout, 9, false);
            let residual = case.matrix(&context, &case.left);
            let delta = case.matrix(&context, &case.right);
            let sum = NormInput::Sum { left: residual.view(), right: delta.view() };
            let whole = Parts::new(&context, &case, 5);
            whole.run(&context, (Kind::Rms, element), sum, None);
            let whole = whole.output.read(&context);
            let rows = [4, 1, 2];
            let there = Words::ints(&context, &rows);
            let chosen = Parts::new(&context, &case, 3);
            let input = NormInput::AddTo { residual: residual.view(), delta: delta.view() };
            chosen.run(&context, (Kind::Rms, element), input, Some(there.ptr()));
            let expected: Vec<f32> = rows
                .iter()
                .flat_map(|&row| whole[row as usize * cols..][..cols].to_vec())
                .collect();
            assert_same(&chosen.output.read(&context), &expected, &format!("{cols}"));
            let sums = case.sums();
            let kept: Vec<f32> = (0..5)
                .flat_map(|row| {
                    let source = if rows.contains(&row) { &sums } else { &case.left };
                    source[row as usize * cols..][..cols].to_vec()
                })
                .collect();
            assert_same(&residual.read(&context), &kept, "residual");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let context = context();
    for cols in [64, 1000, 3000] {
        let case = Case::new(Element::Bf16, cols, DENSE, 11, false);
        let all = case.matrix(&context, &case.left);
        for kind in [Kind::Rms, Kind::Layer] {
            let together = Parts::new(&context, &case, 5);
            together.run(&context, (kind, Element::Bf16), NormInput::Rows(all.view()), None);
            let together = together.output.read(&context);
            for row in 0..5 {
                let alone = Parts::new(&context, &case, 1);
                let view =
                    View { ptr: all.view().ptr.offset(row * cols * 2), rows: 1, ..all.view() };
                alone.run(&context, (kind, Element::Bf16), NormInput::Rows(view), None);
                let expected = &together[row * cols..][..cols];
                assert_same(
                    &alone.output.read(&context),
                    expected,
                    &format!("row {row} of {cols}"),
                );
            }
        }
    }
}

#[test]
fn constant_rows_and_what_is_not_finite() {
    let context = context();
    for cols in [16, 20, 1040] {
        let mut case = Case::new(Element::Bf16, cols, DENSE, 13, false);
        case.left = [vec![3.0; cols], vec![0.0; cols], vec![f32::NAN; cols]].concat();
        case.left.extend(vec![f32::INFINITY; cols]);
        let input = case.matrix(&context, &case.left);
        let parts = Parts::new(&context, &case, 4);
        parts.run(&context, (Kind::Layer, Element::Bf16), NormInput::Rows(input.view()), None);
        let output = parts.output.read(&context);
        let bias: Vec<f32> = case.bias.iter().map(|&x| round(Element::Bf16, x)).collect();
        assert_same(&output[..2 * cols], &[bias.clone(), bias].concat(), "constant rows");
        assert!(output[2 * cols..].iter().all(|x| x.is_nan()), "{cols}: {:?}", &output[2 * cols..]);
    }
}

#[test]
fn no_rows_are_no_launch_and_wrong_shapes_a_panic() {
    let context = context();
    let case = Case::new(Element::Bf16, 16, DENSE, 17, false);
    let input = case.matrix(&context, &case.left);
    let parts = Parts::new(&context, &case, 4);
    let from = |rows, cols| NormInput::Rows(View { rows, cols, ..input.view() });
    let run = |from: NormInput, rows: usize| {
        let output = View { rows, ..parts.output.view() };
        let (weight, element) = (parts.weight.ptr(), Element::Bf16);
        let args = RmsNorm { input: from, rows: None, weight, epsilon: EPSILON, output, element };
        rms_norm(&context, args).unwrap();
    };
    run(from(0, 16), 0);
    assert!(parts.output.read(&context).iter().all(|x| x.is_nan()), "nothing was to be written");
    assert_panics(&["rms_norm", "[3, 16]", "[4, 16]"], || run(from(3, 16), 4));
    assert_panics(&["rms_norm", "[4, 8]", "[4, 16]"], || run(from(4, 8), 4));
    let output = parts.output.view();
    assert_panics(&["rms_norm", "residual is the output"], || {
        run(NormInput::AddTo { residual: output, delta: from_view(input.view()) }, 4);
    });
}

/// The first four rows.
fn from_view(view: View) -> View {
    View { rows: 4, ..view }
}
