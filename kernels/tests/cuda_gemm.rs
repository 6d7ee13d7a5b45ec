//! Matrix products on the emulated device, against loops in f64.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(unsafe_code, reason = "commands are enqueued on buffers that the test holds")]

mod cuda_common;

use std::collections::HashSet;

use cuda_common::{ELEMENTS, Random, download, download_f32, round, unit_roundoff, upload};
use folio_emulator::{EmulatorOptions, TestDevice};
use folio_kernels::cuda::{
    Command, Context, DeviceBuffer, Element, Epilogue, Gemm, GemmMode, GemmPlan, GemmShape,
    GemmWorkspace, OutputElement, Products, View, gemm, gemm_by_plan, gemm_plans, plan_gemm,
};

const EPILOGUES: [Epilogue; 4] =
    [Epilogue::None, Epilogue::Bias, Epilogue::BiasGelu, Epilogue::BiasGeluTanh];

/// A device of so many multiprocessors, whose order of blocks is drawn from `seed`.
fn device(num_multiprocessors: u32, seed: u64) -> Context {
    let options = EmulatorOptions { num_multiprocessors, seed, ..EmulatorOptions::default() };
    Context::new(TestDevice::open(options).driver).unwrap()
}

/// A matrix with NaN around it: before its first column, between its rows and after the last.
struct Matrix {
    values: Vec<f32>,
    view: View,
    _buffer: DeviceBuffer,
}

impl Matrix {
    /// Random values of about `scale`; rows begin `gap` elements into strides of `cols + 2 x gap`.
    fn random(
        context: &Context,
        random: &mut Random,
        element: Element,
        [rows, cols, gap]: [usize; 3],
        scale: f32,
    ) -> Self {
        let stride = cols + 2 * gap;
        let mut values = Vec::new();
        let mut padded = vec![f32::NAN; (rows + 1) * stride];
        for row in 0..rows {
            for col in 0..cols {
                let value = round(element, random.normal() * scale);
                values.push(value);
                padded[row * stride + gap + col] = value;
            }
        }
        let buffer = upload(context, element, &padded);
        let view = View { ptr: buffer.ptr().offset(gap * 2), rows, cols, stride };
        Self { values, view, _buffer: buffer }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.view.cols..][..self.view.cols]
    }
}

/// Operands of one product.
struct Case {
    input: Matrix,
    weight: Matrix,
    bias: Matrix,
    args: Gemm,
    output: DeviceBuffer,
}

/// What is multiplied, and where its rows lie.
#[derive(Clone, Copy, Debug)]
struct Kind {
    shape: GemmShape,
    element: Element,
    output_element: OutputElement,
    epilogue: Epilogue,
    /// Elements before and after each row of x and W, and of y.
    gaps: [usize; 2],
}

const UNTOUCHED: u8 = 0x5a;

impl Case {
    fn new(context: &Context, random: &mut Random, kind: Kind) -> Self {
        let Kind { shape: GemmShape { rows, cols, inner }, element, .. } = kind;
        let [gap, output_gap] = kind.gaps;
        let input = Matrix::random(context, random, element, [rows, inner, gap], 1.0);
        let scale = 2.0 / (inner as f32).sqrt();
        let weight = Matrix::random(context, random, element, [cols, inner, gap], scale);
        let bias = Matrix::random(context, random, element, [1, cols, 0], 1.0);
        let element_bytes = if kind.output_element == OutputElement::F32 { 4 } else { 2 };
        let stride = cols + 2 * output_gap;
        let output = context.upload(&vec![UNTOUCHED; (rows + 1) * stride * element_bytes]).unwrap();
        let ptr = output.ptr().offset(output_gap * element_bytes);
        let args = Gemm {
            input: input.view,
            weight: weight.view,
            bias: (kind.epilogue != Epilogue::None).then_some(bias.view.ptr),
            epilogue: kind.epilogue,
            output: View { ptr, rows, cols, stride },
            output_element: kind.output_element,
            element,
            mode: GemmMode::Fast,
        };
        Self { input, weight, bias, args, output }
    }

