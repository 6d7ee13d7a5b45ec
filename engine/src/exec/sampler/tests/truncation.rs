//! Which tokens survive, and log-probabilities, against the reference.

use proptest::prelude::*;

use super::*;

/// The tokens that the sampler can draw from final logits, with their probabilities.
fn drawable(row: &[f32], sampling: &Sampling) -> Vec<(TokenId, f64)> {
    let mut scratch = RowScratch::default();
    scratch.drawable(row, sampling).unwrap()
}

/// Fails unless the tokens kept lie between what the reference keeps under limits a little
/// tighter and a little looser: a token within 1e-5 of a limit may fall on either side.
fn assert_keeps(row: &[f32], sampling: &Sampling) {
    let exact: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
    let limits = |slack: f64| reference::Limits {
        top_p: f64::from(sampling.top_p) + slack,
        min_p: f64::from(sampling.min_p) * (1.0 - slack),
    };
    let must = reference::kept(&exact, sampling, &limits(-1e-5));
    let may = reference::kept(&exact, sampling, &limits(1e-5));
    let kept = drawable(row, sampling);
    let has = |id: &usize| kept.iter().any(|&(kept, _)| kept as usize == *id);
    // Weights are rounded to 2^-40 = e^-27.7 of the likeliest.
    let weight = |id: usize| (exact[id] - exact[must[0]]) / f64::from(sampling.temperature);
    for id in must.iter().filter(|&&id| weight(id) > -27.7) {
        assert!(has(id), "{id} is missing: {sampling:?}");
    }
    // Probabilities are those of the softmax over what was kept.
    let ids: Vec<usize> = kept.iter().map(|&(id, _)| id as usize).collect();
    let expected = reference::softmax(&exact, &ids, f64::from(sampling.temperature));
    for &(id, probability) in &kept {
        assert!(may.contains(&(id as usize)), "{id} is kept: {sampling:?}");
        let error = (probability - expected[id as usize]).abs();
        assert!(error < 1e-5, "{id}: {probability} is off by {error}");
    }
}

/// Rows of several shapes: coarse steps (many ties), banned tokens, spread and crowded logits.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let fine = prop::collection::vec(-8.0f32..8.0, 1..700);
    let coarse = prop::collection::vec((-6i8..6).prop_map(|step| f32::from(step) * 0.5), 1..700);
    let wide = prop::collection::vec(-300.0f32..300.0, 1..80);
    let crowded = prop::collection::vec(1.0f32..1.000_1, 1..700);
    let banned = prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), -3.0f32..3.0], 1..700);
    let any = prop_oneof![fine, coarse, wide, crowded, banned];
    any.prop_filter("something to draw", |row| row.iter().any(|x| x.is_finite()))
}

fn samplings() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![Just(1.0f32), 0.05f32..2.0];
    let top_k = prop_oneof![Just(0u32), 1u32..40, 1u32..900];
    let top_p = prop_oneof![Just(1.0f32), 0.01f32..1.0, Just(0.999_99), Just(1e-6)];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..1.0, Just(1.0)];
    (temperature, top_k, top_p, min_p, any::<u64>()).prop_map(
        |(temperature, top_k, top_p, min_p, seed)| Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
        },
    )
}

fn penalties(vocab_size: usize) -> impl Strategy<Value = (Penalties, Vec<(TokenId, u32)>)> {
    let ids = move || prop::collection::btree_map(0..vocab_size as TokenId, 0u32..4, 0..20);
    let strengths = (-2.0f32..2.0, -2.0f32..2.0, 0.5f32..2.0);
    (strengths, ids(), ids(), -5.0f32..5.0).prop_map(|(strengths, seen, biased, bias)| {
        let penalties = Penalties {
            frequency: strengths.0,
            presence: strengths.1,
            repetition: strengths.2,
            logit_bias: biased.into_keys().map(|token| (token, bias)).collect(),
        };
        (penalties, seen.into_iter().collect())
    })
}

