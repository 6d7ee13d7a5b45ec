//! A server under load over HTTP: thousands of streams at once, or a long run of short requests of
//! which many are given up.
//!
//! Prints one JSON line. The run fails if an answer is lost, cut, or differs from what the same
//! request gets alone; a figure is worth nothing for wrong answers. Reads the server's memory from
//! /proc, so it runs on the server's machine.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use folio_benches::http::{Client, Reading};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// A server under load over HTTP.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the server, such as 127.0.0.1:8000
    #[arg(long, default_value = "127.0.0.1:8000")]
    address: String,
    /// Its process, whose memory is watched
    #[arg(long)]
    pid: u32,
    /// Model that chats
    #[arg(long, default_value = "folio-tiny")]
    model: String,
    /// Model that embeds
    #[arg(long, default_value = "folio-tiny-e5")]
    embedding_model: String,
    /// Ends a run that takes longer, as failed
    #[arg(long, default_value_t = 900)]
    max_seconds: u64,
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Clone, Debug, Subcommand)]
enum Mode {
    /// Streams that are all open before the first is read on
    Streams {
        /// How many
        #[arg(long, default_value_t = 2000)]
        num_streams: usize,
        /// Tokens of each, at most
        #[arg(long, default_value_t = 64)]
        max_tokens: u32,
    },
    /// Short requests one after the other, some given up at random
    Soak {
        /// How many
        #[arg(long, default_value_t = 100_000)]
        num_requests: u64,
        /// Of which so many at the same time
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// Share of the requests that are given up
        #[arg(long, default_value_t = 0.2)]
        cancelled: f64,
        /// What is random follows from it
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Arc::new(Args::parse());
    let limit = Duration::from_secs(args.max_seconds);
    let run = async {
        match args.mode.clone() {
            Mode::Streams { num_streams, max_tokens } => {
                streams(Arc::clone(&args), num_streams, max_tokens).await
            }
            Mode::Soak { .. } => soak(Arc::clone(&args)).await,
        }
    };
    let line = tokio::time::timeout(limit, run)
        .await
        .with_context(|| format!("not done after {} seconds", limit.as_secs()))??;
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{line}");
    }
    Ok(())
}

/// Questions with answers that differ.
const NUM_QUESTIONS: usize = 16;

fn chat(args: &Args, question: usize, max_tokens: u32) -> Value {
    json!({
        "model": args.model,
        "messages": format!("Tell me a story about {question} cats."),
        "max_tokens": max_tokens,
        "temperature": 0,
    })
}

/// What each question gets alone.
async fn alone(args: &Args, client: &Client, max_tokens: u32) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for question in 0..NUM_QUESTIONS {
        let body = chat(args, question, max_tokens);
        let answer = client.post("/v1/chat/completions", &body, Reading::Whole).await?;
        texts.push(answer.text()?);
    }
    Ok(texts)
}

