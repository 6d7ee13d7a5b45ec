//! Figures of numpy 2.4.6 and scipy 1.17.1, made by
//! `numpy.percentile(x, p)`, `scipy.stats.kendalltau(a, b)` and
//! `scipy.stats.bootstrap((d,), numpy.mean, n_resamples=200000, method='BCa', random_state=s)`.

use proptest::prelude::*;
use rand_distr::{Distribution as _, Normal as NormalDraws};

use super::*;

fn close(left: f64, right: f64, tolerance: f64) {
    assert!((left - right).abs() <= tolerance, "{left} is not {right} within {tolerance}");
}

#[test]
fn percentiles_are_numpys() {
    let mut values = vec![3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
    values.sort_by(f64::total_cmp);
    let expected = [(0.0, 1.0), (10.0, 1.0), (25.0, 1.75), (50.0, 3.5), (90.0, 6.9), (99.0, 8.79)];
    for (percent, value) in expected {
        close(percentile(&values, percent).unwrap(), value, 1e-12);
    }
    assert_eq!(percentile(&values, 100.0), Some(9.0));
    assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
    assert_eq!(percentile(&[], 50.0), None);
}

#[test]
fn kendalls_tau_is_scipys_with_ties_too() {
    let left = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 7.0];
    let right = [2.0, 1.0, 4.0, 3.0, 5.0, 6.0, 6.0];
    close(kendall_tau(&left, &right).unwrap(), 0.75, 1e-12);
    let opposite: Vec<f64> = left.iter().map(|value| -value).collect();
    assert_eq!(kendall_tau(&left, &opposite), Some(-1.0));
    assert_eq!(kendall_tau(&left, &[1.0; 7]), None, "ties alone tell nothing");
    assert_eq!(kendall_tau(&left, &right[1..]), None);
}

#[test]
fn jains_index_is_one_for_equal_shares_and_one_nth_for_one_taker() {
    assert_eq!(jain_index(&[4.0, 4.0, 4.0]), Some(1.0));
    assert_eq!(jain_index(&[4.0, 0.0, 0.0, 0.0]), Some(0.25));
    assert_eq!(jain_index(&[0.0, 0.0]), Some(1.0));
    assert_eq!(jain_index(&[]), None);
}

/// Both take 200,000 resamples; over three seeds of its own scipy's ends move by 0.01.
#[test]
fn intervals_are_scipys() {
    let plain = Bootstrap {
        num_resamples: 200_000,
        widening: Widening::Never,
        seed: 7,
        ..Bootstrap::default()
    };
    let symmetric = [-4.1, -2.3, -6.2, -3.3, -1.9, -5.0, -2.2, -4.8, -3.0, -7.9];
    let interval = plain.of_mean(&symmetric).unwrap();
    close(interval.low, -5.41, 0.015);
    close(interval.high, -3.09, 0.015);
    let skewed = [0.1, 0.2, 0.1, 0.3, 5.0, 0.2, 0.1, 0.4, 0.2, 0.3, 0.1, 2.0];
    let interval = plain.of_mean(&skewed).unwrap();
    close(interval.low, 0.225, 0.015);
    close(interval.high, 2.2083, 0.015);
}

/// `scipy.stats.norm.cdf(-numpy.sqrt(n/(n-1)) * scipy.stats.t.ppf(0.975, n-1))` for 5, 10, 100.
#[test]
fn small_samples_widen_the_interval_as_students_t_asks() {
    for (num_values, share) in [(5, 0.000_954_100_55), (10, 0.008_550_639), (100, 0.023_064_387)] {
        let outer = Bootstrap::default().outer_quantile(num_values);
        close(standard_normal_cdf(-outer), share, 1e-8);
    }
}

/// `scipy.stats.t.ppf(0.975, n)` for 1, 2, 4, 9, 30; `scipy.stats.norm.ppf(0.975)`.
#[test]
fn quantiles_are_scipys() {
    let expected = [
        (1, 12.706_204_736_175),
        (2, 4.302_652_729_749),
        (4, 2.776_445_105_198),
        (9, 2.262_157_162_798),
        (30, 2.042_272_456_301),
    ];
    for (freedom, t) in expected {
        close(quantile(0.975, |t| student_cdf(t, freedom)), t, 1e-9);
    }
    close(standard_normal_quantile(0.975), 1.959_963_984_540, 1e-9);
}

