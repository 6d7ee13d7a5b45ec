//! What kernels are written in, each word against its definition.

use std::collections::HashSet;

use folio_emulator::{Emulator, EmulatorOptions};
use folio_kernels::cuda::{Context, DevicePtr, Element, Launch};
use half::{bf16, f16};

use crate::cuda_common::{
    ELEMENTS, Random, context, download_f32, download_i32, rounded, upload, upload_f32, upload_i32,
};
use crate::{Probe, one_block, probe, zeros};

/// Runs one warp of a probe that writes ints, and gives them in rows of 32.
fn rows_of_a_warp(name: &str, num_rows: usize) -> Vec<Vec<i32>> {
    let context = context();
    let output = zeros(&context, num_rows * 128);
    let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count: 0, variant: 0 };
    probe(&context, name, one_block(32, 0), &params).unwrap();
    download_i32(&context, &output).chunks(32).map(<[i32]>::to_vec).collect()
}

fn of_lanes(value: impl Fn(i32) -> i32) -> Vec<i32> {
    (0..32).map(value).collect()
}

#[test]
fn warps_sum_rows_of_sixteen_bit_numbers() {
    for element in ELEMENTS {
        let context = context();
        let values = Random(3).normals(37 * 32);
        let input = upload(&context, element, &values);
        let output = context.allocate(37 * 4).unwrap();
        let name = format!("probe_sum_rows_{}", element.suffix());
        let launch = Launch { grid: [10, 1, 1], num_threads: 128, shared_bytes: 0 };
        let params = Probe { input: input.ptr(), output: output.ptr(), count: 37, variant: 0 };
        probe(&context, &name, launch, &params).unwrap();
        let sums = download_f32(&context, &output);
        for (row, sum) in rounded(element, &values).chunks(32).zip(sums) {
            let expected: f64 = row.iter().map(|&x| f64::from(x)).sum();
            assert!((expected - f64::from(sum)).abs() < 1e-4, "{sum} instead of {expected}");
        }
    }
}

#[test]
fn shuffles_read_the_lanes_that_cuda_says() {
    let rows = rows_of_a_warp("probe_shuffles", 8);
    let expected = [
        of_lanes(|lane| 100 + (lane * 7) % 32),
        of_lanes(|lane| 100 + lane / 8 * 8 + 3),
        of_lanes(|lane| 100 + if lane < 3 { lane } else { lane - 3 }),
        of_lanes(|lane| 100 + if lane % 8 < 3 { lane } else { lane - 3 }),
        of_lanes(|lane| 100 + if lane + 5 > 31 { lane } else { lane + 5 }),
        of_lanes(|lane| 100 + if lane % 16 + 5 > 15 { lane } else { lane + 5 }),
        of_lanes(|lane| 100 + (lane ^ 9)),
        of_lanes(|lane| 100 + (lane + 16) % 32),
    ];
    for (row, (got, expected)) in rows.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "row {row}");
    }
}

#[test]
fn votes_count_the_lanes_of_their_mask() {
    let rows = rows_of_a_warp("probe_votes", 7);
    let thirds = (0..32).filter(|lane| lane % 3 == 0).fold(0u32, |bits, lane| bits | 1 << lane);
    let expected = [
        of_lanes(|_| thirds as i32),
        of_lanes(|_| 1),
        of_lanes(|_| 0),
        of_lanes(|_| 1),
        of_lanes(|_| 0),
        of_lanes(|lane| if lane < 16 { 0xaaaa } else { 0 }),
        of_lanes(|lane| if lane < 16 { 120 } else { 31 }),
    ];
    for (row, (got, expected)) in rows.iter().zip(&expected).enumerate() {
        assert_eq!(got, expected, "row {row}");
    }
}

#[test]
fn atomics_of_all_blocks_add_up() {
    for seed in 0..8 {
        let emulator = Emulator::with(EmulatorOptions { seed, ..EmulatorOptions::default() });
        let context = Context::new(emulator).unwrap();
        let output = zeros(&context, 64);
        let launch = Launch { grid: [8, 1, 1], num_threads: 128, shared_bytes: 0 };
        let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count: 0, variant: 0 };
        probe(&context, "probe_atomics", launch, &params).unwrap();
        let got = download_i32(&context, &output);
        let sum = 1024 * 1023 / 2;
        assert_eq!(got[..4], [sum, 1024, 1023, -1023], "seed {seed}");
        assert_eq!(got[4], 512f32.to_bits() as i32, "seed {seed}");
        assert_eq!(got[5..10], [2048, 1024, 1024, 1024, sum], "seed {seed}");
    }
}

#[test]
fn threads_know_where_in_the_grid_they_are() {
    let context = context();
    let (grid, num_threads) = ([3, 4, 5], 48);
    let num_rows = 60 * num_threads;
    let output = zeros(&context, num_rows * 16);
    let launch = Launch { grid, num_threads, shared_bytes: 0 };
    let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count: 0, variant: 0 };
    probe(&context, "probe_indices", launch, &params).unwrap();
    let got = download_i32(&context, &output);
    let mut expected = Vec::new();
    for z in 0..5 {
        for y in 0..4 {
            for x in 0..3 {
                (0..48).for_each(|thread| expected.extend([x, y, z, thread]));
            }
        }
    }
    assert_eq!(got, expected);
}

