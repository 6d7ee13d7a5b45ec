//! Prints how near `linear` comes to the machine's roofs: a table per shape and weight format.
//!
//! `cargo bench -p folio-benches --bench gemm_table -- [WHAT…]`: shapes N x K as `4096x4096`,
//! weight formats as `bf16`, numbers of rows as `8`, an instruction set as `avx2`; all of a kind
//! where none is named.
#![allow(clippy::print_stdout, reason = "a table for people is this program's purpose")]

use std::hint::black_box;

use folio_benches::{Roofs, WeightCycle, best_seconds, values};
use folio_kernels::cpu::{Isa, Pool, WeightDtype, linear};

const ROWS: [usize; 8] = [1, 2, 4, 6, 8, 16, 64, 512];
const DTYPES: [WeightDtype; 3] = [WeightDtype::Bf16, WeightDtype::F16, WeightDtype::F32];
/// Time for one line.
const SECONDS: f64 = 0.8;
const CYCLE_BYTES: usize = 128 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let shapes: Vec<(usize, usize)> = arguments
        .iter()
        .filter_map(|argument| argument.split_once('x'))
        .filter_map(|(n, k)| Some((n.parse().ok()?, k.parse().ok()?)))
        .collect();
    let shapes = if shapes.is_empty() {
        vec![(2048, 2048), (4096, 4096), (1024, 1024), (384, 384), (192, 192)]
    } else {
        shapes
    };
    let dtypes: Vec<WeightDtype> = DTYPES
        .into_iter()
        .filter(|dtype| {
            let name = format!("{dtype:?}").to_lowercase();
            let named = |argument: &String| {
                DTYPES.iter().any(|d| format!("{d:?}").to_lowercase() == *argument)
            };
            arguments.contains(&name) || !arguments.iter().any(named)
        })
        .collect();
    let mut rows: Vec<usize> =
        arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if rows.is_empty() {
        rows.extend(ROWS);
    }
    let isa = Isa::ALL
        .into_iter()
        .find(|isa| arguments.contains(&format!("{isa:?}").to_lowercase()))
        .unwrap_or_else(Isa::detect);
    let pools = [1, 2].map(|num_threads| Pool::with_isa(num_threads, isa));
    let data = WeightCycle::new(WeightDtype::F32, 4096, 4096, CYCLE_BYTES);
    let roofs = pools.each_ref().map(|pool| measure_roofs(pool, &data));
    for (pool, roofs) in pools.iter().zip(&roofs) {
        println!(
            "{isa:?}, {} thread(s): peak {:.1} GFLOP/s, read bandwidth {:.1} GB/s",
            pool.num_threads(),
            roofs.flops / 1e9,
            roofs.bytes / 1e9
        );
    }
    for (num_outputs, num_inputs) in shapes {
        for &dtype in &dtypes {
            println!("\nN = {num_outputs}, K = {num_inputs}, {dtype:?} weights\n");
            println!(
                "| M | threads | GFLOP/s | % of peak | GB/s | % of bandwidth | us per matrix |"
            );
            println!("|---:|---:|---:|---:|---:|---:|---:|");
            let weights = WeightCycle::new(dtype, num_outputs, num_inputs, CYCLE_BYTES);
            for &num_rows in &rows {
                for (pool, roofs) in pools.iter().zip(&roofs) {
                    print_line(pool, &weights, num_rows, *roofs);
                }
            }
        }
    }
}

fn measure_roofs(pool: &Pool, data: &WeightCycle) -> Roofs {
    let bytes: Vec<&[u8]> = (0..2).filter_map(|i| data.matrix(i)).map(|m| m.data()).collect();
    bytes.iter().map(|bytes| Roofs::measure(pool, bytes)).fold(
        Roofs { flops: 0.0, bytes: 0.0 },
        |best, roofs| Roofs {
            flops: best.flops.max(roofs.flops),
            bytes: best.bytes.max(roofs.bytes),
        },
    )
}

/// Measures one line. A run covers as many rows of the weights as about half a millisecond allows,
/// so that other load interrupts few runs; runs walk through all matrices.
fn print_line(pool: &Pool, weights: &WeightCycle, num_rows: usize, roofs: Roofs) {
    /// Rows of weights at least, so that the tiles are those of a whole matrix.
    const MIN_COLS: usize = 96;
    let Some(first) = weights.matrix(0) else {
        return;
    };
    let (num_outputs, num_inputs) = (first.rows(), first.cols());
    let by_work = 30_000_000 / (num_rows * num_inputs);
    let by_bytes = (4 << 20) / (num_inputs * first.dtype().num_bytes());
    let budget = by_work.min(by_bytes) * pool.num_threads();
    let part = budget.clamp(MIN_COLS, num_outputs.max(MIN_COLS)).min(num_outputs);
    let num_parts = num_outputs / part;
    let x = values(num_rows * num_inputs, 3);
    let mut out = vec![0.0; num_rows * part];
    let seconds = best_seconds(SECONDS, |index| {
        if let Some(matrix) = weights.matrix(index / num_parts) {
            let start = index % num_parts * part;
            linear(pool, black_box(&x), &matrix.row_range(start, start + part), None, &mut out);
        }
    });
    let flops = 2.0 * (num_rows * part * num_inputs) as f64 / seconds;
    let bytes = (part * num_inputs * first.dtype().num_bytes()) as f64 / seconds;
    println!(
        "| {num_rows} | {} | {:.1} | {:.0} | {:.1} | {:.0} | {:.1} |",
        pool.num_threads(),
        flops / 1e9,
        100.0 * flops / roofs.flops,
        bytes / 1e9,
        100.0 * bytes / roofs.bytes,
        seconds * 1e6 * num_outputs as f64 / part as f64
    );
}
