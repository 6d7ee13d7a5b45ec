//! What a GPU computed once, against what the device of tests computes: an emulator that differs
//! from the hardware would pass all tests that run on it alone.
//!
//! `golden/cuda.bin` holds the results of the cases below. To record it, run this on a GPU with
//! `FOLIO_TEST_DEVICE=nvidia` and `FOLIO_GOLDEN_RECORD` naming the file; `scripts/gpu_check` does.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod cuda_attention_cases;
mod cuda_common;
mod cuda_rows;

use cuda_attention_cases::{Cache, RowSpec, Spec, plan, run};
use cuda_common::{
    ELEMENTS, Random, context, download_f32, unit_roundoff, upload, upload_f32, upload_i32,
};
use cuda_rows::{DENSE, Matrix};
use folio_kernels::cpu::Activation;
use folio_kernels::cuda::{
    Activate, AttentionHeads, Context, Element, Epilogue, FillRandom, Gemm, GemmMode,
    GemmWorkspace, NormInput, OutputElement, PoolTexts, PooledLength, PooledTokens, RmsNorm,
    Splits, activate, fill_random, gemm, pool_texts, rms_norm,
};

/// Results of one case.
struct Golden {
    name: String,
    values: Vec<f32>,
    /// How far two devices may differ, relative to a number and to the root mean square of all.
    slack: [f64; 2],
}

fn filled(context: &Context, element: Element) -> Vec<f32> {
    let matrix = Matrix::empty(context, element, [1, 1000], DENSE);
    let args = FillRandom { output: matrix.view(), seed: 17, scale: 0.5, element };
    fill_random(context, args).unwrap();
    matrix.read(context)
}

fn normed(context: &Context, element: Element) -> Vec<f32> {
    let mut random = Random(1);
    let [x, y] =
        [0, 1].map(|_| Matrix::new(context, element, &random.normals(3 * 1032), 1032, DENSE));
    let weight = upload_f32(context, &random.normals(1032));
    let output = Matrix::empty(context, element, [3, 1032], DENSE);
    let args = RmsNorm {
        input: NormInput::Sum { left: x.view(), right: y.view() },
        rows: None,
        weight: weight.ptr(),
        epsilon: 1e-6,
        output: output.view(),
        element,
    };
    rms_norm(context, args).unwrap();
    output.read(context)
}

fn activated(context: &Context, element: Element, function: Activation) -> Vec<f32> {
    let mut random = Random(2);
    let [x, y] = [0, 1].map(|_| Matrix::new(context, element, &random.normals(800), 400, DENSE));
    let output = Matrix::empty(context, element, [2, 400], DENSE);
    let args = Activate {
        input: x.view(),
        factor: Some(y.view()),
        output: output.view(),
        function,
        element,
    };
    activate(context, args).unwrap();
    output.read(context)
}

/// A product of `rows` by the kernel that is chosen where results do not depend on their number.
fn multiplied(context: &Context, element: Element, rows: usize) -> Vec<f32> {
    let (cols, inner) = (136, 512);
    let mut random = Random(3);
    let x = Matrix::new(context, element, &random.normals(rows * inner), inner, DENSE);
    let weight = Matrix::new(context, element, &random.normals(cols * inner), inner, DENSE);
    let bias = upload(context, element, &random.normals(cols));
    let output = upload_f32(context, &vec![f32::NAN; rows * cols]);
    let args = Gemm {
        input: x.view(),
        weight: weight.view(),
        bias: Some(bias.ptr()),
        epilogue: Epilogue::Bias,
        output: output.view(0, [rows, cols], 4),
        output_element: OutputElement::F32,
        element,
        mode: GemmMode::Deterministic,
    };
    let workspace = GemmWorkspace::new(context).unwrap();
    gemm(context, &workspace, args).unwrap();
    download_f32(context, &output)
}

fn attended(context: &Context, element: Element, head_size: usize) -> Vec<f32> {
    let spec = Spec {
        element,
        heads: AttentionHeads { num_heads: 4, num_kv_heads: 2, head_size },
        block_size: 16,
        window: None,
        soft_cap: None,
        has_sinks: false,
        seed: 4,
    };
    let rows =
        [(200, 1), (70, 20), (33, 1)].map(|(seq_len, num_tokens)| RowSpec { seq_len, num_tokens });
    let cache = Cache::new(context, &spec, &rows);
    let plan = plan(context, &spec, &rows);
    run(context, &spec, (&cache, &plan), (&rows, &[0, 1, 2]), Splits::Fixed)
}

