//! Pooled texts on the emulated device against f64.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use common::{Random, assert_panics};
use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{DENSE, LAYOUTS, Layout, Matrix, Words, assert_same};
use folio_kernels::cuda::{Context, Element, PoolTexts, PooledLength, PooledTokens, pool_texts};

const TOKENS: [PooledTokens; 3] = [PooledTokens::First, PooledTokens::Mean, PooledTokens::Last];
const LENGTHS: [PooledLength; 2] = [PooledLength::Kept, PooledLength::One];

/// Texts of `lengths` tokens, and their hidden states.
struct Case {
    element: Element,
    cols: usize,
    hidden: Vec<f32>,
    starts: Vec<i32>,
}

impl Case {
    fn new(element: Element, cols: usize, lengths: &[usize], random: &mut Random) -> Self {
        let mut starts = vec![0];
        for &length in lengths {
            starts.push(starts[starts.len() - 1] + length as i32);
        }
        let num = lengths.iter().sum::<usize>() * cols;
        let hidden = random.values(num).iter().map(|x| round(element, 3.0 * x)).collect();
        Self { element, cols, hidden, starts }
    }

    fn texts(&self) -> impl Iterator<Item = &[f32]> {
        self.starts
            .windows(2)
            .map(|ends| &self.hidden[ends[0] as usize * self.cols..ends[1] as usize * self.cols])
    }

    fn run(
        &self,
        context: &Context,
        layout: Layout,
        tokens: PooledTokens,
        length: PooledLength,
    ) -> Vec<f32> {
        let hidden = Matrix::new(context, self.element, &self.hidden, self.cols, layout);
        let starts = Words::ints(context, &self.starts);
        let num_texts = self.starts.len() - 1;
        let output = Words::floats(context, &vec![7.0; num_texts * self.cols]);
        let args = PoolTexts {
            hidden: hidden.view(),
            cu_seqlens: starts.ptr(),
            tokens,
            length,
            output: output.view([num_texts, self.cols]),
            element: self.element,
        };
        pool_texts(context, args).unwrap();
        output.read_floats(context)
    }
}

/// The vector of one text, `[tokens, cols]`, in f64, and the mean of absolute values.
fn expected(text: &[f32], cols: usize, tokens: PooledTokens, length: PooledLength) -> Vec<f64> {
    let rows: Vec<&[f32]> = text.chunks(cols).collect();
    let counted = match tokens {
        PooledTokens::First => &rows[..1],
        PooledTokens::Mean => &rows[..],
        PooledTokens::Last => &rows[rows.len() - 1..],
    };
    let mut vector: Vec<f64> = (0..cols)
        .map(|col| counted.iter().map(|row| f64::from(row[col])).sum::<f64>())
        .map(|sum| sum / counted.len() as f64)
        .collect();
    if length == PooledLength::One {
        let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
        for x in &mut vector {
            *x /= norm;
        }
    }
    vector
}

#[test]
fn vectors_match_f64() {
    let context = context();
    let mut random = Random::new(1);
    for element in ELEMENTS {
        for layout in LAYOUTS {
            for (cols, lengths) in
                [(8, vec![1, 2, 17]), (384, vec![40]), (257, vec![5, 33]), (1032, vec![70, 1])]
            {
                let case = Case::new(element, cols, &lengths, &mut random);
                for tokens in TOKENS {
                    for length in LENGTHS {
                        let actual = case.run(&context, layout, tokens, length);
                        for (text, actual) in case.texts().zip(actual.chunks(cols)) {
                            let expected = expected(text, cols, tokens, length);
                            for (col, (&actual, expected)) in
                                actual.iter().zip(expected).enumerate()
                            {
                                let error = (f64::from(actual) - expected).abs();
                                // Numbers up to 3, sums of up to 70 in trees of 5 + 16 levels.
                                assert!(
                                    error <= 24.0 * 3.0 * f64::from(f32::EPSILON),
                                    "{element:?} {layout:?} {tokens:?} {length:?}: column {col} \
                                     of {cols} is {actual}, expected {expected}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_text_does_not_depend_on_its_neighbours() {
    let context = context();
    let mut random = Random::new(2);
    let lengths = [9, 50, 1, 31];
    let case = Case::new(Element::Bf16, 320, &lengths, &mut random);
    for length in LENGTHS {
        let together = case.run(&context, DENSE, PooledTokens::Mean, length);
        for (index, text) in case.texts().enumerate() {
            let mut alone = Case::new(Element::Bf16, 320, &lengths[index..=index], &mut random);
            alone.hidden = text.to_vec();
            let alone = alone.run(&context, DENSE, PooledTokens::Mean, length);
            assert_same(&alone, &together[index * 320..][..320], "alone");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_in_its_own_text() {
    let context = context();
    let mut random = Random::new(3);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut case = Case::new(Element::F16, 64, &[3, 3, 3], &mut random);
        case.hidden[4 * 64 + 5] = bad;
        for length in LENGTHS {
            let actual = case.run(&context, DENSE, PooledTokens::Mean, length);
            let is_finite = |text: usize| actual[text * 64..][..64].iter().all(|x| x.is_finite());
            assert!(is_finite(0) && !is_finite(1) && is_finite(2), "{bad} {length:?}");
        }
    }
}

#[test]
fn a_text_without_tokens_is_not_a_number_and_zeros_stay_zeros() {
    let context = context();
    let mut random = Random::new(4);
    let mut case = Case::new(Element::Bf16, 16, &[2, 0, 2, 0], &mut random);
    case.hidden[2 * 16..].fill(0.0);
    for tokens in TOKENS {
        let actual = case.run(&context, DENSE, tokens, PooledLength::One);
        assert!(actual[..16].iter().all(|x| x.is_finite()), "{tokens:?}");
        assert_same(&actual[32..48], &[0.0; 16], "zeros");
        assert!(actual[16..32].iter().chain(&actual[48..]).all(|x| x.is_nan()), "{tokens:?}");
    }
}

#[test]
fn no_texts_are_no_launch_and_wrong_widths_a_panic() {
    let context = context();
    let mut random = Random::new(5);
    let mut case = Case::new(Element::Bf16, 16, &[], &mut random);
    assert!(case.run(&context, DENSE, PooledTokens::Mean, PooledLength::One).is_empty());
    case = Case::new(Element::Bf16, 16, &[2], &mut random);
    let hidden = Matrix::new(&context, Element::Bf16, &case.hidden, 16, DENSE);
    let output = Words::floats(&context, &[0.0; 8]);
    assert_panics(&["pool_texts", "[2, 16]", "[2, 8]"], || {
        let args = PoolTexts {
            hidden: hidden.view(),
            cu_seqlens: output.ptr(),
            tokens: PooledTokens::First,
            length: PooledLength::Kept,
            output: output.view([1, 8]),
            element: Element::Bf16,
        };
        pool_texts(&context, args).unwrap();
    });
}