/// Of 95 % intervals over five seeds, some 95 % should hold the truth. Unwidened they do not.
#[test]
fn widened_intervals_of_five_values_hold_the_truth_as_often_as_they_say() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let draws = NormalDraws::new(3.0, 1.0).unwrap();
    let mut held = [0, 0];
    for _ in 0..1000 {
        let values: Vec<f64> = (0..5).map(|_| draws.sample(&mut random)).collect();
        for (count, widening) in held.iter_mut().zip([Widening::Never, Widening::SmallSample]) {
            let bootstrap = Bootstrap { widening, num_resamples: 2000, ..Bootstrap::default() };
            *count += u32::from(bootstrap.of_mean(&values).unwrap().contains(3.0));
        }
    }
    // Student's t reaches 950; resampling of five values cannot look beyond the outermost of them.
    assert!(held[0] < 880, "unwidened: {held:?}");
    assert!((900..=975).contains(&held[1]), "widened: {held:?}");
}

#[test]
fn a_verdict_needs_the_whole_interval() {
    let judge = Judge::default();
    let verdict = |candidate: [f64; 5], direction| {
        judge.compare(&[100.0, 110.0, 90.0, 105.0, 95.0], &candidate, direction).unwrap().verdict
    };
    let faster = [80.0, 91.0, 70.0, 86.0, 74.0];
    assert_eq!(verdict(faster, Direction::Lower), Verdict::Better);
    assert_eq!(verdict(faster, Direction::Higher), Verdict::Worse);
    let equal_but_for_a_little = [100.1, 110.2, 90.1, 105.0, 94.9];
    assert_eq!(verdict(equal_but_for_a_little, Direction::Lower), Verdict::Same);
    let both_ways = [60.0, 150.0, 70.0, 125.0, 94.0];
    assert_eq!(verdict(both_ways, Direction::Lower), Verdict::CannotTell);
}

#[test]
fn one_pair_is_no_evidence() {
    let compare = |candidate| Judge::default().compare(&[10.0], &[candidate], Direction::Lower);
    assert_eq!(compare(2.0).unwrap().verdict, Verdict::CannotTell);
    assert_eq!(compare(10.0).unwrap().verdict, Verdict::Same);
    assert!(compare(f64::NAN).is_none());
    assert!(Judge::default().compare(&[], &[], Direction::Lower).is_none());
}

proptest! {
    #[test]
    fn percentiles_rise_and_stay_within_the_values(
        mut values in prop::collection::vec(-1e6..1e6_f64, 1..50),
        percents in (0.0..=100.0_f64, 0.0..=100.0_f64),
    ) {
        values.sort_by(f64::total_cmp);
        let (low, high) = (percents.0.min(percents.1), percents.0.max(percents.1));
        let (low, high) = (percentile(&values, low).unwrap(), percentile(&values, high).unwrap());
        prop_assert!(values[0] <= low && low <= high && high <= values[values.len() - 1]);
    }

    #[test]
    fn an_interval_lies_within_the_values_and_moves_with_them(
        values in prop::collection::vec(-100.0..100.0_f64, 2..12),
        shift in -50.0..50.0_f64,
    ) {
        let bootstrap = Bootstrap { num_resamples: 500, ..Bootstrap::default() };
        let interval = bootstrap.of_mean(&values).unwrap();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(least - 1e-9 <= interval.low && interval.low <= interval.high);
        prop_assert!(interval.high <= most + 1e-9);
        prop_assert_eq!(Some(interval), bootstrap.of_mean(&values), "same seed, same interval");
        let moved: Vec<f64> = values.iter().map(|value| value + shift).collect();
        let moved = bootstrap.of_mean(&moved).unwrap();
        prop_assert!((moved.low - interval.low - shift).abs() < 1e-6);
        prop_assert!((moved.high - interval.high - shift).abs() < 1e-6);
    }

    #[test]
    fn jains_index_lies_between_one_nth_and_one(
        shares in prop::collection::vec(0.0..1e6_f64, 1..30),
    ) {
        let index = jain_index(&shares).unwrap();
        prop_assert!(1.0 / shares.len() as f64 - 1e-9 <= index && index <= 1.0 + 1e-9);
    }

    #[test]
    fn taus_of_an_order_with_itself_and_its_reverse_are_one_and_minus_one(
        order in Just((0..12).map(f64::from).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let reversed: Vec<f64> = order.iter().map(|value| -value).collect();
        prop_assert_eq!(kendall_tau(&order, &order), Some(1.0));
        prop_assert_eq!(kendall_tau(&order, &reversed), Some(-1.0));
    }
}
