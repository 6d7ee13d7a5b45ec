//! Norms, rotary embedding, activations and row ops against f64, and their independence of
//! neighbours.

mod common;

use common::{Random, Weights, assert_close, assert_panics, assert_same_bits, erfc, pools};
use folio_kernels::cpu::{
    Activation, LayerNorm, Pool, RmsNorm, Rope, WeightDtype, activation, activation_mul, add,
    add_assign, add_layer_norm, add_rms_norm, embed, gather_rows, l2_normalize, layer_norm,
    mean_pool, rms_norm, rms_norm_in_place, rms_norm_rows, rope,
};
use proptest::prelude::*;

const EPSILON: f64 = f32::EPSILON as f64;

fn expected_activation(function: Activation, x: f64) -> f64 {
    match function {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Relu => x.max(0.0),
    }
}

const FUNCTIONS: [Activation; 4] =
    [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu];

#[test]
fn activations_match_f64_over_the_whole_range() {
    let x: Vec<f32> = (-40_000..=40_000).map(|i| i as f32 * 2.5e-4).collect();
    for function in FUNCTIONS {
        let expected: Vec<f64> =
            x.iter().map(|&x| expected_activation(function, f64::from(x))).collect();
        for pool in pools(2) {
            let mut out = vec![f32::NAN; x.len()];
            activation(&pool, function, &x, &mut out);
            // A rounded argument of the exponential costs its size in roundings; 50 covers |x| <=
            // 10.
            let slack = if function == Activation::Silu { 20.0 } else { 160.0 };
            let bound = |i: usize| {
                let tail = if x[i] < -1.0 { slack } else { 8.0 };
                tail * EPSILON * expected[i].abs() + 1e-37
            };
            assert_close(&out, &expected, bound, &format!("{function:?} {:?}", pool.isa()));
        }
    }
}

