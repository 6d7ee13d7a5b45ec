//! Every planted bug is caught by the checks of the kernel that has it: the emulator refuses to
//! go on, or numbers differ from double precision. Without the bug the same checks pass.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "../../../tests/cuda_attention_cases/mod.rs"]
mod cuda_attention_cases;
#[path = "../../../tests/cuda_common/mod.rs"]
mod cuda_common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_attention_cases::{Cache, RowSpec, Spec, check, plan, run};
use cuda_common::{Random, download_f32, rounded, upload};
use folio_emulator::{Emulator, EmulatorOptions};
use folio_kernels::cuda::{
    AttentionHeads, Context, Element, Epilogue, Gemm, GemmMode, GemmWorkspace, OutputElement,
    Splits, gemm_by_plan, gemm_plans,
};
use folio_mutants::{MUTANTS, Mutant};

/// A device on which kernels with the variant's name take the place of the others.
fn device(variant: &'static str, seed: u64) -> Context {
    // Of many multiprocessors, so that blocks share tiles; of one worker, so that what is caught
    // once is always caught.
    let num_multiprocessors = 5 + 7 * seed as u32;
    let options = EmulatorOptions {
        variant,
        seed,
        num_multiprocessors,
        num_workers: 1,
        ..Default::default()
    };
    Context::new(Emulator::with(options)).unwrap()
}

/// Attention of some rows, twice on the same plan, windows and soft caps among it.
fn check_attention(variant: &'static str, rows: &[(usize, usize)]) {
    let rows: Vec<RowSpec> =
        rows.iter().map(|&(seq_len, num_tokens)| RowSpec { seq_len, num_tokens }).collect();
    let sequences: Vec<usize> = (0..rows.len()).collect();
    for (seed, window) in [(1, None), (2, Some(70)), (3, None)] {
        let spec = Spec {
            element: Element::Bf16,
            heads: AttentionHeads { num_heads: 6, num_kv_heads: 2, head_size: 64 },
            block_size: 16,
            window,
            soft_cap: None,
            has_sinks: false,
            seed,
        };
        let context = device(variant, seed);
        let cache = Cache::new(&context, &spec, &rows);
        let plan = plan(&context, &spec, &rows);
        for _ in 0..2 {
            let step = (&rows[..], &sequences[..]);
            let output = run(&context, &spec, (&cache, &plan), step, Splits::Balanced);
            check(&spec, step, &output);
        }
    }
}

/// Products of every kernel that is for their shape, several times, since blocks meet by chance.
fn check_products(variant: &'static str) {
    for (seed, [num_rows, num_cols, inner]) in
        (0..).zip([[14, 90, 520], [70, 100, 328], [3, 64, 1000], [16, 160, 776]])
    {
        let context = device(variant, seed);
        let workspace = GemmWorkspace::new(&context).unwrap();
        let element = Element::Bf16;
        let matrix = |rows: usize| {
            let mut values = rounded(element, &Random(seed + rows as u64).normals(rows * inner));
            let buffer = {
                // What lies behind a matrix is NaN.
                let len = values.len();
                values.resize(len + 64, f32::NAN);
                upload(&context, element, &values)
            };
            (values, buffer)
        };
        let (input, input_buffer) = matrix(num_rows);
        let (weight, weight_buffer) = matrix(num_cols);
        let output = context.upload(&vec![0x5a; (num_rows + 1) * num_cols * 4]).unwrap();
        let args = Gemm {
            input: input_buffer.view(0, [num_rows, inner], 2),
            weight: weight_buffer.view(0, [num_cols, inner], 2),
            bias: None,
            epilogue: Epilogue::None,
            output: output.view(0, [num_rows, num_cols], 4),
            output_element: OutputElement::F32,
            element,
            mode: GemmMode::Fast,
        };
        for plan in gemm_plans(context.device(), args.shape(), GemmMode::Fast) {
            for _ in 0..2 {
                gemm_by_plan(&context, &workspace, args, plan).unwrap();
                let results = download_f32(&context, &output);
                for (i, &result) in results.iter().enumerate() {
                    let (row, col) = (i / num_cols, i % num_cols);
                    if row == num_rows {
                        assert_eq!(result.to_le_bytes(), [0x5a; 4], "written behind the output");
                        continue;
                    }
                    let pairs = input[row * inner..][..inner].iter().zip(&weight[col * inner..]);
                    let expected: f64 = pairs.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
                    let error = (f64::from(result) - expected).abs();
                    assert!(error < 1e-3, "{plan:?}: {result} instead of {expected}");
                }
            }
        }
    }
}

/// The checks of the kernel file that a mutant is made of.
fn check_unit(unit: &str, variant: &'static str) {
    match unit {
        "attention_decode.cu" => {
            // Of windows of 70 that end at 149 and 309, some warp sees one key at first: it is the
            // largest until a later one outgrows it.
            let rows = [(130, 1), (1, 1), (149, 1), (309, 1), (65, 1), (700, 1)];
            check_attention(variant, &rows);
        }
        "attention_prefill.cu" => check_attention(variant, &[(5, 3), (201, 33), (140, 90)]),
        "gemm.cu" | "gemm_small.cu" => check_products(variant),
        _ => panic!("no checks for {unit}"),
    }
}

/// What the checks said when they failed.
fn failure(mutant: &Mutant) -> Option<String> {
    let variant: &'static str = Box::leak(format!("__{}", mutant.name).into_boxed_str());
    let result = catch_unwind(AssertUnwindSafe(|| check_unit(mutant.unit, variant)));
    let payload = result.err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(
        text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_default(),
    )
}

#[test]
fn kernels_without_a_bug_pass() {
    for unit in ["attention_decode.cu", "attention_prefill.cu", "gemm.cu"] {
        check_unit(unit, "");
    }
}

#[test]
fn every_bug_can_be_planted() {
    let names = Emulator::with(EmulatorOptions::default()).kernel_names();
    let is_missing = |mutant: &&Mutant| {
        let kernel = format!("{}__{}", mutant.kernel, mutant.name);
        !names.contains(&kernel.as_str())
    };
    let missing: Vec<_> = MUTANTS.iter().filter(is_missing).map(|m| (m.name, m.file)).collect();
    assert!(
        missing.is_empty(),
        "the text that these change is not in the file once: change src/table.rs too: {missing:?}"
    );
}

#[test]
fn every_bug_is_caught() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        match failure(mutant) {
            Some(how) => println!("{}: {}", mutant.name, how.get(..200).unwrap_or(&how)),
            None => missed.push(mutant.name),
        }
    }
    assert!(missed.is_empty(), "nothing noticed: {missed:?}");
}