    /// Rows `first..first + num` of x times W, by `plan_gemm`'s choice or by `plan`, to a y of its
    /// own.
    fn part(
        &self,
        context: &Context,
        workspace: &GemmWorkspace,
        [first, num]: [usize; 2],
        plan: Option<GemmPlan>,
    ) -> Vec<f32> {
        let View { ptr, cols: inner, stride, .. } = self.input.view;
        let cols = self.args.output.cols;
        let output = context.upload(&vec![UNTOUCHED; num * cols * 4]).unwrap();
        let args = Gemm {
            input: View { ptr: ptr.offset(first * stride * 2), rows: num, cols: inner, stride },
            output: output.view(0, [num, cols], 4),
            output_element: OutputElement::F32,
            mode: GemmMode::Deterministic,
            ..self.args
        };
        match plan {
            Some(plan) => gemm_by_plan(context, workspace, args, plan).unwrap(),
            None => gemm(context, workspace, args).unwrap(),
        }
        download_f32(context, &output)
    }

    /// The numbers of y with those around it.
    fn results(&self, context: &Context) -> Vec<f32> {
        match self.args.output_element {
            OutputElement::Same => download(context, self.args.element, &self.output),
            OutputElement::F32 => download_f32(context, &self.output),
        }
    }

    /// Asserts that y is right to what sums in f32 and one rounding may cost, and that nothing else
    /// was written.
    fn check(&self, context: &Context, what: &str) {
        let results = self.results(context);
        let View { rows, cols, stride, .. } = self.args.output;
        let (untouched, roundoff) = match self.args.output_element {
            OutputElement::Same => (
                download(context, self.args.element, &context.upload(&[UNTOUCHED; 2]).unwrap())[0],
                unit_roundoff(self.args.element),
            ),
            OutputElement::F32 => (f32::from_le_bytes([UNTOUCHED; 4]), 2f64.powi(-24)),
        };
        let gap = (stride - cols) / 2;
        for (i, &result) in results.iter().enumerate() {
            let (row, col) = (i / stride, (i % stride).wrapping_sub(gap));
            if row >= rows || col >= cols {
                let is_untouched = result.to_bits() == untouched.to_bits();
                assert!(is_untouched, "{what}: wrote {result} at {i}, outside the output");
                continue;
            }
            let (expected, slack) = self.expected(row, col);
            let error = (f64::from(result) - expected).abs();
            let bound = slack + roundoff * (expected.abs() + slack) + f64::from(f32::MIN_POSITIVE);
            assert!(
                error <= bound,
                "{what}: [{row}, {col}] is {result}, not {expected}: {error:e}"
            );
        }
    }

    /// An element in f64, and how far sums in f32 may be from it.
    fn expected(&self, row: usize, col: usize) -> (f64, f64) {
        let products = || {
            let pairs = self.input.row(row).iter().zip(self.weight.row(col));
            pairs.map(|(&x, &w)| f64::from(x) * f64::from(w))
        };
        let has_bias = self.args.epilogue != Epilogue::None;
        let bias = if has_bias { f64::from(self.bias.values[col]) } else { 0.0 };
        let sum = products().sum::<f64>() + bias;
        let magnitude = products().map(f64::abs).sum::<f64>() + bias.abs();
        let slack = (self.args.input.cols + 2) as f64 * 2f64.powi(-24) * magnitude;
        // GELU's slope is below 1.13, and its own arithmetic costs a few roundings.
        let of_gelu = 1.13 * slack + 2f64.powi(-21) * sum.abs();
        match self.args.epilogue {
            Epilogue::None | Epilogue::Bias => (sum, slack),
            Epilogue::BiasGelu => (sum * normal_distribution(sum), of_gelu),
            Epilogue::BiasGeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (sum + 0.044_715 * sum.powi(3));
                (0.5 * sum * (1.0 + inner.tanh()), of_gelu)
            }
        }
    }
}

/// The distribution function of the normal distribution, by its power series.
fn normal_distribution(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= x * x / f64::from(2 * n + 1);
        sum += term;
    }
    0.5 + sum * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// A kernel and shapes that reach it: sizes of M, N and K may be up to these.
