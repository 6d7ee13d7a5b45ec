//! `folio bench throughput` and `folio bench latency`: the engine in this process, through the
//! path that the server takes, but for HTTP.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use folio_engine::types::ModelKind;
use folio_sim::statistics::percentile;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::args::{LatencyArgs, OfflineArgs, ThroughputArgs};
use crate::bench::datasets::{Dataset, Form, Maker, Random, Vocabulary};
use crate::bench::{BenchError, Prompt as BenchPrompt, Request};
use crate::client::Client;
use crate::error::ApiError;
use crate::generate::{Job, Prompt};
use crate::load::{Scheduling, load};
use crate::models::ServedModel;
use crate::openai::CompletionRequest;
use crate::policy::Policies;
use crate::service::Service;

/// Percentiles of `latency`, as vLLM prints them.
const PERCENTS: [f64; 6] = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];

/// A loaded model, and what makes prompts for it.
struct Offline {
    service: Arc<Service>,
    model: Arc<ServedModel>,
    seed: u64,
    output_json: Option<PathBuf>,
}

/// All requests at once: tokens a second.
pub(super) async fn throughput(mut args: ThroughputArgs, policies: &Policies) -> Result<()> {
    let num = u32::try_from(args.num_prompts).unwrap_or(u32::MAX);
    let engine = &mut args.offline.engine;
    engine.max_queued_requests = engine.max_queued_requests.max(num);
    let tokens = u64::from(num) * u64::from(args.input_len) * 2;
    engine.max_queued_tokens = Some(engine.max_queued_tokens.unwrap_or(0).max(tokens));
    let offline = Offline::load(args.offline, policies).await?;
    let lens = (args.input_len, args.output_len, args.random_range_ratio);
    let requests = offline.requests(args.num_prompts, lens, 0)?;
    // Another prompt: what is done once is done, and the prefix cache knows nothing.
    let warmup = offline.requests(1, (args.input_len, args.output_len.min(4), 0.0), 1)?;
    offline.run(&warmup).await?;
    let begin = Instant::now();
    let outputs = offline.run(&requests).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let inputs: u64 = requests.iter().map(|request| u64::from(request.input_len)).sum();
    let rate = |amount: u64| amount as f64 / seconds;
    let num = requests.len() as u64;
    writeln!(
        std::io::stdout(),
        "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s\n\
         Total num prompt tokens:  {inputs}\nTotal num output tokens:  {outputs}",
        rate(num),
        rate(inputs + outputs),
        rate(outputs)
    )?;
    offline.save(&json!({
        "elapsed_time": seconds,
        "num_requests": num,
        "total_num_tokens": inputs + outputs,
        "requests_per_second": rate(num),
        "tokens_per_second": rate(inputs + outputs),
        "output_tokens_per_second": rate(outputs),
        "model_id": offline.model.name(),
    }))
}

/// One batch after the other: seconds of each.
pub(super) async fn latency(args: LatencyArgs, policies: &Policies) -> Result<()> {
    if args.num_iters == 0 {
        return Err(BenchError::flag("--num-iters", "0: must be at least 1").into());
    }
    let offline = Offline::load(args.offline, policies).await?;
    let mut latencies = Vec::with_capacity(args.num_iters);
    for iteration in 0..args.num_iters_warmup + args.num_iters {
        // New prompts every time: a prefix cache would make all but the first batch cheap.
        let lens = (args.input_len, args.output_len, 0.0);
        let requests = offline.requests(args.batch_size, lens, iteration as u64)?;
        let begin = Instant::now();
        offline.run(&requests).await?;
        if iteration >= args.num_iters_warmup {
            latencies.push(begin.elapsed().as_secs_f64());
        }
    }
    let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
    let mut sorted = latencies.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |percent| percentile(&sorted, percent).unwrap_or(mean);
    let mut out = std::io::stdout();
    writeln!(out, "Avg latency: {mean} seconds")?;
    for percent in PERCENTS {
        writeln!(out, "{percent}% percentile latency: {} seconds", at(percent))?;
    }
    let percentiles = PERCENTS.iter().map(|&p| (p.to_string(), Value::from(at(p))));
    offline.save(&json!({
        "avg_latency": mean,
        "latencies": latencies,
        "percentiles": percentiles.collect::<serde_json::Map<_, _>>(),
        "model_id": offline.model.name(),
    }))
}

impl Offline {
    async fn load(args: OfflineArgs, policies: &Policies) -> Result<Self> {
        let OfflineArgs { prompt_seed, output_json, models, engine } = args;
        let scheduling = Scheduling::choose(policies, &engine)?;
        let loading = move || load(&models, &engine, scheduling);
        let loaded = tokio::task::spawn_blocking(loading).await??;
        writeln!(std::io::stderr(), "Device: {}\nMemory: {}", loaded.device, loaded.plan)?;
        let service = Arc::new(loaded.service);
        let model = service.models.first_of(ModelKind::Decoder).cloned();
        let model = model.ok_or_else(|| ApiError::missing("a model that generates"))?;
        Ok(Self { service, model, seed: prompt_seed, output_json })
    }

    /// Random prompts of input and output length and range ratio `lens`, other ones for each
    /// `round`.
    fn requests(
        &self,
        num_prompts: usize,
        (input_len, output_len, range_ratio): (u32, u32, f64),
        round: u64,
    ) -> Result<Vec<Request>> {
        let vocabulary = Vocabulary::new(Some(Arc::clone(self.model.text.tokenizer())));
        let seed = self.seed.wrapping_add(round.wrapping_mul(1_000_003));
        let maker = Maker { num_prompts, seed, vocabulary, form: Form::Ids };
        let random = Random { input_len, output_len, range_ratio, prefix_len: 0, turns: 1 };
        Ok(maker.make(&Dataset::Random(random))?.0)
    }

    /// Generates for all of `requests` at once; the number of tokens that came.
    async fn run(&self, requests: &[Request]) -> Result<u64> {
        let mut tasks = JoinSet::new();
        for request in requests {
            let mut running = self.job(request)?.start(&self.service)?;
            tasks.spawn(async move {
                while let Some(piece) = running.next().await {
                    piece?;
                }
                Ok::<u64, ApiError>(running.usage().completion_tokens)
            });
        }
        let mut total = 0;
        while let Some(tokens) = tasks.join_next().await {
            total += tokens??;
        }
        let expected: u64 = requests.iter().map(|request| u64::from(request.output_len)).sum();
        ensure!(total == expected, "{total} tokens came, not {expected}");
        Ok(total)
    }

    /// The same body that a client would send, so that the same checks apply.
    fn job(&self, request: &Request) -> Result<Job> {
        let BenchPrompt::Ids(ids) = &request.prompt else { return Err(no_prompt().into()) };
        let body = json!({
            "model": self.model.name(),
            "prompt": ids.as_ref(),
            "max_tokens": request.output_len,
            "temperature": 0,
            "ignore_eos": true,
        });
        let request = CompletionRequest::read(body)?;
        let input = request.prompts.into_iter().next().ok_or_else(no_prompt)?;
        let prompt = Prompt::encode(&self.model, input)?;
        let model = Arc::clone(&self.model);
        Ok(Job::new(&self.service, &Client::anonymous(), model, vec![prompt], request.generation)?)
    }

    fn save(&self, result: &Value) -> Result<()> {
        let Some(path) = &self.output_json else { return Ok(()) };
        std::fs::write(path, format!("{result:#}\n"))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn no_prompt() -> ApiError {
    ApiError::missing("prompt")
}
