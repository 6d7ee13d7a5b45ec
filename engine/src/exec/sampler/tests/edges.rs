//! Edits, masks, broken rows and extreme numbers.

use super::*;

const BANNED: f32 = f32::NEG_INFINITY;

#[test]
fn penalties_in_their_order() {
    let params = SamplingParams {
        penalties: Penalties {
            frequency: 0.5,
            presence: 0.25,
            repetition: 2.0,
            logit_bias: vec![(0, 10.0), (4, -1.0)],
        },
        ..SamplingParams::default()
    };
    // 0: generated twice; 1: once, falls below 0; 2: in the prompt only; 3: negative, in the
    // prompt only; 4: never seen.
    let counts = [(0, 2), (1, 1), (2, 0), (3, 0)];
    let context = RowContext { counts: &counts, ..context(&params) };
    let mut row = [4.0, 0.5, 3.0, -3.0, 2.0, 7.0];
    let mut scratch = RowScratch::default();
    let prepared = scratch.prepare(&mut row, &context);
    assert!(prepared.is_ok());
    let expected =
        [(4.0 - 2.0 * 0.5 - 0.25) / 2.0 + 10.0, (0.5 - 0.5 - 0.25) * 2.0, 1.5, -6.0, 1.0, 7.0];
    assert_eq!(row.map(f32::to_bits), expected.map(f32::to_bits));
}

#[test]
fn bias_forces_and_bans() {
    let row = [20.0, 10.0, 0.0, -10.0];
    let with = |token: TokenId, bias: f32| SamplingParams {
        penalties: Penalties { logit_bias: vec![(token, bias)], ..Penalties::default() },
        ..SamplingParams::default()
    };
    let (forced, banned) = (with(3, 100.0), with(0, -100.0));
    for position in 0..1_000 {
        let at = |params| RowContext { position, ..context(params) };
        assert_eq!(sample_id(&row, &at(&forced)), 3);
        assert_ne!(sample_id(&row, &at(&banned)), 0);
    }
}

#[test]
fn stop_tokens_wait_for_min_tokens() {
    let params = SamplingParams {
        stop: StopConditions { max_tokens: 10, min_tokens: 3, token_ids: vec![2, 0] },
        ..greedy()
    };
    let row = [4.0, 1.0, 5.0, 3.0];
    for (num_generated, expected) in [(0, 3), (1, 3), (2, 3), (3, 2), (4, 2)] {
        let context = RowContext { num_generated, ..context(&params) };
        assert_eq!(sample_id(&row, &context), expected, "after {num_generated}");
    }
}

#[test]
fn ids_beyond_the_vocabulary_are_skipped() {
    let params = SamplingParams {
        penalties: Penalties {
            repetition: 1.5,
            logit_bias: vec![(4, 100.0), (TokenId::MAX, 100.0)],
            ..Penalties::default()
        },
        stop: StopConditions { max_tokens: 1, min_tokens: 1, token_ids: vec![4, TokenId::MAX] },
        ..greedy()
    };
    let counts = [(4, 1), (TokenId::MAX, 1)];
    let context = RowContext { counts: &counts, ..context(&params) };
    assert_eq!(sample_id(&[0.0, 3.0, 1.0, 2.0], &context), 1);
}

#[test]
fn rows_without_a_token_say_why() {
    let nan = Unsampleable::NotANumber { token: 1 };
    let infinite = Unsampleable::Infinite { token: 2 };
    let sampled = SamplingParams { logprobs: Some(2), ..SamplingParams::default() };
    for params in [greedy(), SamplingParams::default(), sampled] {
        let of = |row: &[f32]| sample(row, &context(&params)).unwrap_err();
        assert_eq!(of(&[f32::NAN; 300][..]), Unsampleable::NotANumber { token: 0 });
        assert_eq!(of(&[1.0, f32::NAN, 3.0]), nan);
        assert_eq!(of(&[f32::INFINITY, f32::NAN, 3.0]), nan);
        assert_eq!(of(&[1.0, 3.0, f32::INFINITY]), infinite);
        assert_eq!(of(&[BANNED; 300][..]), Unsampleable::AllBanned);
    }
    assert_eq!(nan.to_string(), "the logit of token 1 is not a number");
    assert_eq!(infinite.to_string(), "the logit of token 2 is infinite");
    // NaN far into a long row, in an incomplete chunk.
    let mut row = normal_row(5_003, 1.0, 1);
    row[5_001] = f32::NAN;
    let error = sample(&row, &context(&greedy())).unwrap_err();
    assert_eq!(error, Unsampleable::NotANumber { token: 5_001 });
}

