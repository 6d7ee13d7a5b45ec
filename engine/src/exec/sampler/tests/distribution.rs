//! What is drawn how often.

use super::*;

const NUM_DRAWS: u32 = 50_000;

/// Draws at `NUM_DRAWS` positions.
fn counts_of_draws(row: &[f32], base: &RowContext<'_>) -> Vec<u32> {
    let mut scratch = RowScratch::default();
    let mut counts = vec![0; row.len()];
    let mut edited = row.to_vec();
    for position in 0..NUM_DRAWS {
        edited.copy_from_slice(row);
        let context = RowContext { position, ..*base };
        let token = sample_row(&mut edited, &context, &mut scratch).unwrap();
        counts[token.id as usize] += 1;
    }
    counts
}

/// Pearson's test, with cells of fewer than 10 expected draws pooled. χ² with k degrees of
/// freedom is turned into a normal variate by Wilson and Hilferty's cube root; the limit of 5.6
/// has a false-alarm rate of about 1e-8 a test.
fn assert_fits(counts: &[u32], probabilities: &[f64], label: &str) {
    let (mut statistic, mut num_cells) = (0.0, 0);
    let (mut rare_count, mut rare_expected) = (0.0, 0.0);
    let mut add_cell = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        num_cells += 1;
    };
    for (token, (&count, &probability)) in counts.iter().zip(probabilities).enumerate() {
        let (count, expected) = (f64::from(count), probability * f64::from(NUM_DRAWS));
        assert!(count == 0.0 || expected > 0.0, "{label}: {token} was drawn");
        if expected >= 10.0 {
            add_cell(count, expected);
        } else {
            rare_count += count;
            rare_expected += expected;
        }
    }
    if rare_expected >= 10.0 {
        add_cell(rare_count, rare_expected);
    }
    if num_cells < 2 {
        return;
    }
    let spread = 2.0 / (9.0 * f64::from(num_cells - 1));
    let cube_root = (statistic / f64::from(num_cells - 1)).cbrt();
    let z = (cube_root - (1.0 - spread)) / spread.sqrt();
    assert!(z < 5.6, "{label}: χ² {statistic} over {num_cells} cells, z {z}");
}

fn assert_row_fits(row: &[f32], context: &RowContext<'_>, label: &str) {
    let expected =
        reference::distribution(&reference::edited(row, context), &context.params.sampling);
    assert_fits(&counts_of_draws(row, context), &expected, label);
}

#[test]
fn every_combination_of_filters() {
    let mut seed = 0;
    for temperature in [0.5, 1.0, 1.7] {
        for top_k in [0, 1, 7] {
            for top_p in [1.0, 0.8] {
                for min_p in [0.0, 0.1] {
                    let params = sampling(Sampling { temperature, top_k, top_p, min_p, seed });
                    let row = normal_row(24, 1.5, seed as u32);
                    let label = format!("{:?}", params.sampling);
                    assert_row_fits(&row, &context(&params), &label);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
fn everything_at_once() {
    let params = SamplingParams {
        sampling: Sampling { temperature: 1.3, top_k: 20, top_p: 0.9, min_p: 0.02, seed: 11 },
        penalties: Penalties {
            frequency: 0.4,
            presence: -0.3,
            repetition: 1.2,
            logit_bias: vec![(3, 2.0), (4, -100.0), (39, 1.0)],
        },
        stop: StopConditions { max_tokens: 100, min_tokens: 9, token_ids: vec![0, 17] },
        logprobs: Some(4),
        prompt_logprobs: None,
    };
    let counts = [(1, 0), (2, 1), (3, 5), (38, 2)];
    let context = RowContext { counts: &counts, num_generated: 8, ..context(&params) };
    assert_row_fits(&normal_row(40, 1.5, 900), &context, "everything");
}

/// Several blocks, the last one incomplete, so that the draw crosses block borders.
#[test]
fn a_row_of_several_blocks() {
    for (top_k, top_p) in [(0, 1.0), (400, 1.0), (0, 0.7), (500, 0.8)] {
        let params = sampling(Sampling { top_k, top_p, ..Sampling::default() });
        let row = normal_row(1_000, 1.0, 901);
        assert_row_fits(&row, &context(&params), &format!("{top_k} {top_p}"));
    }
}

/// With two equal logits a draw is a coin; coins of streams that should be independent agree
/// half of the time. 6 standard errors: 2e-9 a pair.
#[test]
fn choices_and_seeds_draw_independently() {
    let coins: Vec<Vec<TokenId>> = [(0, 0), (0, 1), (0, 2), (1, 0), (u64::MAX, 0)]
        .iter()
        .map(|&(seed, choice_index)| {
            let params = sampling(Sampling { seed, ..Sampling::default() });
            let tosses = (0..10_000).map(|position| {
                let context = RowContext { choice_index, position, ..context(&params) };
                sample_id(&[1.0, 1.0], &context)
            });
            tosses.collect()
        })
        .collect();
    for (i, a) in coins.iter().enumerate() {
        for (j, b) in coins.iter().enumerate().skip(i + 1) {
            let num_equal = a.iter().zip(b).filter(|(x, y)| x == y).count();
            let deviation = (num_equal as f64 - 5_000.0).abs();
            assert!(deviation < 300.0, "streams {i} and {j}: {num_equal}");
        }
    }
}

#[test]
fn a_draw_repeats_whatever_came_before() {
    let params = sampling(Sampling { top_p: 0.95, seed: 3, ..Sampling::default() });
    let row = normal_row(700, 1.0, 902);
    let mut scratch = RowScratch::default();
    for position in 0..200 {
        let context = RowContext { position, ..context(&params) };
        let alone = sample_id(&row, &context);
        // Another request's row of another vocabulary in between.
        let other = sampling(Sampling { top_k: 9, ..Sampling::default() });
        let mut other_row = normal_row(300 + position as usize, 2.0, position);
        sample_row(&mut other_row, &super::context(&other), &mut scratch).unwrap();
        let together = sample_row(&mut row.clone(), &context, &mut scratch).unwrap();
        assert_eq!(together.id, alone, "position {position}");
    }
}
