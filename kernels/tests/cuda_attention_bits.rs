//! With `Splits::Fixed`, a position's result is the same bit for bit, however the step looks.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod cuda_attention_cases;
mod cuda_common;

use std::collections::BTreeSet;

use cuda_attention_cases::{Cache, RowSpec, Spec, check, plan, run};
use cuda_common::{ELEMENTS, Random};
use folio_emulator::{EmulatorOptions, TestDevice};
use folio_kernels::cuda::{AttentionHeads, Context, Splits};

/// Results of sequences by position: `[sequence][position]`, `[N * D]` each; empty: not computed.
type Results = Vec<Vec<Vec<f32>>>;

/// Computes all positions of all sequences in random steps of random chunks, on a device of a
/// random size. Unless `is_mixed`, one sequence at a time. Names of kernels that ran enter
/// `launched`.
fn compute(
    spec: &Spec,
    seq_lens: &[usize],
    (is_mixed, seed): (bool, u64),
    launched: &mut BTreeSet<&'static str>,
) -> Results {
    let mut random = Random(seed);
    let options = EmulatorOptions {
        num_multiprocessors: 1 + random.below(4) as u32,
        seed,
        ..EmulatorOptions::default()
    };
    let device = TestDevice::open(options);
    let context = Context::new(device.driver).unwrap();
    let whole: Vec<RowSpec> =
        seq_lens.iter().map(|&seq_len| RowSpec { seq_len, num_tokens: seq_len }).collect();
    // All keys are there from the start: what a query may not see yet has to make no difference.
    let cache = Cache::new(&context, spec, &whole);
    let plan = plan(&context, spec, &whole);
    let mut results: Results = vec![Vec::new(); seq_lens.len()];
    loop {
        let open: Vec<usize> =
            (0..seq_lens.len()).filter(|&s| results[s].len() < seq_lens[s]).collect();
        let Some(&first) = open.first() else {
            if let Some(emulator) = &device.emulator {
                launched.extend(emulator.counters().launches.keys());
            }
            return results;
        };
        let sequences = if is_mixed { open } else { vec![first] };
        let rows: Vec<RowSpec> = sequences
            .iter()
            .map(|&sequence| {
                let left = seq_lens[sequence] - results[sequence].len();
                let chunk = match random.below(3) {
                    0 => 1,
                    1 => 1 + random.below(20),
                    _ => 1 + random.below(200),
                };
                let num_tokens = chunk.min(left);
                RowSpec { seq_len: results[sequence].len() + num_tokens, num_tokens }
            })
            .collect();
        let output = run(&context, spec, (&cache, &plan), (&rows, &sequences), Splits::Fixed);
        let width = spec.heads.num_heads * spec.heads.head_size;
        let mut tokens = output.chunks(width);
        for (row, &sequence) in rows.iter().zip(&sequences) {
            let taken = tokens.by_ref().take(row.num_tokens).map(<[f32]>::to_vec);
            results[sequence].extend(taken);
        }
    }
}

#[test]
fn bits_do_not_depend_on_batch_chunking_or_kind() {
    let seq_lens = [150, 1, 67];
    for (case, (group, head_size, window)) in
        [(5, 64, None), (4, 32, Some(70)), (7, 32, None), (2, 80, Some(33)), (2, 256, None)]
            .into_iter()
            .enumerate()
    {
        let spec = Spec {
            element: ELEMENTS[case % 2],
            heads: AttentionHeads { num_heads: group, num_kv_heads: 1, head_size },
            block_size: 16 << (case % 3),
            window,
            soft_cap: (case == 1).then_some(2.0),
            has_sinks: case == 2,
            seed: case as u64,
        };
        let rows = seq_lens.map(|seq_len| RowSpec { seq_len, num_tokens: seq_len });
        let mut launched = BTreeSet::new();
        let alone = compute(&spec, &seq_lens, (false, 1), &mut launched);
        let flat: Vec<f32> = alone.iter().flatten().flatten().copied().collect();
        check(&spec, (&rows, &[0, 1, 2]), &flat);
        for seed in 2..4 {
            let mixed = compute(&spec, &seq_lens, (true, seed), &mut launched);
            for (sequence, (a, b)) in alone.iter().zip(&mixed).enumerate() {
                for (position, (a, b)) in a.iter().zip(b).enumerate() {
                    assert!(
                        a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "sequence {sequence}, position {position}, seed {seed}: {spec:?}"
                    );
                }
            }
        }
        if launched.is_empty() {
            println!("left out on a GPU: which kernels were launched");
            continue;
        }
        // Where there are two sizes of tiles, both have had a part in it.
        let tiles = launched.iter().filter(|name| name.starts_with("attention_prefill")).count();
        assert_eq!(tiles, if head_size == 64 { 2 } else { 1 }, "{launched:?}");
    }
}
