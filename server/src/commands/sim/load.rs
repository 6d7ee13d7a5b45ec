//! The load of a simulation: a trace, the one that comes with the program, or made up.

use anyhow::{Context, Result};
use folio_sim::synthetic::{Prefixes, RandomLoad, RandomWorkload};
use folio_sim::trace::{
    self, Arrivals, Limited, Pace, Repeated, Rescaled, Trace, TraceOptions, offered_rate,
};
use folio_sim::{Record, TraceError, Workload};

use crate::args::{Dataset, SimArgs};

/// A part of the Azure trace; `server/builtin/traces/README.md` says where it is from.
static BUILTIN: &[u8] = include_bytes!("../../../builtin/traces/azure2023_conv.csv.gz");

/// What the built-in trace is called.
const BUILTIN_NAME: &str = "azure2023_conv";

/// Requests of made-up load when nothing else is said: vLLM's.
const NUM_PROMPTS: u64 = 1000;

/// What the load is called in results.
pub(super) fn name(args: &SimArgs) -> String {
    let file = args.load.trace.as_ref().and_then(|path| path.file_name());
    match (args.load.dataset_name, file) {
        (Some(Dataset::Random), _) => "random".to_owned(),
        (None, Some(file)) => file.to_string_lossy().into_owned(),
        (None, None) => BUILTIN_NAME.to_owned(),
    }
}

/// The rate that was asked for; `None` where the trace says when requests come.
pub(super) fn configured_rate(args: &SimArgs) -> Option<f64> {
    let drawn = args.load.dataset_name.map(|_| f64::INFINITY);
    args.load.rate.or(args.load.request_rate).or(drawn)
}

/// The load that the arguments describe.
pub(super) fn workload(args: &SimArgs, seed: u64) -> Result<Box<dyn Workload>> {
    let load = &args.load;
    let pace = |rate: Option<f64>| Pace {
        rate: rate.unwrap_or(f64::INFINITY),
        burstiness: load.burstiness,
    };
    if load.dataset_name == Some(Dataset::Random) {
        let random = &args.random;
        return Ok(Box::new(RandomWorkload::new(RandomLoad {
            num_prompts: load.num_prompts.unwrap_or(NUM_PROMPTS),
            input_len: random.random_input_len,
            output_len: random.random_output_len,
            range_ratio: random.random_range_ratio,
            prefixes: Prefixes { len: random.random_prefix_len, num: random.random_num_prefixes },
            num_tenants: random.random_num_tenants,
            pace: pace(load.rate.or(load.request_rate)),
            seed,
        })));
    }
    let whole = open(args)?;
    let has_times = whole.format().has_times();
    let trace = sized(args, whole, seed)?;
    if load.request_rate.is_some() || (!has_times && load.rate.is_none()) {
        return Ok(Box::new(Arrivals::new(trace, pace(load.request_rate), seed)));
    }
    let factor = match (load.rate, load.speed) {
        (Some(rate), _) => {
            let own = offered_rate(&mut open(args)?)?;
            let own = own.context(
                "--rate plays a trace faster or slower, and this one has no times: use \
                 --request-rate",
            )?;
            rate / own
        }
        (None, Some(speed)) => speed,
        (None, None) => return Ok(trace),
    };
    Ok(Box::new(Rescaled::new(trace, factor)))
}

fn open(args: &SimArgs) -> Result<Trace, TraceError> {
    let options = TraceOptions {
        format: args.load.trace_format,
        max_bad_rows: args.load.max_bad_rows,
        prefix_block: args.load.trace_block_size,
    };
    match &args.load.trace {
        Some(path) => trace::open(path, &options),
        None => Trace::read(BUILTIN_NAME, Box::new(BUILTIN), &options),
    }
}

/// As many requests of the trace as are wanted: a part of it, or all of it again and again.
fn sized(args: &SimArgs, whole: Trace, seed: u64) -> Result<Box<dyn Workload>, TraceError> {
    let Some(num_prompts) = args.load.num_prompts else { return Ok(Box::new(whole)) };
    let mut first = Limited::new(whole, num_prompts);
    let mut rows: Vec<Record> = Vec::new();
    while let Some(record) = first.next() {
        rows.push(record?);
    }
    let read = first.tally();
    if rows.len() as u64 == num_prompts || rows.is_empty() {
        drop(rows);
        return Ok(Box::new(Limited::new(open(args)?, num_prompts)));
    }
    Ok(Box::new(Limited::new(Repeated::new(rows.into(), seed, read), num_prompts)))
}