fn rows_with_penalties() -> impl Strategy<Value = (Vec<f32>, Penalties, Vec<(TokenId, u32)>)> {
    rows().prop_flat_map(|row| {
        let penalties = penalties(row.len());
        (Just(row), penalties).prop_map(|(row, (penalties, counts))| (row, penalties, counts))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn keeps_what_the_reference_keeps(row in rows(), sampling in samplings()) {
        assert_keeps(&row, &sampling);
    }

    /// top-k alone is exact: no slack.
    #[test]
    fn top_k_keeps_exactly_k(row in rows(), k in 1u32..900) {
        let sampling = Sampling { top_k: k, temperature: 100.0, ..Sampling::default() };
        let exact: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
        let mut expected = reference::ranking(&exact);
        expected.truncate(k as usize);
        expected.retain(|&id| exact[id].is_finite());
        expected.sort_unstable();
        let kept: Vec<usize> =
            drawable(&row, &sampling).iter().map(|&(id, _)| id as usize).collect();
        prop_assert_eq!(kept, expected);
    }

    #[test]
    fn one_token_left_is_the_greedy_one(row in rows(), seed in any::<u64>()) {
        let best = sample_id(&row, &context(&greedy()));
        for (top_k, top_p) in [(1, 1.0), (0, 1e-9), (7, 0.0)] {
            let params = sampling(Sampling { top_k, top_p, seed, ..Sampling::default() });
            prop_assert_eq!(sample_id(&row, &context(&params)), best);
        }
    }

    /// The choice is no worse than the best by more than f32 rounds.
    #[test]
    fn greedy_under_penalties((row, penalties, counts) in rows_with_penalties()) {
        let params = SamplingParams { penalties, ..greedy() };
        let context = RowContext { counts: &counts, ..context(&params) };
        let edited = reference::edited(&row, &context);
        let best = edited[reference::ranking(&edited)[0]];
        let chosen = edited[sample_id(&row, &context) as usize];
        prop_assert!(chosen >= best - 1e-6 * best.abs().max(10.0), "{} {}", chosen, best);
    }

    /// Log-probabilities are those of the raw logits, whatever is done to them afterwards.
    #[test]
    fn logprobs_of_raw_logits(
        (row, penalties, counts) in rows_with_penalties(),
        sampling in samplings(),
        num_top in 0u32..=20,
    ) {
        let logprobs = Some(num_top);
        let params = SamplingParams { sampling, penalties, logprobs, ..Default::default() };
        let context = RowContext { counts: &counts, ..context(&params) };
        let expected = reference::logprobs(&row);
        let token = sample(&row, &context).unwrap();
        let TokenLogprobs { logprob, top } = *token.logprobs.unwrap();
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-5 * b.abs().max(1.0);
        prop_assert!(close(logprob, expected[token.id as usize]));
        let exact: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
        let mut ranked = reference::ranking(&exact);
        ranked.truncate(num_top as usize);
        ranked.retain(|&id| exact[id].is_finite());
        let ids: Vec<usize> = top.iter().map(|&(id, _)| id as usize).collect();
        prop_assert_eq!(&ids, &ranked);
        for (&(_, logprob), id) in top.iter().zip(ids) {
            prop_assert!(close(logprob, expected[id]));
        }
    }
}

/// Vocabularies as large as they come; each row goes through every filter.
#[test]
fn a_large_vocabulary() {
    const VOCAB_SIZE: usize = 151_936;
    for (stream, scale) in [(1, 0.02), (2, 2.5), (3, 6.0)] {
        let row = normal_row(VOCAB_SIZE, scale, stream);
        for (top_k, top_p) in [(0, 0.9), (50, 1.0), (5_000, 1.0), (50, 0.9), (0, 0.999)] {
            let sampling = Sampling { top_k, top_p, ..Sampling::default() };
            assert_same_set(&row, &sampling);
        }
    }
}

/// As [`assert_keeps`] for many tokens: compares numbers of tokens and borders of the ranking.
fn assert_same_set(row: &[f32], sampling: &Sampling) {
    let exact: Vec<f64> = row.iter().map(|&logit| f64::from(logit)).collect();
    let num_kept = |slack: f64| {
        let limits = reference::Limits { top_p: f64::from(sampling.top_p) + slack, min_p: 0.0 };
        reference::kept(&exact, sampling, &limits).len()
    };
    let ranking = reference::ranking(&exact);
    let kept = drawable(row, sampling);
    let least = num_kept(-1e-5);
    assert!(least <= kept.len() && kept.len() <= num_kept(1e-5), "{sampling:?}");
    // A set of n tokens that are all among the n likeliest is those n.
    let mut expected = ranking[..kept.len()].to_vec();
    expected.sort_unstable();
    assert!(kept.iter().map(|&(id, _)| id as usize).eq(expected), "{sampling:?}");
    let total: f64 = kept.iter().map(|&(_, probability)| probability).sum();
    assert!((total - 1.0).abs() < 1e-6, "{total}");
}

/// All logits equal: top-k and top-p count from the smallest id.
#[test]
fn ties_go_to_smaller_ids() {
    let row = vec![0.25; 150_000];
    let ids = |sampling: &Sampling| -> Vec<TokenId> {
        drawable(&row, sampling).iter().map(|&(id, _)| id).collect()
    };
    let top_k = Sampling { top_k: 777, ..Sampling::default() };
    assert!(ids(&top_k).into_iter().eq(0..777));
    let top_p = Sampling { top_p: 0.25, ..Sampling::default() };
    assert!(ids(&top_p).into_iter().eq(0..37_500));
    // Half of what top-k leaves.
    let both = Sampling { top_k: 1_000, top_p: 0.5, ..Sampling::default() };
    assert!(ids(&both).into_iter().eq(0..500));
    assert_eq!(sample_id(&row, &context(&greedy())), 0);
}
