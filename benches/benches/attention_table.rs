//! Prints how near both attentions come to the machine's roofs, on one thread and two.
//!
//! `cargo bench -p folio-benches --bench attention_table`
#![allow(clippy::print_stdout, reason = "a table for people is this program's purpose")]

use folio_benches::attention::{EncoderCase, PagedCase};
use folio_benches::{Roofs, best_seconds, values};
use folio_kernels::cpu::{Pool, encoder_attention, paged_attention};

/// Time for one line.
const SECONDS: f64 = 0.7;

fn main() {
    let data = values(32 << 20, 1);
    let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
    println!("| case | threads | GFLOP/s | % of peak | GB/s | us |");
    println!("|---|---:|---:|---:|---:|---:|");
    for pool in [1, 2].map(Pool::new) {
        let roofs = Roofs::measure(&pool, &bytes);
        println!(
            "| roofs | {} | {:.1} | 100 | {:.1} | |",
            pool.num_threads(),
            roofs.flops / 1e9,
            roofs.bytes / 1e9
        );
        let paged = [
            (1, 1, 1024, 64),
            (1, 1, 1024, 128),
            (16, 1, 512, 64),
            (1, 64, 128, 64),
            (1, 64, 512, 128),
            (2, 32, 32, 32),
        ];
        for (num_sequences, num_queries, context, head_size) in paged {
            let case = PagedCase::new(num_sequences, num_queries, context, head_size);
            let (args, mut out) = (case.args(), case.out());
            let seconds = best_seconds(SECONDS, |_| paged_attention(&pool, &args, &mut out));
            let name = format!("paged {}", case.name());
            print_line(&name, &pool, (case.num_operations(), case.num_bytes()), seconds, roofs);
        }
        for (num_sequences, length, head_size) in
            [(16, 8, 32), (4, 32, 32), (1, 128, 64), (1, 256, 32)]
        {
            let case = EncoderCase::new(num_sequences, length, head_size);
            let (args, mut out) = (case.args(), case.out());
            let seconds = best_seconds(SECONDS, |_| encoder_attention(&pool, &args, &mut out));
            let name = format!("encoder {}", case.name());
            print_line(&name, &pool, (case.num_operations(), 0), seconds, roofs);
        }
    }
}

/// Prints one line; `work` is operations and bytes.
fn print_line(name: &str, pool: &Pool, work: (usize, usize), seconds: f64, roofs: Roofs) {
    let flops = work.0 as f64 / seconds;
    println!(
        "| {name} | {} | {:.1} | {:.0} | {:.1} | {:.1} |",
        pool.num_threads(),
        flops / 1e9,
        100.0 * flops / roofs.flops,
        work.1 as f64 / seconds / 1e9,
        seconds * 1e6
    );
}
