//! Embeddings and gathered rows on the emulated device against plain loops, bit by bit.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod common;
mod cuda_common;
mod cuda_rows;

use common::{Random, assert_panics};
use cuda_common::{ELEMENTS, context, round};
use cuda_rows::{DENSE, LAYOUTS, Matrix, Words, assert_same};
use folio_kernels::cuda::{Embed, TableLookup, embed, gather_rows};

/// The row that a token takes, or NaN when it is not in the table.
fn row(table: &[f32], cols: usize, index: i64) -> Vec<f32> {
    let rows: Vec<&[f32]> = table.chunks(cols).collect();
    let found = usize::try_from(index).ok().and_then(|index| rows.get(index));
    found.map_or(vec![f32::NAN; cols], |row| row.to_vec())
}

#[test]
fn one_table_is_copied_exactly() {
    let context = context();
    let mut random = Random::new(1);
    for element in ELEMENTS {
        for layout in LAYOUTS {
            for (cols, num_tokens) in [(8, 1), (64, 5), (100, 3), (2056, 2)] {
                let values: Vec<f32> =
                    random.values(7 * cols).iter().map(|&x| round(element, x)).collect();
                let table = Matrix::new(&context, element, &values, cols, layout);
                let ids: Vec<i32> = (0..num_tokens).map(|_| random.below(7) as i32).collect();
                let indices = Words::ints(&context, &ids);
                let output = Matrix::empty(&context, element, [num_tokens, cols], layout);
                let first = TableLookup { table: table.view(), indices: indices.ptr(), offset: 0 };
                let args = Embed { first, second: None, output: output.view(), element };
                embed(&context, args).unwrap();
                let expected: Vec<f32> =
                    ids.iter().flat_map(|&id| row(&values, cols, id.into())).collect();
                assert_same(
                    &output.read(&context),
                    &expected,
                    &format!("{element:?} {layout:?} {cols}"),
                );
            }
        }
    }
}

#[test]
fn two_tables_are_summed_and_rounded_once() {
    let context = context();
    let mut random = Random::new(2);
    for element in ELEMENTS {
        for layout in LAYOUTS {
            for cols in [16, 37, 520] {
                let mut table = |num_rows: usize| -> Vec<f32> {
                    random.values(num_rows * cols).iter().map(|&x| round(element, x)).collect()
                };
                let (tokens, positions) = (table(9), table(40));
                let (ids, places) = ([0, 8, 3, 3], [0, 1, 2, 37]);
                let first = Matrix::new(&context, element, &tokens, cols, layout);
                let second = Matrix::new(&context, element, &positions, cols, layout);
                let ids_there = Words::ints(&context, &ids);
                let places_there = Words::ints(&context, &places);
                let output = Matrix::empty(&context, element, [4, cols], layout);
                let lookup = |table: &Matrix, indices: &Words, offset| TableLookup {
                    table: table.view(),
                    indices: indices.ptr(),
                    offset,
                };
                let args = Embed {
                    first: lookup(&first, &ids_there, 0),
                    second: Some(lookup(&second, &places_there, 2)),
                    output: output.view(),
                    element,
                };
                embed(&context, args).unwrap();
                let mut expected = Vec::new();
                for (id, place) in ids.into_iter().zip(places) {
                    let left = row(&tokens, cols, id.into());
                    let right = row(&positions, cols, i64::from(place) + 2);
                    expected.extend(left.iter().zip(right).map(|(x, y)| round(element, x + y)));
                }
                let what = format!("{element:?} {layout:?} {cols}");
                assert_same(&output.read(&context), &expected, &what);
            }
        }
    }
}

#[test]
fn indices_outside_a_table_give_rows_of_nan() {
    let context = context();
    for element in ELEMENTS {
        for cols in [8, 12] {
            let table = Matrix::new(&context, element, &vec![1.0; 4 * cols], cols, DENSE);
            let ids = [3, 4, -1, i32::MAX, i32::MIN, 0];
            let indices = Words::ints(&context, &ids);
            let zeros = Words::ints(&context, &[0; 6]);
            let both = [(&indices, Some(&zeros)), (&zeros, Some(&indices)), (&indices, None)];
            for (first, second) in both {
                let output = Matrix::empty(&context, element, [6, cols], DENSE);
                let lookup = |indices: &Words| TableLookup {
                    table: table.view(),
                    indices: indices.ptr(),
                    offset: 0,
                };
                let args = Embed {
                    first: lookup(first),
                    second: second.map(lookup),
                    output: output.view(),
                    element,
                };
                embed(&context, args).unwrap();
                let there = if second.is_some() { 2.0 } else { 1.0 };
                let rows = [there, f32::NAN, f32::NAN, f32::NAN, f32::NAN, there];
                let expected: Vec<f32> = rows.iter().flat_map(|&x| vec![x; cols]).collect();
                assert_same(&output.read(&context), &expected, "rows");
            }
        }
    }
}

#[test]
fn rows_are_gathered_exactly() {
    let context = context();
    let mut random = Random::new(3);
    for element in ELEMENTS {
        for layout in LAYOUTS {
            for cols in [1, 8, 136, 333, 4096] {
                let values: Vec<f32> =
                    random.values(6 * cols).iter().map(|&x| round(element, x)).collect();
                let input = Matrix::new(&context, element, &values, cols, layout);
                let rows = [5, 0, 2, 2];
                let there = Words::ints(&context, &rows);
                let output = Matrix::empty(&context, element, [4, cols], layout);
                gather_rows(&context, input.view(), there.ptr(), output.view()).unwrap();
                let expected: Vec<f32> =
                    rows.iter().flat_map(|&index| row(&values, cols, index.into())).collect();
                assert_same(&output.read(&context), &expected, &format!("{layout:?} {cols}"));
            }
        }
    }
}

#[test]
fn no_rows_are_no_launch_and_wrong_widths_a_panic() {
    let context = context();
    let element = ELEMENTS[0];
    let table = Matrix::new(&context, element, &[1.0; 16], 8, DENSE);
    let indices = Words::ints(&context, &[0]);
    let output = Matrix::empty(&context, element, [1, 8], DENSE);
    let mut nothing = output.view();
    nothing.rows = 0;
    gather_rows(&context, table.view(), indices.ptr(), nothing).unwrap();
    context.synchronize().unwrap();
    assert!(output.read(&context).iter().all(|x| x.is_nan()), "nothing was to be written");
    let mut narrow = output.view();
    narrow.cols = 4;
    assert_panics(&["gather_rows", "8", "4"], || {
        gather_rows(&context, table.view(), indices.ptr(), narrow).unwrap();
    });
}