async fn streams(args: Arc<Args>, num_streams: usize, max_tokens: u32) -> Result<Value> {
    let client = Arc::new(Client::new(&args.address));
    let expected = Arc::new(alone(&args, &client, max_tokens).await?);
    let idle = Memory::of(args.pid)?;
    let open = Arc::new(Semaphore::new(0));
    let num_open = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for index in 0..num_streams {
        let (args, client, expected) = (args.clone(), client.clone(), expected.clone());
        let (open, num_open) = (open.clone(), num_open.clone());
        tasks.spawn(async move {
            let question = index % NUM_QUESTIONS;
            let mut body = chat(&args, question, max_tokens);
            body["stream"] = true.into();
            let stream = client.open("/v1/chat/completions", &body).await?;
            num_open.fetch_add(1, Ordering::Relaxed);
            // Nobody reads on before all are open: so many are held at the same time.
            open.acquire().await?.forget();
            let (answer, first_token) = stream.read(began).await?;
            let text = answer.text()?;
            ensure!(text == expected[question], "stream {index}: {text:?} is not what it is alone");
            Ok::<_, anyhow::Error>((first_token, began.elapsed()))
        });
    }
    while num_open.load(Ordering::Relaxed) < num_streams {
        if let Some(ended) = tasks.try_join_next() {
            ended??;
            bail!("a stream ended before all were open");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all_open = began.elapsed();
    let held = Memory::of(args.pid)?;
    open.add_permits(num_streams);
    let (mut firsts, mut ends) = (Vec::new(), Vec::new());
    while let Some(ended) = tasks.join_next().await {
        let (first, end) = ended??;
        firsts.push(first.as_secs_f64());
        ends.push(end.as_secs_f64());
    }
    let peak = Memory::of(args.pid)?;
    let state = settled(&args, &client).await?;
    Ok(json!({
        "mode": "streams", "num_streams": num_streams, "max_tokens": max_tokens,
        "lost": 0, "wrong": 0, "all_open_seconds": all_open.as_secs_f64(),
        "first_token_seconds": percentiles(&mut firsts), "end_seconds": percentiles(&mut ends),
        "rss_mib": { "idle": idle.rss, "all_open": held.rss, "end": peak.rss, "peak": peak.peak },
        "after": state,
    }))
}

async fn soak(args: Arc<Args>) -> Result<Value> {
    let Mode::Soak { num_requests, concurrency, cancelled, seed } = args.mode else {
        bail!("not a soak");
    };
    let client = Arc::new(Client::new(&args.address));
    let expected = Arc::new(alone(&args, &client, 8).await?);
    let next = Arc::new(AtomicU64::new(0));
    let counts = Arc::new(Counts::default());
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..concurrency {
        let (args, client, expected) = (args.clone(), client.clone(), expected.clone());
        let (next, counts) = (next.clone(), counts.clone());
        tasks.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= num_requests {
                    return Ok::<_, anyhow::Error>(());
                }
                let random = Random(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                one(&args, &client, (random, cancelled, &expected), &counts)
                    .await
                    .with_context(|| format!("request {index} of seed {seed}"))?;
            }
        });
    }
    let mut memory = Vec::new();
    let mut next_look = Duration::ZERO;
    while !tasks.is_empty() {
        if began.elapsed() >= next_look {
            let done = next.load(Ordering::Relaxed).min(num_requests);
            memory.push((done, Memory::of(args.pid)?.rss));
            next_look += Duration::from_secs(5);
        }
        let tick = tokio::time::sleep(Duration::from_millis(200));
        tokio::select! {
            Some(ended) = tasks.join_next() => ended??,
            () = tick => {}
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let state = settled(&args, &client).await?;
    memory.push((num_requests, Memory::of(args.pid)?.rss));
    let peak = Memory::of(args.pid)?.peak;
    Ok(json!({
        "mode": "soak", "num_requests": num_requests, "concurrency": concurrency, "seed": seed,
        "seconds": seconds, "requests_per_second": num_requests as f64 / seconds,
        "answered": counts.answered.load(Ordering::Relaxed),
        "given_up": counts.given_up.load(Ordering::Relaxed), "lost": 0, "wrong": 0,
        "rss_mib_by_requests": memory, "rss_mib_peak": peak, "after": state,
    }))
}

/// How requests ended.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicU64,
    given_up: AtomicU64,
}

/// A request of a random kind, given up at a random moment or held to its answer.
async fn one(
    args: &Args,
    client: &Client,
    (mut random, cancelled, expected): (Random, f64, &[String]),
    counts: &Counts,
) -> Result<()> {
    let gives_up = random.unit() < cancelled;
    let question = random.below(NUM_QUESTIONS as u64) as usize;
    let (path, mut body) = match random.below(4) {
        0 => {
            let input = format!("query: {} cats", random.below(1000));
            ("/v1/embeddings", json!({ "model": args.embedding_model, "input": input }))
        }
        1 => {
            let prompt = format!("{} cats are", random.below(1000));
            let mut body = json!({ "model": args.model, "prompt": prompt });
            body["max_tokens"] = (1 + random.below(8)).into();
            body["n"] = 2.into();
            ("/v1/completions", body)
        }
        _ => ("/v1/chat/completions", chat(args, question, 8)),
    };
    let streams = path != "/v1/embeddings" && random.below(2) == 0;
    if streams {
        body["stream"] = true.into();
    }
    if gives_up {
        let patience = Duration::from_micros(random.below(60_000));
        let reading = if streams { Reading::Stream } else { Reading::Whole };
        // Dropping the future closes its connection, wherever it stands.
        let ended = tokio::time::timeout(patience, client.post(path, &body, reading)).await;
        counts.given_up.fetch_add(u64::from(ended.is_err()), Ordering::Relaxed);
        if let Ok(answer) = ended {
            answer?.check()?;
            counts.answered.fetch_add(1, Ordering::Relaxed);
        }
        return Ok(());
    }
    let reading = if streams { Reading::Stream } else { Reading::Whole };
    let answer = client.post(path, &body, reading).await?;
    answer.check()?;
    if path == "/v1/chat/completions" {
        let text = answer.text()?;
        ensure!(text == expected[question], "{text:?} is not what it is alone");
    }
    counts.answered.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// The server's own numbers once nothing runs: no request, no block in use.
async fn settled(args: &Args, client: &Client) -> Result<Value> {
    const NAMES: [&str; 3] =
        ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"];
    let mut values = HashMap::new();
    for _ in 0..100 {
        let metrics = client.get("/metrics").await?;
        values = NAMES.iter().map(|name| (*name, sum_of(&metrics, name))).collect();
        if values.values().all(|value| *value == 0.0) {
            return Ok(json!(values));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{}: ten seconds after the end the server still has {values:?}", args.address)
}

/// The sum of a metric over its labels.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let lines = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Resident memory of a process, in MiB.
struct Memory {
    rss: u64,
    peak: u64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            kib.map(|kib| kib / 1024).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self { rss: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}

fn percentiles(values: &mut [f64]) -> Value {
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len());
        values[index - 1]
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}
