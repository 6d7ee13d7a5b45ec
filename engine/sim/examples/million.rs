//! A million requests of the lengths of a trace through one engine, and how long that took.
//!
//! `cargo run --release -p folio-sim --example million --
//! TRACE [REQUESTS [POLICY [SPEED [cache]]]]`
#![allow(clippy::print_stdout, reason = "this program is there to print")]

use std::sync::Arc;
use std::time::Instant;

use folio_engine::sched::{PolicyContext, Registry, Tempo};
use folio_engine::types::{EngineConfig, PrefixCaching};
use folio_sim::cost::{CostContext, ModelShape, from_spec};
use folio_sim::instance::decoder_config;
use folio_sim::table::table;
use folio_sim::trace::{Limited, Repeated, Rescaled, TraceOptions, open};
use folio_sim::{Description, Options, Record, Workload, simulate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("give a trace")?;
    let num = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let policy = arguments.next().unwrap_or_else(|| "fcfs".to_owned());
    let speed: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let prefix_caching = match arguments.next() {
        None => PrefixCaching::Off,
        Some(_) => PrefixCaching::On,
    };
    let mut trace = open(path.as_ref(), &TraceOptions::default())?;
    let mut rows: Vec<Record> = Vec::new();
    while let Some(record) = trace.next() {
        rows.push(record?);
    }
    let repeated = Repeated::new(rows.into(), 0, trace.tally());
    let mut workload = Rescaled::new(Limited::new(repeated, num), speed);
    let model = ModelShape::find("llama-3-8b")?;
    let engine =
        EngineConfig { max_num_seqs: 256, prefix_caching, ..decoder_config(16_384, 27_000) };
    let cost = from_spec("roofline:h100", &CostContext { model, block_size: engine.block_size })?;
    let context = PolicyContext {
        tempo: Tempo::Simulated,
        block_size: engine.block_size,
        cost: Some(Arc::clone(&cost)),
        ..PolicyContext::default()
    };
    let start = Instant::now();
    let decider = Registry::builtin().make(&policy, &context)?;
    let outcome = simulate(Options::new(engine, decider, cost), &mut workload)?;
    let took = start.elapsed().as_secs_f64();
    let busy = processor_seconds();
    print!("{}", table(&outcome, &Description { policy, ..Description::default() }));
    let num_rows = outcome.work.totals.num_generated_tokens as f64;
    println!(
        "{num} requests in {took:.2} s, {busy:.2} s of a processor: {:.0} requests a second of it, \
         {:.0} ns a token",
        num as f64 / busy,
        busy * 1e9 / num_rows
    );
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM")) {
        println!("{line}");
    }
    Ok(())
}

/// Time that processors gave this program, in seconds: it does not count what others took.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0.0);
    (ticks(12) + ticks(13)) / 100.0
}