#[test]
fn a_mask_over_everything_fails_that_row_only() {
    let params = SamplingParams {
        stop: StopConditions { max_tokens: 2, min_tokens: 1, token_ids: vec![0, 1, 2] },
        ..greedy()
    };
    let mut scratch = RowScratch::default();
    let mut row = [1.0, 2.0, 3.0];
    let masked = sample_row(&mut row, &context(&params), &mut scratch);
    assert_eq!(masked, Err(Unsampleable::AllBanned));
    let next = sample_row(&mut [1.0, 2.0, 3.0], &context(&greedy()), &mut scratch);
    assert_eq!(next.unwrap().id, 2);
}

#[test]
fn extreme_logits() {
    let filters = [
        Sampling::default(),
        Sampling { top_k: 2, top_p: 0.5, min_p: 0.5, ..Sampling::default() },
        Sampling { temperature: f32::MIN_POSITIVE, top_p: 0.9, ..Sampling::default() },
        Sampling { temperature: 1e-45, ..Sampling::default() },
        Sampling { temperature: 0.0, ..Sampling::default() },
    ];
    for filter in filters {
        let params = SamplingParams { logprobs: Some(3), ..sampling(filter) };
        for row in [
            [-1e30, 1e30, 0.0, 1e29],
            [f32::MIN, f32::MAX, 0.0, BANNED],
            [BANNED, -1e30, BANNED, BANNED],
            [BANNED, f32::MIN, BANNED, BANNED],
        ] {
            let token = sample(&row, &context(&params)).unwrap();
            assert_eq!(token.id, 1, "{row:?} {:?}", params.sampling);
            let logprobs = token.logprobs.unwrap();
            assert_eq!(logprobs.logprob.to_bits(), 0f32.to_bits());
            assert_eq!(logprobs.top[0], (1, 0.0));
            assert!(logprobs.top.iter().all(|&(id, _)| row[id as usize] > BANNED));
        }
    }
}

/// Logits closer together than a histogram can tell apart, and as far apart as they can be.
#[test]
fn extreme_spreads_are_cut_right() {
    let tiny = f32::from_bits(1);
    let crowded: Vec<f32> = (0..3_000u16).map(|i| f32::from(i % 1_500) * tiny).collect();
    let wide: Vec<f32> = (0..3_000).map(|i| 2f32.powi(i % 250 - 125)).collect();
    for row in [crowded, wide] {
        let sampling = Sampling { top_k: 1_100, temperature: f32::MAX, ..Sampling::default() };
        let exact: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
        let mut expected = reference::ranking(&exact)[..1_100].to_vec();
        expected.sort_unstable();
        let kept = RowScratch::default().drawable(&row, &sampling).unwrap();
        assert!(kept.iter().map(|&(id, _)| id as usize).eq(expected));
    }
}

#[test]
fn a_penalty_cannot_overflow() {
    let params = SamplingParams {
        penalties: Penalties { repetition: 0.01, ..Penalties::default() },
        ..greedy()
    };
    let context = RowContext { counts: &[(0, 1), (1, 1)], ..context(&params) };
    assert_eq!(sample_id(&[f32::MAX, -1.0, 0.0], &context), 0);
}

/// One sequence's penalties must not be seen by the next row of the same scratch.
#[test]
fn penalties_stay_with_their_sequence() {
    let penalised = SamplingParams {
        penalties: Penalties {
            frequency: 2.0,
            presence: 2.0,
            repetition: 1.5,
            logit_bias: vec![(9, 50.0)],
        },
        logprobs: Some(5),
        ..SamplingParams::default()
    };
    let plain = SamplingParams { logprobs: Some(5), ..SamplingParams::default() };
    let counts: Vec<(TokenId, u32)> = (0..50).map(|token| (token, 3)).collect();
    let mut scratch = RowScratch::default();
    for position in 0..100 {
        let row = normal_row(100, 1.0, position);
        let with = RowContext { counts: &counts, position, ..context(&penalised) };
        let without = RowContext { position, ..context(&plain) };
        for context in [with, without, without, with] {
            let shared = sample_row(&mut row.clone(), &context, &mut scratch);
            assert_eq!(shared, sample(&row, &context));
        }
    }
}

#[test]
fn a_filter_that_keeps_all_changes_nothing() {
    let row = normal_row(2_000, 1.0, 77);
    let plain = SamplingParams::default();
    for (top_k, top_p, min_p) in [(2_000, 1.0, 0.0), (0, 1.0, 1e-30), (u32::MAX, 1.0, 0.0)] {
        let params = sampling(Sampling { top_k, top_p, min_p, ..Sampling::default() });
        for position in 0..200 {
            let at = |params| RowContext { position, ..context(params) };
            assert_eq!(sample_id(&row, &at(&params)), sample_id(&row, &at(&plain)));
        }
    }
}