fn random_kind(random: &mut Random, max: [usize; 3]) -> Kind {
    let shape = GemmShape {
        rows: 1 + random.below(max[0]),
        cols: 1 + random.below(max[1]),
        inner: 8 * (1 + random.below(max[2] / 8)),
    };
    let output_element =
        if random.below(3) == 0 { OutputElement::F32 } else { OutputElement::Same };
    Kind {
        shape,
        element: ELEMENTS[random.below(2)],
        output_element,
        epilogue: EPILOGUES[random.below(4)],
        gaps: [8 * random.below(3), [0, 1, 2, 8][random.below(4)]],
    }
}

/// Multiplies with one plan and checks.
fn run(context: &Context, workspace: &GemmWorkspace, case: &Case, plan: GemmPlan, what: &str) {
    gemm_by_plan(context, workspace, case.args, plan).unwrap();
    case.check(context, &format!("{what}, {plan:?}"));
}

#[test]
fn every_kernel_multiplies_any_shape() {
    let mut seen = HashSet::new();
    for seed in 0..60 {
        let mut random = Random(seed);
        let context = device([1, 4, 7, 24][random.below(4)], seed);
        let workspace = GemmWorkspace::new(&context).unwrap();
        let max_rows = [8, 16, 32, 64, 200][random.below(5)];
        let kind = random_kind(&mut random, [max_rows, 300, 520]);
        let case = Case::new(&context, &mut random, kind);
        let plans: Vec<_> = gemm_plans(context.device(), kind.shape, GemmMode::Fast).collect();
        // Twice, so that the second finds the counters as the first left them.
        for _ in 0..2 {
            let plan = plans[random.below(plans.len())];
            seen.insert(plan.kernel);
            run(&context, &workspace, &case, plan, &format!("seed {seed}: {kind:?}"));
        }
    }
    assert_eq!(seen.len(), 12, "kernels that were reached: {seen:?}");
}

fn dense(shape: GemmShape, element: Element, epilogue: Epilogue) -> Kind {
    Kind { shape, element, output_element: OutputElement::F32, epilogue, gaps: [0, 0] }
}

#[track_caller]
fn assert_same_bits(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (x, y)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(x.to_bits(), y.to_bits(), "{what}: element {i} is {x} and was {y}");
    }
}

#[test]
fn in_deterministic_mode_a_row_does_not_depend_on_the_others() {
    for (seed, element) in ELEMENTS.into_iter().enumerate() {
        let mut random = Random(100 + seed as u64);
        let context = device(4, seed as u64);
        let workspace = GemmWorkspace::new(&context).unwrap();
        let shape = GemmShape { rows: 150, cols: 200, inner: 328 };
        let case = Case::new(&context, &mut random, dense(shape, element, Epilogue::BiasGelu));
        let all = case.part(&context, &workspace, [0, 150], None);
        let mut kernels = HashSet::new();
        for num in [1, 1, 2, 7, 16, 17, 40, 64, 65, 100, 128, 149] {
            let first = random.below(150 - num + 1);
            let shape = GemmShape { rows: num, ..shape };
            kernels.insert(plan_gemm(context.device(), shape, GemmMode::Deterministic).kernel);
            let part = case.part(&context, &workspace, [first, num], None);
            let expected = &all[first * 200..(first + num) * 200];
            assert_same_bits(&part, expected, &format!("{element:?}, rows from {first}: {num}"));
        }
        assert!(kernels.len() > 1, "several kernels should take part: {kernels:?}");
        for plan in gemm_plans(context.device(), shape, GemmMode::Deterministic) {
            let same = case.part(&context, &workspace, [0, 150], Some(plan));
            assert_same_bits(&same, &all, &format!("{plan:?}"));
        }
    }
}

