//! Models against Hugging Face: checkpoints of `tests/golden` through the runner that serves.
//!
//! Expected values are float32 on the CPU (`scripts/make_golden.py`). Decoders run over the paged
//! KV cache, with blocks in no order; how a prompt is cut and what shares the step must not change
//! a single bit.

mod golden_support;

use folio_engine::exec::DeviceOptions;
use folio_engine::types::PromptLogprob;
use golden_support::{
    DecoderCase, EncoderCase, Lane, Loaded, Prompt, cross_cases, decoder_cases, encoder_cases,
    generate, minilm, prompt_logprobs, scores,
};

/// How far a logit may be from the reference, relative to the largest of its row.
const LOGIT_TOLERANCE: f32 = 1e-4;
/// How far a log-probability may be from the reference.
const LOGPROB_TOLERANCE: f64 = 1e-4;
/// How far a number of an embedding may be from the reference.
const EMBEDDING_TOLERANCE: f32 = 1e-5;
/// How far a score may be from the reference, which is in double precision.
const SCORE_TOLERANCE: f64 = 1e-4;
/// A greedy step is compared where the reference's best two logits are further apart than this.
const NOISE: f64 = 2e-3;

#[test]
fn logits_match_the_reference_at_every_position() {
    for case in decoder_cases() {
        let mut loaded = Loaded::decoder(&case, 1);
        for (index, prompt) in case.prompts.iter().enumerate() {
            let logits = loaded.logits(&prompt.ids, prompt.ids.len());
            let error = worst_row_error(&logits, &prompt.logits, case.vocab_size);
            assert!(
                error <= LOGIT_TOLERANCE,
                "{}, prompt {index}: relative error {error:e}",
                case.name
            );
        }
    }
}

#[test]
fn cutting_a_prompt_changes_no_bit() {
    for case in decoder_cases() {
        let mut loaded = Loaded::decoder(&case, 1);
        for prompt in &case.prompts {
            let whole = loaded.logits(&prompt.ids, prompt.ids.len());
            for chunk in [1, 7, 32] {
                let cut = loaded.logits(&prompt.ids, chunk);
                assert_same_bits(&cut, &whole, &format!("{}, chunks of {chunk}", case.name));
            }
        }
    }
}

#[test]
fn sharing_a_step_changes_no_bit() {
    for case in decoder_cases() {
        let mut alone = Loaded::decoder(&case, 1);
        let prompts = case.prompts.iter().map(|prompt| prompt.ids.as_slice());
        let expected = prompts.clone().map(|ids| alone.logits(ids, ids.len()));
        let expected = expected.collect::<Vec<_>>();
        for (num_threads, chunks) in [(1, [200; 4]), (2, [1, 3, 7, 50]), (3, [5, 2, 40, 11])] {
            let mut shared = Loaded::decoder(&case, num_threads);
            let mut lanes = prompts
                .clone()
                .zip(chunks)
                .map(|(ids, chunk)| Lane::new(ids, chunk))
                .collect::<Vec<_>>();
            let mixed = shared.run_lanes(&mut lanes);
            for (mixed, expected) in mixed.iter().zip(&expected) {
                let what = format!("{}, {num_threads} threads, chunks {chunks:?}", case.name);
                assert_same_bits(mixed, expected, &what);
            }
        }
    }
}

#[test]
fn greedy_tokens_of_the_whole_engine_match_the_reference() {
    for case in decoder_cases() {
        for (index, (found, prompt)) in generate(&case).iter().zip(&case.prompts).enumerate() {
            let is_clear = |margin: &&f64| **margin > NOISE;
            let num_clear = prompt.margins.iter().take_while(is_clear).count();
            assert_eq!(found.len(), prompt.greedy.len());
            assert_eq!(
                found[..num_clear],
                prompt.greedy[..num_clear],
                "{}, prompt {index}",
                case.name
            );
        }
    }
}

#[test]
fn log_probabilities_of_prompts_match_the_reference() {
    for case in decoder_cases() {
        for (index, prompt) in case.prompts.iter().enumerate() {
            let whole = prompt_logprobs(&case, prompt, (4096, 5));
            let error = worst_logprob_error(&case, prompt, &whole);
            let name = &case.name;
            assert!(error <= LOGPROB_TOLERANCE, "{name}, prompt {index}: error {error:e}");
            for chunk in [1, 7, 33] {
                let cut = prompt_logprobs(&case, prompt, (chunk, 5));
                assert_eq!(cut, whole, "{name}, prompt {index}, chunks of {chunk}");
            }
        }
    }
}

