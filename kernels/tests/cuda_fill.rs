//! Made-up weights on the emulated device: the same anywhere, spread evenly, and within bounds.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{DENSE, Matrix, Words, assert_same};
use folio_kernels::cuda::{Context, Element, FillRandom, fill_floats, fill_random};

/// What the kernel promises for an element.
fn expected(element: Element, seed: u64, scale: f32, index: u64) -> f32 {
    let mut hash = seed.wrapping_add((index / 2 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let bits = (hash >> (32 * (index % 2))) as u32;
    round(element, ((bits >> 8) as f32 / 8_388_608.0 - 1.0) * scale)
}

fn filled(context: &Context, element: Element, len: usize, seed: u64) -> Vec<f32> {
    let matrix = Matrix::empty(context, element, [1, len], DENSE);
    let args = FillRandom { output: matrix.view(), seed, scale: 0.25, element };
    fill_random(context, args).unwrap();
    matrix.read(context)
}

#[test]
fn numbers_depend_on_place_and_seed_alone() {
    let context = context();
    for element in ELEMENTS {
        for len in [1, 7, 8, 9, 2048, 70_003] {
            for seed in [0, 1, u64::MAX] {
                let actual = filled(&context, element, len, seed);
                let expected: Vec<f32> =
                    (0..len as u64).map(|index| expected(element, seed, 0.25, index)).collect();
                assert_same(&actual, &expected, &format!("{element:?} {len} {seed}"));
            }
        }
    }
}

#[test]
fn numbers_are_spread_evenly() {
    let context = context();
    let len = 1 << 16;
    let (first, second) =
        (filled(&context, Element::F16, len, 1), filled(&context, Element::F16, len, 2));
    assert!(first.iter().all(|x| x.abs() <= 0.25));
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / len as f64;
    let number = |&x: &f32| f64::from(x) * 4.0;
    // Means of 65536 numbers: five standard deviations.
    assert!(mean(&mut first.iter().map(number)).abs() < 5.0 * 0.577 / 256.0);
    let variance = mean(&mut first.iter().map(|x| number(x).powi(2)));
    assert!((variance - 1.0 / 3.0).abs() < 5.0 * 0.3 / 256.0, "{variance}");
    let product = mean(&mut first.iter().zip(&second).map(|(x, y)| number(x) * number(y)));
    assert!(product.abs() < 5.0 / 3.0 / 256.0, "seeds are related: {product}");
    let next = mean(&mut first.iter().zip(&first[1..]).map(|(x, y)| number(x) * number(y)));
    assert!(next.abs() < 5.0 / 3.0 / 256.0, "neighbours are related: {next}");
}

#[test]
fn vectors_are_filled_to_their_end_and_no_further() {
    let context = context();
    for len in [0, 1, 1000, 20_000] {
        let words = Words::floats(&context, &vec![5.0; len + 3]);
        fill_floats(&context, words.ptr(), len, 1.5).unwrap();
        let mut expected = vec![1.5; len];
        expected.extend([5.0; 3]);
        assert_same(&words.read_floats(&context), &expected, "vector");
    }
}