#[test]
fn sums_of_several_blocks_come_out_the_same_in_any_order_of_blocks() {
    let shape = GemmShape { rows: 11, cols: 150, inner: 1096 };
    let mut results: Vec<Vec<Vec<f32>>> = Vec::new();
    for seed in 0..4 {
        let context = device(24, seed);
        let workspace = GemmWorkspace::new(&context).unwrap();
        let kind = dense(shape, Element::Bf16, Epilogue::None);
        let case = Case::new(&context, &mut Random(5), kind);
        let plans = gemm_plans(context.device(), shape, GemmMode::Fast);
        let part = |plan| case.part(&context, &workspace, [0, 11], Some(plan));
        results.push(plans.map(part).collect());
    }
    for (seed, again) in results.iter().enumerate().skip(1) {
        for (kernel, (x, y)) in again.iter().zip(&results[0]).enumerate() {
            assert_same_bits(x, y, &format!("seed {seed}, plan {kernel}"));
        }
    }
}

#[test]
fn captured_products_can_be_replayed() {
    let context = device(24, 1);
    let products = Products::new(&context).unwrap();
    let shape = GemmShape { rows: 3, cols: 150, inner: 1096 };
    let kind = dense(shape, Element::F16, Epilogue::Bias);
    let case = Case::new(&context, &mut Random(8), kind);
    let plan = plan_gemm(context.device(), shape, GemmMode::Fast);
    assert!(plan.kernel.starts_with("gemm_small"), "{plan:?}");
    context.synchronize().unwrap();
    context.driver().begin_capture(context.stream()).unwrap();
    products.multiply(&context, case.args).unwrap();
    let graph = context.driver().end_capture(context.stream()).unwrap();
    for replay in 0..3 {
        let num_bytes = case.output.num_bytes();
        for command in [Command::Zero { to: case.output.ptr(), num_bytes }, Command::Replay(graph)]
        {
            // SAFETY: all buffers live until the results are read.
            unsafe { context.driver().enqueue(context.stream(), command).unwrap() };
        }
        for (i, &result) in case.results(&context)[..3 * 150].iter().enumerate() {
            let (expected, slack) = case.expected(i / 150, i % 150);
            let error = (f64::from(result) - expected).abs();
            assert!(error <= slack + 1e-6, "replay {replay}: {result}, not {expected}");
        }
    }
}

#[test]
fn a_product_without_rows_is_nothing() {
    let context = device(4, 1);
    let products = Products::new(&context).unwrap();
    let shape = GemmShape { rows: 2, cols: 16, inner: 16 };
    let kind = dense(shape, Element::Bf16, Epilogue::None);
    let mut case = Case::new(&context, &mut Random(9), kind);
    case.args.input.rows = 0;
    case.args.output.rows = 0;
    products.multiply(&context, case.args).unwrap();
    case.check(&context, "no rows");
}

#[track_caller]
fn assert_refused(change: impl FnOnce(&mut Gemm), parts: &[&str]) {
    let context = device(4, 1);
    let products = Products::new(&context).unwrap();
    let shape = GemmShape { rows: 2, cols: 16, inner: 24 };
    let kind = dense(shape, Element::Bf16, Epilogue::None);
    let mut case = Case::new(&context, &mut Random(9), kind);
    change(&mut case.args);
    let multiply = std::panic::AssertUnwindSafe(|| products.multiply(&context, case.args));
    let payload = std::panic::catch_unwind(multiply).unwrap_err();
    let message = payload.downcast_ref::<String>().unwrap();
    assert!(parts.iter().all(|part| message.contains(part)), "{message}");
}

#[test]
fn shapes_that_do_not_fit_are_refused_with_their_sizes() {
    assert_refused(|args| args.weight.cols = 16, &["gemm weight", "[16, 16]", "[16, 24]"]);
    assert_refused(|args| args.output.rows = 3, &["gemm output", "[3, 16]", "[2, 16]"]);
    assert_refused(|args| args.epilogue = Epilogue::Bias, &["Bias", "None"]);
    assert_refused(|args| args.input.stride = 28, &["gemm input", "stride 28", "16-byte"]);
    let narrow = |args: &mut Gemm| (args.input.cols, args.weight.cols) = (20, 20);
    assert_refused(narrow, &["gemm input", "rows of 20", "16-byte"]);
}
