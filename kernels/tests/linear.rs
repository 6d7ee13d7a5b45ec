//! `linear` against f64, and the promise that a row's bits depend on nothing but the row.
#![allow(clippy::many_single_char_names, reason = "x, w, M, N and K as in the documentation")]

mod common;

use common::{Random, Weights, assert_close, assert_panics, assert_same_bits, pools};
use folio_kernels::cpu::{Matrix, Pool, WeightDtype, linear};
use proptest::prelude::*;

const DTYPES: [WeightDtype; 3] = [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16];

/// Expected output and, per element, the sum of the absolute terms.
fn reference(x: &[f32], w: &[f64], bias: Option<&[f32]>, k: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut sizes) = (Vec::new(), Vec::new());
    for x in x.chunks_exact(k) {
        for (n, w) in w.chunks_exact(k).enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[n]));
            let terms = || x.iter().zip(w).map(|(&x, w)| f64::from(x) * w);
            out.push(bias + terms().sum::<f64>());
            sizes.push(bias.abs() + terms().map(f64::abs).sum::<f64>());
        }
    }
    (out, sizes)
}

fn run(pool: &Pool, x: &[f32], w: &Weights, bias: Option<&[f32]>) -> Vec<f32> {
    let m = x.len() / w.matrix().cols();
    let mut out = vec![f32::NAN; m * w.matrix().rows()];
    linear(pool, x, &w.matrix(), bias, &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn matches_f64(m in 0usize..20, n in 1usize..90, k in 1usize..200, seed: u64) {
        check_against_f64(m, n, k, seed);
    }

    #[test]
    fn a_row_alone_has_the_same_bits(m in 1usize..70, n in 1usize..70, k in 1usize..80, seed: u64) {
        check_rows_alone(m, n, k, seed);
    }
}

fn check_against_f64(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random::new(seed);
    let x = random.values(m * k);
    let bias = random.values(n);
    for dtype in DTYPES {
        let w = Weights::new(dtype, n, k, &mut random);
        for bias in [None, Some(&bias[..])] {
            let (expected, sizes) = reference(&x, &w.values, bias, k);
            for pool in pools(2) {
                let out = run(&pool, &x, &w, bias);
                // The classical bound for k + 1 rounded sums, times the sum of absolute terms.
                let bound = |i: usize| (k + 2) as f64 * f64::from(f32::EPSILON) * sizes[i];
                assert_close(&out, &expected, bound, &format!("{:?} {dtype:?}", pool.isa()));
            }
        }
    }
}

fn check_rows_alone(m: usize, n: usize, k: usize, seed: u64) {
    let mut random = Random::new(seed);
    let x = random.values(m * k);
    let bias = random.values(n);
    for dtype in DTYPES {
        let w = Weights::new(dtype, n, k, &mut random);
        for (one, three) in pools(1).into_iter().zip(pools(3)) {
            let together = run(&three, &x, &w, Some(&bias));
            let what = format!("{:?} {dtype:?}", one.isa());
            assert_same_bits(&run(&one, &x, &w, Some(&bias)), &together, &what);
            let mut first = 0;
            while first < m {
                let last = m.min(first + 1 + random.below(9));
                let some = run(&one, &x[first * k..last * k], &w, Some(&bias));
                assert_same_bits(&some, &together[first * n..last * n], &what);
                first = last;
            }
        }
    }
}

#[test]
fn shapes_of_real_layers_match_f64() {
    // More than one chunk of K with and without a rest, many column tasks, several row tasks.
    for (m, n, k) in [(1, 300, 2048), (3, 130, 2500), (8, 64, 4096), (200, 40, 192), (97, 66, 1040)]
    {
        check_against_f64(m, n, k, (m + n + k) as u64);
    }
}

#[test]
fn rows_of_real_layers_have_the_same_bits_alone() {
    for (m, n, k) in [(64, 200, 2048), (130, 70, 1100), (16, 90, 4099)] {
        check_rows_alone(m, n, k, (m + n + k) as u64);
    }
}

#[test]
fn a_column_range_of_the_weights_gives_the_same_bits() {
    let mut random = Random::new(5);
    let (m, n, k) = (7, 50, 96);
    let x = random.values(m * k);
    let w = Weights::new(WeightDtype::Bf16, n, k, &mut random);
    for pool in pools(2) {
        let whole = run(&pool, &x, &w, None);
        let mut part = vec![0.0; m * 13];
        linear(&pool, &x, &w.matrix().row_range(21, 34), None, &mut part);
        for row in 0..m {
            let expected = &whole[row * n + 21..row * n + 34];
            assert_same_bits(&part[row * 13..][..13], expected, "row range");
        }
    }
}

#[test]
fn bad_sizes_are_named() {
    let pool = Pool::new(1);
    let data = vec![0; 4 * 6 * 8];
    let w = Matrix::new(WeightDtype::F32, &data, 6, 8).expect("48 elements");
    let x = [0.0; 16];
    assert_panics(&["x has 15", "K = 8"], || {
        linear(&pool, &x[..15], &w, None, &mut [0.0; 12]);
    });
    assert_panics(&["out has 11", "2 x 6"], || {
        linear(&pool, &x, &w, None, &mut [0.0; 11]);
    });
    assert_panics(&["bias has 5", "N = 6"], || {
        linear(&pool, &x, &w, Some(&[0.0; 5]), &mut [0.0; 12]);
    });
    assert_panics(&["rows 4..7", "6 rows"], || {
        let _ = w.row_range(4, 7);
    });
    let error = Matrix::new(WeightDtype::Bf16, &data, 6, 8).expect_err("wrong size");
    assert_eq!(error.to_string(), "matrix of 6 x 8 Bf16 does not fit its data of 192 bytes");
    let error = Matrix::new(WeightDtype::Bf16, &[], 6, 0).expect_err("no columns");
    assert_eq!(error.to_string(), "matrix of 6 x 0 has no columns");
    assert!(Matrix::new(WeightDtype::F32, &data, usize::MAX, 8).is_err());
}