fn pooled(context: &Context, element: Element) -> Vec<f32> {
    let hidden = Matrix::new(context, element, &Random(5).normals(40 * 256), 256, DENSE);
    let cu_seqlens = upload_i32(context, &[0, 1, 33, 40]);
    let output = upload_f32(context, &[f32::NAN; 3 * 256]);
    let args = PoolTexts {
        hidden: hidden.view(),
        cu_seqlens: cu_seqlens.ptr(),
        tokens: PooledTokens::Mean,
        length: PooledLength::One,
        output: output.view(0, [3, 256], 4),
        element,
    };
    pool_texts(context, args).unwrap();
    download_f32(context, &output)
}

/// All cases in their order.
fn cases(context: &Context) -> Vec<Golden> {
    let mut cases = Vec::new();
    for element in ELEMENTS {
        let mut case = |name: &str, values: Vec<f32>, slack: [f64; 2]| {
            let name = format!("{name}_{}", element.suffix());
            cases.push(Golden { name, values, slack });
        };
        // One number may round to the neighbour: two units, and single precision before that.
        let rounded = [4.0 * unit_roundoff(element), 1e-6];
        case("fill", filled(context, element), [0.0, 0.0]);
        case("rms_norm", normed(context, element), rounded);
        case("silu", activated(context, element, Activation::Silu), rounded);
        case("gelu", activated(context, element, Activation::Gelu), rounded);
        // Sums of 512 products in single precision, in the order of either device.
        for rows in [3, 40, 200] {
            let name = format!("gemm_{rows}");
            case(&name, multiplied(context, element, rows), [512.0 * 6e-8, 512.0 * 6e-8]);
        }
        // Weights are rounded to 16 bits before they meet the values.
        for head_size in [64, 128] {
            let name = format!("attention_d{head_size}");
            let slack = [rounded[0], 2.0 * unit_roundoff(element)];
            case(&name, attended(context, element, head_size), slack);
        }
        case("pool", pooled(context, element), [64.0 * 6e-8, 64.0 * 6e-8]);
    }
    cases
}

/// Names and numbers one after the other, each with their count before them.
fn encode(cases: &[Golden]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for case in cases {
        bytes.extend((case.name.len() as u32).to_le_bytes());
        bytes.extend(case.name.as_bytes());
        bytes.extend((case.values.len() as u32).to_le_bytes());
        bytes.extend(case.values.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// What [`encode`] wrote.
fn decode(mut bytes: &[u8]) -> Vec<(String, Vec<f32>)> {
    let mut cases = Vec::new();
    while !bytes.is_empty() {
        let mut take = |unit: usize| {
            let (count, rest) = bytes.split_first_chunk::<4>().unwrap();
            let (taken, rest) = rest.split_at(u32::from_le_bytes(*count) as usize * unit);
            bytes = rest;
            taken
        };
        let name = String::from_utf8(take(1).to_vec()).unwrap();
        let numbers = take(4).chunks_exact(4);
        let values = numbers.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        cases.push((name, values));
    }
    cases
}

/// Asserts that what was recorded is what `cases` computed, as nearly as two devices must agree.
fn compare(cases: &[Golden], recorded: &[u8]) {
    let recorded = decode(recorded);
    assert_eq!(cases.len(), recorded.len(), "cases were added: record them on a GPU");
    for (case, (name, expected)) in cases.iter().zip(&recorded) {
        assert_eq!((&case.name, case.values.len()), (name, expected.len()), "record them again");
        let squares = expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        let rms = (squares / expected.len() as f64).sqrt();
        for (index, (&found, &expected)) in case.values.iter().zip(expected).enumerate() {
            let allowed = case.slack[0] * f64::from(expected).abs() + case.slack[1] * rms;
            let error = (f64::from(found) - f64::from(expected)).abs();
            assert!(error <= allowed, "{name}[{index}]: {found}, a GPU says {expected}");
        }
    }
}

#[test]
fn results_are_those_that_a_gpu_gave() {
    let cases = cases(&context());
    let bytes = encode(&cases);
    assert!(bytes.len() < 1 << 20, "{} bytes are too many to check in", bytes.len());
    // A recording agrees with itself, and with nothing that differs by more than devices may.
    compare(&cases, &bytes);
    if let Some(path) = std::env::var_os("FOLIO_GOLDEN_RECORD") {
        std::fs::write(&path, &bytes).unwrap();
        println!("recorded {} cases in {}", cases.len(), path.display());
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/cuda.bin");
    match std::fs::read(path) {
        Ok(recorded) => compare(&cases, &recorded),
        Err(_) => println!("nothing to compare with: no GPU has recorded tests/golden/cuda.bin"),
    }
}

#[test]
#[should_panic(expected = "fill_bf16[7]")]
fn a_device_that_differs_is_told_by_case_and_index() {
    let context = context();
    let values = filled(&context, Element::Bf16);
    let mut case = Golden { name: "fill_bf16".to_owned(), values, slack: [0.0; 2] };
    let recorded = encode(std::slice::from_ref(&case));
    case.values[7] += 0.25;
    compare(&[case], &recorded);
}