#[test]
fn activations_keep_their_limits() {
    let x = [f32::INFINITY, 1e30, 200.0, -200.0, -1e30, 0.0, f32::NAN];
    for function in FUNCTIONS {
        for pool in pools(1) {
            let mut out = [1.0; 7];
            activation(&pool, function, &x, &mut out);
            assert_eq!(out[..3], x[..3], "{function:?} of large values");
            assert!(out[3..6].iter().all(|&y| y == 0.0), "{function:?}: {out:?}");
            assert!(out[6].is_nan(), "{function:?} of NaN is {}", out[6]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn element_ops_match_f64(num in 0usize..3000, seed: u64) {
        let mut random = Random::new(seed);
        let (a, b) = (random.values(num), random.values(num));
        for pool in pools(2) {
            let mut out = vec![f32::NAN; num];
            add(&pool, &a, &b, &mut out);
            let sum: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            assert_same_bits(&out, &sum, "add");
            let mut out = b.clone();
            add_assign(&pool, &a, &mut out);
            assert_same_bits(&out, &sum, "add_assign");
            for function in FUNCTIONS {
                let mut plain = vec![f32::NAN; num];
                activation(&pool, function, &a, &mut plain);
                activation_mul(&pool, function, &a, &b, &mut out);
                let product: Vec<f32> = plain.iter().zip(&b).map(|(a, b)| a * b).collect();
                assert_same_bits(&out, &product, "activation_mul");
                // Element by element: no neighbour matters.
                let mut one = [0.0];
                if let Some((&last, &expected)) = a.last().zip(plain.last()) {
                    activation(&pool, function, &[last], &mut one);
                    assert_same_bits(&one, &[expected], "alone");
                }
            }
        }
    }

    #[test]
    fn norms_match_f64(rows in 0usize..40, size in 1usize..300, seed: u64) {
        check_norms(rows, size, seed);
    }

    #[test]
    fn rope_matches_f64(
        tokens in 0usize..9, heads in 1usize..5, half in 1usize..40, rest in 0usize..9, seed: u64,
    ) {
        check_rope(tokens, heads, half, rest, seed);
    }

    #[test]
    fn row_ops_move_and_pool_rows(
        lengths in prop::collection::vec(0usize..20, 1..6), size in 1usize..150, seed: u64,
    ) {
        check_rows(&lengths, size, seed);
    }
}

fn check_norms(rows: usize, size: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut x = random.values(rows * size);
    let delta = random.values(rows * size);
    let (weight, bias) = (random.values(size), random.values(size));
    for x in &mut x {
        *x = *x * 2.0 + 0.5;
    }
    let total: Vec<f32> = x.iter().zip(&delta).map(|(x, d)| x + d).collect();
    let rms = RmsNorm { weight: &weight, epsilon: 1e-6 };
    let layer = LayerNorm { weight: &weight, bias: Some(&bias), epsilon: 1e-5 };
    let bound = |_: usize| 16.0 * EPSILON * (size as f64).sqrt().max(4.0) * 4.0;
    for pool in pools(2) {
        let what = format!("{:?}", pool.isa());
        let mut out = vec![f32::NAN; x.len()];
        rms_norm(&pool, &x, rms, &mut out);
        assert_close(&out, &norm_f64(&x, &weight, None, 1e-6), bound, &what);
        let mut place = x.clone();
        rms_norm_in_place(&pool, &mut place, rms);
        assert_same_bits(&place, &out, "in place");
        let order: Vec<u32> = (0..rows as u32).rev().collect();
        rms_norm_rows(&pool, &x, &order, rms, &mut place);
        for (row, back) in place.chunks_exact(size).zip(out.chunks_exact(size).rev()) {
            assert_same_bits(row, back, "gathered");
        }
        for (x, out) in x.chunks_exact(size).zip(out.chunks_exact(size)) {
            let mut one = vec![f32::NAN; size];
            rms_norm(&pool, x, rms, &mut one);
            assert_same_bits(&one, out, "row alone");
        }
        layer_norm(&pool, &x, layer, &mut out);
        // The variance of a short row can be small, which magnifies the rounding of its mean.
        let expected = norm_f64(&x, &weight, Some(&bias), 1e-5);
        assert_close(&out, &expected, |i| bound(i) * 400.0 / (size as f64).min(400.0), &what);
        let (mut residual, mut expected) = (x.clone(), vec![f32::NAN; x.len()]);
        add_rms_norm(&pool, &delta, &mut residual, rms, &mut out);
        rms_norm(&pool, &total, rms, &mut expected);
        assert_same_bits(&residual, &total, "residual of the RMS norm");
        assert_same_bits(&out, &expected, "fused RMS norm");
        residual.copy_from_slice(&x);
        add_layer_norm(&pool, &delta, &mut residual, layer, &mut out);
        layer_norm(&pool, &total, layer, &mut expected);
        assert_same_bits(&residual, &total, "residual of the layer norm");
        assert_same_bits(&out, &expected, "fused layer norm");
    }
}

/// RMS norm without a bias, layer norm with one.
fn norm_f64(x: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f64) -> Vec<f64> {
    let size = weight.len();
    let mut out = Vec::new();
    for row in x.chunks_exact(size) {
        let row: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
        let mean = if bias.is_some() { row.iter().sum::<f64>() / size as f64 } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size as f64;
        for (i, x) in row.iter().enumerate() {
            let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
            out.push((x - mean) / (variance + epsilon).sqrt() * f64::from(weight[i]) + bias);
        }
    }
    out
}

fn check_rope(tokens: usize, heads: usize, half: usize, rest: usize, seed: u64) {
    let mut random = Random::new(seed);
    let head_size = 2 * half + rest;
    let x = random.values(tokens * heads * head_size);
    let (cos, sin) = (random.values(30 * half), random.values(30 * half));
    let positions: Vec<u32> = (0..tokens).map(|_| random.below(30) as u32).collect();
    let mut expected = Vec::new();
    for (token, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let x = &x[(token * heads + head) * head_size..][..head_size];
            let x = |i: usize| f64::from(x[i]);
            let angle = |table: &[f32], i: usize| f64::from(table[position as usize * half + i]);
            expected
                .extend((0..half).map(|i| x(i) * angle(&cos, i) - x(i + half) * angle(&sin, i)));
            expected
                .extend((0..half).map(|i| x(i + half) * angle(&cos, i) + x(i) * angle(&sin, i)));
            expected.extend((2 * half..head_size).map(x));
        }
    }
    let tables = Rope { cos: &cos, sin: &sin, rotary_size: 2 * half, head_size };
    for pool in pools(2) {
        let mut out = x.clone();
        rope(&pool, &mut out, &positions, tables);
        assert_close(&out, &expected, |_| 3.0 * EPSILON, &format!("{:?}", pool.isa()));
        let row = heads * head_size;
        for (token, expected) in out.chunks_exact(row).enumerate() {
            let mut one = x[token * row..(token + 1) * row].to_vec();
            rope(&pool, &mut one, &positions[token..=token], tables);
            assert_same_bits(&one, expected, "token alone");
        }
    }
}

fn check_rows(lengths: &[usize], size: usize, seed: u64) {
    let mut random = Random::new(seed);
    let num_rows: usize = lengths.iter().sum();
    let x = random.values(num_rows * size);
    let mut cu_seqlens = vec![0u32];
    for &length in lengths {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as u32);
    }
    for pool in pools(2) {
        let rows: Vec<u32> =
            (0..num_rows * 2).map(|_| random.below(num_rows.max(1)) as u32).collect();
        let mut out = vec![f32::NAN; rows.len() * size];
        gather_rows(&pool, &x, &rows, &mut out);
        for (row, out) in rows.iter().zip(out.chunks_exact(size)) {
            assert_same_bits(out, &x[*row as usize * size..][..size], "gather_rows");
        }
        let mut unit = x.clone();
        l2_normalize(&pool, &mut unit, size, 1e-12);
        for (row, unit) in x.chunks_exact(size).zip(unit.chunks_exact(size)) {
            let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            let expected: Vec<f64> = row.iter().map(|&x| f64::from(x) / length).collect();
            assert_close(unit, &expected, |_| (size as f64 + 4.0) * EPSILON, "l2_normalize");
        }
        let mut means = vec![f32::NAN; lengths.len() * size];
        mean_pool(&pool, &x, &cu_seqlens, &mut means);
        for (s, means) in means.chunks_exact(size).enumerate() {
            let rows = &x[cu_seqlens[s] as usize * size..cu_seqlens[s + 1] as usize * size];
            let expected: Vec<f64> = (0..size)
                .map(|i| {
                    let column = rows.iter().skip(i).step_by(size).map(|&x| f64::from(x));
                    column.sum::<f64>() / lengths[s].max(1) as f64
                })
                .collect();
            assert_close(means, &expected, |_| 24.0 * EPSILON, "mean_pool");
        }
        for dtype in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::F16] {
            let table = Weights::new(dtype, 11, size, &mut random);
            let ids: Vec<u32> = (0..num_rows).map(|_| random.below(11) as u32).collect();
            let mut out = vec![f32::NAN; ids.len() * size];
            embed(&pool, &table.matrix(), &ids, &mut out);
            let expected: Vec<f64> = ids
                .iter()
                .flat_map(|&id| table.values[id as usize * size..][..size].to_vec())
                .collect();
            assert_close(&out, &expected, |_| 0.0, &format!("embed {dtype:?}"));
        }
    }
}

