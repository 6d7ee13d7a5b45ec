//! Activations on the emulated device against f64.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use common::{Random, assert_panics, erfc};
use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{DENSE, LAYOUTS, Layout, Matrix, assert_same, half_ulp, number};
use folio_kernels::cpu::Activation;
use folio_kernels::cuda::{Activate, Context, Element, View, activate};

const FUNCTIONS: [Activation; 4] =
    [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

fn expected(function: Activation, x: f64) -> f64 {
    match function {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Relu => x.max(0.0),
    }
}

/// How far single precision may be from [`expected`]: argument and result of the exponential or
/// the error function are off by a few roundings, 1 + erf cancels below 0, and e^88.8 is infinite.
fn slack(function: Activation, x: f64) -> f64 {
    let epsilon = f64::from(f32::EPSILON);
    match function {
        Activation::Relu => 0.0,
        Activation::Gelu => 4.0 * epsilon * x.abs(),
        Activation::Silu => epsilon * (8.0 + 2.0 * x.abs()) * expected(function, x).abs() + 1e-36,
        Activation::GeluTanh => {
            epsilon * (16.0 + 4.0 * x.abs().powi(3)) * expected(function, x).abs() + 1e-36
        }
    }
}

/// Runs the kernel on `[rows, cols]`.
fn run(
    context: &Context,
    element: Element,
    function: Activation,
    (input, factor): (&Matrix, Option<&Matrix>),
    output: &Matrix,
) -> Vec<f32> {
    let args = Activate {
        input: input.view(),
        factor: factor.map(Matrix::view),
        output: output.view(),
        function,
        element,
    };
    activate(context, args).unwrap();
    output.read(context)
}

#[test]
fn every_number_has_the_right_value() {
    let context = context();
    for element in ELEMENTS {
        let every: Vec<f32> = (0..=u16::MAX)
            .map(|bits| number(element, bits))
            .filter(|x| x.is_finite() && x.abs() < 1e15)
            .collect();
        let every = &every[..every.len() / 8 * 8];
        let input = Matrix::new(&context, element, every, every.len() / 8, DENSE);
        let output = Matrix::empty(&context, element, [8, every.len() / 8], DENSE);
        for function in FUNCTIONS {
            let actual = run(&context, element, function, (&input, None), &output);
            for (&x, &actual) in every.iter().zip(&actual) {
                let x = f64::from(x);
                let expected = expected(function, x);
                let bound = 1.001 * half_ulp(element, expected) + slack(function, x);
                let error = (f64::from(actual) - expected).abs();
                assert!(
                    error <= bound,
                    "{element:?} {function:?} of {x}: {actual}, expected {expected} +- {bound:e}"
                );
            }
        }
    }
}

#[test]
fn limits_are_kept() {
    let context = context();
    let inputs = [f32::INFINITY, 3e38, -3e38, 0.0, f32::NAN];
    let input = Matrix::new(&context, Element::Bf16, &inputs, 5, DENSE);
    let output = Matrix::empty(&context, Element::Bf16, [1, 5], DENSE);
    for function in FUNCTIONS {
        let actual = run(&context, Element::Bf16, function, (&input, None), &output);
        let large = [f32::INFINITY, round(Element::Bf16, 3e38)];
        assert_same(&actual[..2], &large, &format!("{function:?}"));
        assert!(actual[2] == 0.0 && actual[3] == 0.0, "{function:?}: {actual:?}");
        assert!(actual[4].is_nan() || function == Activation::Relu, "{function:?}: {actual:?}");
    }
}

#[test]
fn the_result_is_rounded_before_it_is_multiplied() {
    let context = context();
    let mut random = Random::new(1);
    for element in ELEMENTS {
        for layout in LAYOUTS {
            for cols in [8, 100, 2304] {
                let mut values = || -> Vec<f32> {
                    random.values(3 * cols).iter().map(|x| round(element, 4.0 * x)).collect()
                };
                let (x, y) = (values(), values());
                let input = Matrix::new(&context, element, &x, cols, layout);
                let factor = Matrix::new(&context, element, &y, cols, layout);
                let output = Matrix::empty(&context, element, [3, cols], layout);
                for function in FUNCTIONS {
                    let alone = run(&context, element, function, (&input, None), &output);
                    let both = run(&context, element, function, (&input, Some(&factor)), &output);
                    let expected: Vec<f32> =
                        alone.iter().zip(&y).map(|(x, y)| round(element, x * y)).collect();
                    let what = format!("{element:?} {function:?} {layout:?} {cols}");
                    assert_same(&both, &expected, &what);
                }
            }
        }
    }
}

/// Gate and up projections are the halves of the rows of one matrix.
#[test]
fn halves_of_one_matrix_are_multiplied_in_place() {
    let context = context();
    let mut random = Random::new(2);
    for (cols, layout) in [(16, DENSE), (24, Layout { gap: 8, offset: 8 }), (11, DENSE)] {
        let element = Element::Bf16;
        let values: Vec<f32> =
            random.values(4 * 2 * cols).iter().map(|x| round(element, 3.0 * x)).collect();
        let merged = Matrix::new(&context, element, &values, 2 * cols, layout);
        let half = |offset: usize| View {
            ptr: merged.view().ptr.offset(2 * offset),
            cols,
            ..merged.view()
        };
        let (input, factor) = (half(0), Some(half(cols)));
        let function = Activation::Silu;
        activate(&context, Activate { input, factor, output: half(0), function, element }).unwrap();
        let actual = merged.read(&context);
        for (actual, values) in actual.chunks(2 * cols).zip(values.chunks(2 * cols)) {
            assert_same(&actual[cols..], &values[cols..], "the second half");
            for i in 0..cols {
                let gate = f64::from(values[i]);
                let expected = expected(function, gate) * f64::from(values[cols + i]);
                let bound = 3.0 * half_ulp(element, expected);
                assert!(
                    (f64::from(actual[i]) - expected).abs() <= bound,
                    "{} instead of {expected}",
                    actual[i]
                );
            }
        }
    }
}

#[test]
fn no_rows_are_no_launch_and_wrong_shapes_a_panic() {
    let context = context();
    let input = Matrix::new(&context, Element::Bf16, &[1.0; 16], 8, DENSE);
    let output = Matrix::empty(&context, Element::Bf16, [2, 8], DENSE);
    let args = |rows, cols| Activate {
        input: View { rows, cols, ..input.view() },
        factor: None,
        output: View { rows, ..output.view() },
        function: Activation::Gelu,
        element: Element::Bf16,
    };
    activate(&context, args(0, 8)).unwrap();
    assert!(output.read(&context).iter().all(|x| x.is_nan()), "nothing was to be written");
    assert_panics(&["activate", "[2, 4]", "[2, 8]"], || {
        activate(&context, args(2, 4)).unwrap();
    });
}