/// Largest difference of a log-probability, of a prompt's token or of one of the likeliest, from
/// that of the reference's logits in double precision.
fn worst_logprob_error(case: &DecoderCase, prompt: &Prompt, found: &[PromptLogprob]) -> f64 {
    assert_eq!(found.len(), prompt.ids.len() - 1, "all tokens but the first");
    let rows = prompt.logits.chunks_exact(case.vocab_size);
    let mut worst = 0.0f64;
    for ((row, score), &token) in rows.zip(found).zip(&prompt.ids[1..]) {
        let logit = |token: u32| f64::from(row[token as usize]);
        let sum = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>();
        let own = (token, score.logprobs.logprob);
        assert_eq!(score.logprobs.top.len(), 5);
        for &(token, logprob) in std::iter::once(&own).chain(&score.logprobs.top) {
            let difference = (f64::from(logprob) - (logit(token) - sum.ln())).abs();
            assert!(difference.is_finite(), "token {token}: {logprob}");
            worst = worst.max(difference);
        }
        // Ranks may differ where logits are closer than the arithmetic can tell.
        let num_above = |bound: f64| row.iter().filter(|&&x| f64::from(x) > bound).count();
        let ranks = num_above(logit(token) + NOISE) + 1..=num_above(logit(token) - NOISE).max(1);
        assert!(ranks.contains(&(score.rank as usize)), "rank {} of {ranks:?}", score.rank);
    }
    worst
}

#[test]
fn embeddings_match_the_reference_alone_and_together() {
    check_embeddings(encoder_cases());
}

#[test]
fn scores_of_pairs_match_the_reference_alone_and_together() {
    for case in cross_cases() {
        let cpu = |num_threads| DeviceOptions::Cpu { num_threads };
        let together = scores(&case, cpu(1), 4096);
        for (index, (&found, pair)) in together.iter().zip(&case.pairs).enumerate() {
            let error = (f64::from(found) - pair.score).abs();
            let name = &case.name;
            assert!(error <= SCORE_TOLERANCE, "{name}, pair {index}: {found}, error {error:e}");
        }
        assert_same_bits(&scores(&case, cpu(2), 140), &together, &format!("{} cut", case.name));
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "says why there is nothing to do")]
fn embeddings_of_the_real_minilm_match_sentence_transformers() {
    match minilm() {
        Some(case) => check_embeddings(vec![case]),
        None => println!("not run: .cache/minilm is not there; scripts/fetch_minilm.sh fetches it"),
    }
}

fn check_embeddings(cases: Vec<EncoderCase>) {
    for case in cases {
        let mut loaded = Loaded::encoder(&case, 1);
        let alone = case.texts.iter().map(|text| loaded.embed(&[&text.ids]).remove(0));
        let alone = alone.collect::<Vec<_>>();
        for (index, (found, text)) in alone.iter().zip(&case.texts).enumerate() {
            let error = worst_error(found, &text.embedding);
            let name = &case.name;
            assert!(error <= EMBEDDING_TOLERANCE, "{name}, text {index}: error {error:e}");
        }
        let all = case.texts.iter().map(|text| text.ids.as_slice()).collect::<Vec<_>>();
        for num_threads in [1, 2] {
            let together = Loaded::encoder(&case, num_threads).embed(&all);
            for (together, alone) in together.iter().zip(&alone) {
                assert_same_bits(together, alone, &format!("{} together", case.name));
            }
        }
    }
}

#[test]
fn the_fixtures_cover_every_architecture() {
    let decoders = decoder_cases();
    let families = ["llama", "mistral", "qwen2", "qwen3"];
    for family in families {
        let has = |case: &DecoderCase| case.name.starts_with(family);
        assert!(decoders.iter().any(has), "no fixture of {family}");
    }
    let encoders = encoder_cases();
    for family in ["bert", "xlm"] {
        let has = |case: &EncoderCase| case.name.contains(family);
        assert!(encoders.iter().any(has), "no fixture of {family}");
    }
}

/// Largest difference of two rows of logits, relative to the row's largest expected one.
fn worst_row_error(found: &[f32], expected: &[f32], vocab_size: usize) -> f32 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks_exact(vocab_size).zip(expected.chunks_exact(vocab_size));
    rows.map(|(found, expected)| {
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        worst_error(found, expected) / largest
    })
    .fold(0.0, f32::max)
}

/// Largest difference; infinite where a number is not finite.
fn worst_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |worst: f32, x| if x.is_finite() { worst.max(x) } else { f32::INFINITY })
}

fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let mut pairs = found.iter().zip(expected).enumerate();
    let differing = pairs.find(|(_, (a, b))| a.to_bits() != b.to_bits());
    assert!(differing.is_none(), "{what}: first difference {differing:?}");
}