#[test]
fn a_zero_row_normalises_to_zero() {
    for pool in pools(1) {
        let mut x = [0.0; 24];
        l2_normalize(&pool, &mut x, 12, 1e-12);
        assert_same_bits(&x, &[0.0; 24], "zeros");
        let weight = [1.0; 12];
        rms_norm_in_place(&pool, &mut x, RmsNorm { weight: &weight, epsilon: 1e-6 });
        assert_same_bits(&x, &[0.0; 24], "zeros");
    }
}

#[test]
fn large_shapes_use_every_thread_and_stay_the_same() {
    let mut random = Random::new(1);
    let (rows, size) = (300, 1024);
    let x = random.values(rows * size);
    let weight = random.values(size);
    let norm = RmsNorm { weight: &weight, epsilon: 1e-6 };
    for (one, four) in pools(1).into_iter().zip(pools(4)) {
        let (mut a, mut b) = (x.clone(), x.clone());
        rms_norm_in_place(&one, &mut a, norm);
        rms_norm_in_place(&four, &mut b, norm);
        assert_same_bits(&a, &b, "rms_norm");
        activation(&one, Activation::Gelu, &x, &mut a);
        activation(&four, Activation::Gelu, &x, &mut b);
        assert_same_bits(&a, &b, "gelu");
    }
}

#[test]
fn bad_sizes_are_named() {
    let pool = Pool::new(1);
    let weight = [1.0; 4];
    let norm = RmsNorm { weight: &weight, epsilon: 1e-6 };
    assert_panics(&["out has 7", "H = 4"], || {
        rms_norm_in_place(&pool, &mut [0.0; 7], norm);
    });
    assert_panics(&["x has 4", "out has 8"], || {
        rms_norm(&pool, &[0.0; 4], norm, &mut [0.0; 8]);
    });
    assert_panics(&["entry 1", "row 2", "there are 2"], || {
        rms_norm_rows(&pool, &[0.0; 8], &[0, 2], norm, &mut [0.0; 8]);
    });
    assert_panics(&["up has 3", "out has 4"], || {
        activation_mul(&pool, Activation::Silu, &[0.0; 4], &[0.0; 3], &mut [0.0; 4]);
    });
    let tables = Rope { cos: &[1.0; 6], sin: &[0.0; 6], rotary_size: 4, head_size: 4 };
    assert_panics(&["position 3", "end at 3"], || {
        rope(&pool, &mut [0.0; 8], &[2, 3], tables);
    });
    assert_panics(&["rotary size 6"], || {
        rope(&pool, &mut [0.0; 8], &[0], Rope { rotary_size: 6, ..tables });
    });
    let table = Weights::new(WeightDtype::F16, 3, 4, &mut Random::new(1));
    assert_panics(&["entry 0", "row 3"], || {
        embed(&pool, &table.matrix(), &[3], &mut [0.0; 4]);
    });
    assert_panics(&["x has 6", "[0, 2]"], || {
        mean_pool(&pool, &[0.0; 6], &[0, 2], &mut [0.0; 4]);
    });
}
