//! Attention on the emulated device against loops in double precision: over the paged cache, in both
//! kernels, and among the tokens of texts.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod cuda_attention_cases;
mod cuda_common;

use cuda_attention_cases::{Cache, RowSpec, Spec, check, plan, run};
use cuda_common::{ELEMENTS, Random};
use folio_emulator::{Emulator, EmulatorOptions};
use folio_kernels::cuda::{AttentionHeads, Context, Element, Splits};

/// A context on a device of so many multiprocessors.
fn context(num_multiprocessors: u32) -> Context {
    let options = EmulatorOptions { num_multiprocessors, ..EmulatorOptions::default() };
    Context::new(Emulator::with(options)).unwrap()
}

fn spec(element: Element, [num_kv_heads, group, head_size]: [usize; 3]) -> Spec {
    Spec {
        element,
        heads: AttentionHeads { num_heads: num_kv_heads * group, num_kv_heads, head_size },
        block_size: 16,
        window: None,
        soft_cap: None,
        has_sinks: false,
        seed: (num_kv_heads * 10_000 + group * 1000 + head_size) as u64,
    }
}

fn decode_rows(seq_lens: &[usize]) -> Vec<RowSpec> {
    seq_lens.iter().map(|&seq_len| RowSpec { seq_len, num_tokens: 1 }).collect()
}

/// Runs `rows`, sequence i in row i, and checks the result.
fn run_and_check(context: &Context, spec: &Spec, rows: &[RowSpec], splits: Splits) {
    let sequences: Vec<usize> = (0..rows.len()).collect();
    let cache = Cache::new(context, spec, rows);
    let plan = plan(context, spec, rows);
    let output = run(context, spec, (&cache, &plan), (rows, &sequences), splits);
    check(spec, (rows, &sequences), &output);
}

#[test]
fn decode_rows_of_every_head_size_and_format() {
    let rows = decode_rows(&[1, 15, 64, 65, 130]);
    for element in ELEMENTS {
        for head_size in [32, 64, 80, 96, 128, 256] {
            run_and_check(&context(1), &spec(element, [2, 2, head_size]), &rows, Splits::Balanced);
        }
    }
}

#[test]
fn decode_rows_of_every_group() {
    for (group, block_size) in [(1, 16), (4, 32), (7, 64), (8, 128), (16, 16), (19, 32)] {
        let spec = Spec { block_size, ..spec(Element::Bf16, [2, group, 32]) };
        run_and_check(&context(2), &spec, &decode_rows(&[3, 200, 77]), Splits::Balanced);
    }
}

#[test]
fn decode_rows_are_split_evenly_and_put_together_again() {
    for (num_multiprocessors, seq_lens) in [
        (1, vec![300, 1, 20, 450]),
        (3, vec![640, 700]),
        (16, vec![1000]),
        (5, vec![64, 128, 192, 256, 320, 384, 448]),
        (7, vec![1; 40]),
    ] {
        let spec = spec(Element::F16, [1, 3, 32]);
        run_and_check(
            &context(num_multiprocessors),
            &spec,
            &decode_rows(&seq_lens),
            Splits::Balanced,
        );
    }
}

#[test]
fn decode_rows_with_windows_soft_caps_and_sinks() {
    let mut random = Random(11);
    for window in [1, 15, 64, 100, 1000] {
        let spec = Spec {
            window: Some(window),
            soft_cap: [None, Some(1.5)][random.below(2)],
            has_sinks: random.below(2) == 0,
            block_size: 16 << random.below(3),
            ..spec(ELEMENTS[random.below(2)], [2, 3, 64])
        };
        run_and_check(&context(4), &spec, &decode_rows(&[1, 63, 64, 101, 350]), Splits::Balanced);
    }
}
