//! Attention on the emulated device against loops in double precision: over the paged cache, in
//! both kernels, and among the tokens of texts.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod cuda_attention_cases;
mod cuda_common;

use cuda_attention_cases::{Cache, RowSpec, Spec, check, check_head, expected_head, plan, run};
use cuda_common::{ELEMENTS, Random, download, rounded, upload, upload_i32};
use folio_emulator::{EmulatorOptions, TestDevice};
use folio_kernels::cuda::{
    AttentionHeads, AttentionLimits, AttentionPlan, AttentionStep, Context, Element,
    EncoderAttention, PrepareAttention, RowKinds, Splits, encoder_attention,
};

/// A context on a device of so many multiprocessors, where they can be chosen.
fn context(num_multiprocessors: u32) -> Context {
    let options = EmulatorOptions { num_multiprocessors, ..EmulatorOptions::default() };
    Context::new(TestDevice::open(options).driver).unwrap()
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

#[test]
fn padding_rows_change_nothing() {
    // Rows of the slot after the last see one position of block 0, where there is NaN.
    let spec = spec(Element::Bf16, [2, 2, 64]);
    let rows = decode_rows(&[100, 7, 200]);
    let context = context(2);
    let cache = Cache::new(&context, &spec, &rows);
    let plan = plan(&context, &spec, &rows);
    for splits in [Splits::Balanced, Splits::Fixed] {
        let padded: Vec<RowSpec> = [rows.clone(), decode_rows(&[1, 1, 1])].concat();
        let sequences = [0, 1, 2, 3, 3, 3];
        let output = run(&context, &spec, (&cache, &plan), (&padded, &sequences), splits);
        let num_real = output.len() / 2;
        check(&spec, (&rows, &sequences[..3]), &output[..num_real]);
        assert!(output[num_real..].iter().all(|x| x.is_nan()), "padding is the NaN that it sees");
    }
}

fn prefill_rows(rows: &[(usize, usize)]) -> Vec<RowSpec> {
    rows.iter().map(|&(seq_len, num_tokens)| RowSpec { seq_len, num_tokens }).collect()
}

#[test]
fn prompts_of_every_head_size_and_format() {
    let rows = prefill_rows(&[(2, 2), (70, 70), (133, 40)]);
    for element in ELEMENTS {
        for head_size in [32, 64, 80, 96, 128, 256] {
            run_and_check(&context(1), &spec(element, [2, 2, head_size]), &rows, Splits::Balanced);
        }
    }
}

#[test]
fn prompts_of_every_group_with_windows_soft_caps_and_sinks() {
    let mut random = Random(5);
    for group in [1, 3, 4, 7, 8, 16, 19] {
        let spec = Spec {
            window: [None, Some(1), Some(30), Some(64), Some(100)][random.below(5)],
            soft_cap: [None, Some(1.5)][random.below(2)],
            has_sinks: random.below(2) == 0,
            block_size: 16 << random.below(3),
            ..spec(ELEMENTS[random.below(2)], [1 + random.below(2), group, 32])
        };
        run_and_check(&context(2), &spec, &prefill_rows(&[(5, 3), (201, 33)]), Splits::Balanced);
    }
}

#[test]
fn long_prompts_in_wide_tiles() {
    let rows = prefill_rows(&[(300, 140), (70, 70)]);
    for (head_size, window, soft_cap) in
        [(64, None, None), (64, Some(90), Some(2.0)), (128, None, None)]
    {
        let options = EmulatorOptions { num_multiprocessors: 1, ..EmulatorOptions::default() };
        let device = TestDevice::open(options);
        let context = Context::new(device.driver).unwrap();
        let spec = Spec { window, soft_cap, ..spec(Element::F16, [1, 3, head_size]) };
        run_and_check(&context, &spec, &rows, Splits::Balanced);
        let Some(emulator) = device.emulator else {
            println!("left out on a GPU: which kernels were launched");
            continue;
        };
        let launches = emulator.counters().launches;
        let name = format!("attention_prefill_wide_f16_d{head_size}");
        assert_eq!(launches.get(name.as_str()), Some(&1), "{launches:?}");
    }
}

#[test]
fn prompts_and_decode_rows_in_one_step() {
    let rows = prefill_rows(&[(130, 1), (40, 40), (1, 1), (90, 7), (64, 1), (300, 1)]);
    for splits in [Splits::Balanced, Splits::Fixed] {
        for window in [None, Some(50)] {
            let spec = Spec { window, ..spec(Element::Bf16, [2, 3, 64]) };
            run_and_check(&context(3), &spec, &rows, splits);
        }
    }
}

#[test]
fn random_steps_on_one_plan_again_and_again() {
    let mut random = Random(77);
    for case in 0..12 {
        let group = [1, 2, 5, 8, 17][random.below(5)];
        let heads = [1 + random.below(3), group, [32, 64, 80, 128][random.below(4)]];
        let spec = Spec {
            window: [None, Some(17), Some(64), Some(129)][random.below(4)],
            soft_cap: [None, Some(1.5)][random.below(2)],
            has_sinks: random.below(2) == 0,
            block_size: 16 << random.below(4),
            seed: case,
            ..spec(ELEMENTS[random.below(2)], heads)
        };
        let rows: Vec<RowSpec> = (0..=random.below(5))
            .map(|_| {
                let seq_len = 1 + random.below(400);
                let num_tokens = [1, 1, 1 + random.below(seq_len.min(60))][random.below(3)];
                RowSpec { seq_len, num_tokens }
            })
            .collect();
        let sequences: Vec<usize> = (0..rows.len()).collect();
        let context = context(1 + random.below(12) as u32);
        let cache = Cache::new(&context, &spec, &rows);
        let plan = plan(&context, &spec, &rows);
        let first = run(&context, &spec, (&cache, &plan), (&rows, &sequences), Splits::Balanced);
        check(&spec, (&rows, &sequences), &first);
        let again = run(&context, &spec, (&cache, &plan), (&rows, &sequences), Splits::Balanced);
        let is_same = first.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(is_same, "case {case}: {rows:?}: {spec:?}");
    }
}

#[test]
fn texts_see_themselves_in_both_directions() {
    for (element, num_heads, head_size) in
        [(Element::Bf16, 3, 32), (Element::F16, 2, 64), (Element::Bf16, 1, 80)]
    {
        let context = context(1);
        // Long enough on average for wide tiles, where there are any.
        let lengths = [1usize, 64, 7, 350, 230];
        let num_tokens: usize = lengths.iter().sum();
        let width = num_heads * head_size;
        let numbers = rounded(element, &Random(7).normals(num_tokens * 3 * width));
        let merged = upload(&context, element, &numbers);
        let output = upload(&context, element, &vec![f32::NAN; num_tokens * width]);
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let mut view = merged.view(0, [num_tokens, 3 * width], 2);
            view.ptr = view.ptr.offset(part * width * 2);
            view.cols = width;
            view
        });
        let heads = AttentionHeads { num_heads, num_kv_heads: num_heads, head_size };
        let limits = AttentionLimits {
            heads,
            windows: vec![None],
            max_rows: lengths.len(),
            max_tokens: num_tokens,
        };
        let plan = AttentionPlan::new(&context, limits).unwrap();
        let step = AttentionStep {
            num_rows: lengths.len(),
            num_tokens,
            kinds: RowKinds::Mixed,
            splits: Splits::Fixed,
        };
        let starts: Vec<i32> =
            (0..=lengths.len()).map(|row| lengths[..row].iter().sum::<usize>() as i32).collect();
        let cu_seqlens = upload_i32(&context, &starts);
        let prepare = PrepareAttention {
            cu_seqlens: cu_seqlens.ptr(),
            seq_lens: None,
            row_slots: None,
            step,
        };
        plan.prepare(&context, &prepare).unwrap();
        let output_view = output.view(0, [num_tokens, width], 2);
        let scale = 1.0 / (head_size as f32).sqrt();
        let args =
            EncoderAttention { queries, keys, values, output: output_view, element, scale, step };
        encoder_attention(&context, &plan, &args).unwrap();
        let actual = download(&context, element, &output);

        let vector = |part: usize, token: usize, head: usize| {
            &numbers[token * 3 * width + part * width + head * head_size..][..head_size]
        };
        for bounds in starts.windows(2) {
            for token in bounds[0] as usize..bounds[1] as usize {
                for head in 0..num_heads {
                    let seen = bounds[0] as usize..bounds[1] as usize;
                    let keys: Vec<_> = seen.clone().map(|t| vector(1, t, head)).collect();
                    let values: Vec<_> = seen.map(|t| vector(2, t, head)).collect();
                    let score = |score: f64| score * f64::from(scale);
                    let expected =
                        expected_head(vector(0, token, head), &keys, &values, score, None);
                    let actual = &actual[token * width + head * head_size..][..head_size];
                    check_head(element, &expected, actual, &format!("token {token}, head {head}"));
                }
            }
        }
    }
}
