//! What is asked of the engine: lengths of a trace cut to the model, at random times.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use folio_engine::sched::policies::Fcfs;
use folio_engine::types::{
    Choice, EngineConfig, EventSender, ModelId, Nanos, Request, RequestId, Sampling,
    SamplingParams, Slo, StopConditions, Task, TenantId, TokenId,
};
use folio_sim::cost::Fitted;
use folio_sim::options::Overlap;
use folio_sim::trace::{TraceOptions, open};
use folio_sim::{Options, Record, Workload as _, simulate};

use super::Args;

/// Longest prompt and longest answer, in tokens: both together fit the model.
const MAX_INPUT: u32 = 600;
const MAX_OUTPUT: u32 = 300;
/// Beginnings that half of the prompts share, and their length in tokens.
const NUM_PREFIXES: u64 = 8;
const PREFIX_LEN: u32 = 64;
/// Tokens of prompts are below this.
const NUM_TOKENS: u64 = 3000;

/// A request to come.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// When it is sent.
    pub(super) due: Nanos,
    prompt: Vec<TokenId>,
    output: u32,
    tenant: u32,
    priority: i32,
    prefix: Option<u64>,
}

/// The requests of a run at `rate` a second.
pub(super) fn jobs(args: &Args, rate: f64, seed: u64) -> anyhow::Result<Vec<Job>> {
    let mut trace = open(&args.trace, &TraceOptions::default())?;
    let mut draws = Draws(seed);
    let mut due = 0.0;
    let mut jobs = Vec::with_capacity(args.num_requests);
    for number in 0..args.num_requests as u64 {
        let row = trace.next().with_context(|| format!("the trace has only {number} rows"))??;
        due -= (1.0 - draws.unit()).ln() / rate;
        let input = (row.input / args.input_divisor).clamp(2, MAX_INPUT);
        let prefix = (draws.unit() < 0.5).then(|| draws.below(NUM_PREFIXES));
        let token = |draws: &mut Draws, position: u32| match prefix {
            Some(prefix) if position < PREFIX_LEN => {
                ((prefix * 977 + u64::from(position) * 31) % NUM_TOKENS) as TokenId
            }
            _ => draws.below(NUM_TOKENS) as TokenId,
        };
        let prompt = (0..input).map(|position| token(&mut draws, position)).collect();
        jobs.push(Job {
            due: Nanos::from_secs_f64(due),
            prompt,
            output: (row.output / args.output_divisor).clamp(1, MAX_OUTPUT),
            // Half of all requests are one tenant's.
            tenant: if draws.unit() < 0.5 { 0 } else { 1 + draws.below(3) as u32 },
            priority: draws.below(3) as i32,
            prefix,
        });
    }
    Ok(jobs)
}

impl Job {
    pub(super) fn request(&self, number: u64) -> Request {
        let stop = StopConditions { max_tokens: self.output, ..StopConditions::default() };
        let sampling = Sampling { seed: number, ..Sampling::default() };
        Request {
            id: RequestId(number),
            model: ModelId(0),
            prompt: self.prompt.clone(),
            task: Task::Generate(SamplingParams { sampling, stop, ..SamplingParams::default() }),
            choices: vec![Choice::new(EventSender::discard())],
            priority: self.priority,
            tenant: TenantId(self.tenant),
            deadline: None,
            slo: Slo::default(),
            cache_salt: None,
        }
    }

    fn record(&self) -> Record {
        let blocks = self.prefix.map(|prefix| (0..4).map(|block| prefix * 4 + block).collect());
        Record {
            input: self.prompt.len() as u32,
            output: self.output,
            prefix: blocks.unwrap_or_else(|| Arc::from([])),
            prefix_block: PREFIX_LEN / 4,
            ..Record::default()
        }
    }
}

/// Requests a second that the simulated engine answers when all of `jobs` come at once.
pub(super) fn capacity(
    jobs: &[Job],
    config: &EngineConfig,
    model: &Arc<Fitted>,
) -> anyhow::Result<f64> {
    let records: Vec<Record> = jobs.iter().map(Job::record).collect();
    let mut engine = config.clone();
    engine.models.iter_mut().for_each(|one| one.vocab_size = u32::MAX);
    let mut options = Options::new(engine, Box::new(Fcfs), Arc::clone(model) as _);
    options.host = model.host().host(Overlap::None);
    let outcome = simulate(options, &mut records.into_iter())?;
    let end = outcome.requests.iter().map(|request| request.times.ended).max();
    let seconds = end.unwrap_or_default().as_secs_f64();
    ensure!(seconds > 0.0, "nothing was simulated");
    Ok(jobs.len() as f64 / seconds)
}

/// Random numbers: SplitMix64.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