#[test]
fn the_seed_decides_the_order_of_blocks() {
    let order = |seed| {
        let options = EmulatorOptions { seed, num_workers: 1, ..EmulatorOptions::default() };
        let context = Context::new(Emulator::with(options)).unwrap();
        let output = zeros(&context, 33 * 4);
        let launch = Launch { grid: [32, 1, 1], num_threads: 32, shared_bytes: 0 };
        let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count: 0, variant: 0 };
        probe(&context, "probe_order", launch, &params).unwrap();
        let order = download_i32(&context, &output).split_off(1);
        let blocks: HashSet<_> = order.iter().copied().collect();
        assert_eq!(blocks.len(), 32, "seed {seed}: {order:?}");
        order
    };
    let orders: HashSet<_> = (0..20).map(order).collect();
    assert!(orders.len() > 15, "20 seeds gave {} orders", orders.len());
    assert_eq!(order(3), order(3));
}

/// Numbers at every edge of both formats, and many others.
fn floats() -> Vec<f32> {
    let mut values = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MAX];
    // Every 16-bit pattern of either format, what lies half-way to the next, and its neighbours.
    for bits in 0..=u16::MAX {
        for exact in [f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32()] {
            for half in [0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001] {
                values.push(f32::from_bits(exact.to_bits().wrapping_add(half)));
            }
            values.push(exact);
        }
    }
    values
}

#[test]
fn conversions_round_to_nearest_even() {
    let values = floats();
    for element in ELEMENTS {
        let context = context();
        let input = upload_f32(&context, &values);
        let output = zeros(&context, values.len() * 8);
        let launch =
            Launch { grid: [values.len().div_ceil(128), 1, 1], num_threads: 128, shared_bytes: 0 };
        let count = values.len() as i32;
        let params = Probe { input: input.ptr(), output: output.ptr(), count, variant: 0 };
        let name = format!("probe_convert_{}", element.suffix());
        probe(&context, &name, launch, &params).unwrap();
        let bits = download_i32(&context, &output);
        let back = download_f32(&context, &output).split_off(values.len());
        for ((&x, &bits), &back) in values.iter().zip(&bits).zip(&back) {
            if x.is_nan() {
                assert!(bits == 0x7fff && back.is_nan(), "{element:?} of NaN: {bits:#x}, {back}");
                continue;
            }
            let (expected, value) = match element {
                Element::Bf16 => (bf16::from_f32(x).to_bits(), bf16::from_f32(x).to_f32()),
                Element::F16 => (f16::from_f32(x).to_bits(), f16::from_f32(x).to_f32()),
            };
            assert_eq!(bits, i32::from(expected), "{element:?} of {x:e}");
            // Adding zero takes the sign of a zero away.
            let bits = [back, value].map(|x| (x + 0.0).to_bits());
            assert_eq!(bits[0], bits[1], "{element:?} of {x:e}: {back:e}, {value:e}");
        }
    }
}

#[test]
fn bits_are_counted_as_cuda_does() {
    let context = context();
    let input = upload_i32(&context, &[0x0012_3400, 0x7654_3210, -5, 0]);
    let output = zeros(&context, 32);
    let params = Probe { input: input.ptr(), output: output.ptr(), count: 0, variant: 0 };
    probe(&context, "probe_bits", one_block(32, 0), &params).unwrap();
    let high = (0x0012_3400u64 * 0x7654_3210) >> 32;
    let expected = [5, 11, 11, high as i32, 0x0012_3400, 0x7654_3210, 5, 32];
    assert_eq!(download_i32(&context, &output), expected);
}

#[test]
fn ldmatrix_gives_each_lane_its_fragment() {
    for transposed in [false, true] {
        let context = context();
        let output = zeros(&context, 512);
        let count = i32::from(transposed);
        let params = Probe { input: DevicePtr::NULL, output: output.ptr(), count, variant: 0 };
        probe(&context, "probe_ldmatrix", one_block(32, 512), &params).unwrap();
        let words = download_i32(&context, &output);
        // Of matrix m, element (row, column) is 64 m + 8 row + column; lane l has row l / 4 and
        // columns 2 (l % 4) and the next, or the same of the transposed matrix.
        for (index, &word) in (0..).zip(&words) {
            let (lane, matrix) = (index / 4, index % 4);
            let (row, column) = (lane / 4, lane % 4 * 2);
            let element = |row, column| 64 * matrix + 8 * row + column;
            let pair = if transposed {
                [element(column, row), element(column + 1, row)]
            } else {
                [element(row, column), element(row, column + 1)]
            };
            assert_eq!([word & 0xffff, word >> 16], pair, "lane {lane}, matrix {matrix}");
        }
    }
}

#[test]
fn tensor_cores_multiply_like_f64() {
    for element in ELEMENTS {
        let context = context();
        let values = Random(9).normals(24 * 16);
        let sums = Random(10).normals(128);
        let input = upload(&context, element, &values);
        let output = upload_f32(&context, &sums);
        let params = Probe { input: input.ptr(), output: output.ptr(), count: 0, variant: 0 };
        let name = format!("probe_multiply_{}", element.suffix());
        probe(&context, &name, one_block(32, 768), &params).unwrap();
        let got = download_f32(&context, &output);
        let values = rounded(element, &values);
        let (a, b) = values.split_at(256);
        for (i, (&got, &sum)) in got.iter().zip(&sums).enumerate() {
            let (row, column) = (i / 8, i % 8);
            let products = (0..16).map(|k| f64::from(a[row * 16 + k] * b[column * 16 + k]));
            let expected = f64::from(sum) + products.sum::<f64>();
            assert!((f64::from(got) - expected).abs() < 2e-5, "{got} instead of {expected}");
        }
    }
}
