//! From the flags of a load to a plan: find the server and its model, make the requests, say when
//! they are due.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use folio_engine::model::ModelFiles;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::args::{DatasetArgs, DatasetName, FigureArgs, SamplingArgs, TargetArgs, TrafficArgs};
use crate::bench::arrivals::Arrivals;
use crate::bench::client::{Seeds, Settings, Vectors};
use crate::bench::datasets::{Form, Maker, Vocabulary};
use crate::bench::http::Http;
use crate::bench::load::{History, Load};
use crate::bench::metrics::{Metric, Wanted};
use crate::bench::plan::Plan;
use crate::bench::report::Head;
use crate::bench::saturation::Rule;
use crate::bench::slo::Objective;
use crate::bench::spawn::Spawned;
use crate::bench::verify::Check;
use crate::bench::{Backend, BenchError, Client, Pacing, Request};
use crate::builtin;
use crate::text::{TextModel, Tokenizer};

/// Metrics of the terminal's block when nothing else is said.
const USUAL: [Metric; 4] = [Metric::Ttft, Metric::Tpot, Metric::Itl, Metric::E2el];
/// Metrics that are always in the file, and in the second block where they are not in the first.
const ALWAYS: [Metric; 4] = [Metric::TtftSched, Metric::E2elSched, Metric::Queue, Metric::Stall];

/// The flags of a load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags<'a> {
    pub target: &'a TargetArgs,
    pub dataset: &'a DatasetArgs,
    pub sampling: &'a SamplingArgs,
    pub traffic: &'a TrafficArgs,
    pub figures: &'a FigureArgs,
}

/// A server that answers, and what is known of it.
pub(super) struct Target {
    pub url: String,
    /// The name of the model in requests.
    pub model: String,
    /// Ends the server that was started for this.
    _spawned: Option<Spawned>,
}

/// A plan, and what the result file says of it.
pub(super) struct Prepared {
    pub plan: Plan,
    pub head: Head,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Target {
    /// The server that `args` name, or one that is started with `serve_args`.
    pub(super) async fn find(args: &TargetArgs, serve_args: &[OsString]) -> Result<Self> {
        let spawned = if args.spawn {
            Some(Spawned::start(&std::env::current_exe()?, serve_args).await?)
        } else {
            None
        };
        let url = match (&spawned, &args.base_url) {
            (Some(spawned), _) => spawned.url().to_owned(),
            (None, Some(url)) => url.clone(),
            (None, None) => format!("http://{}:{}", args.host, args.port),
        };
        Ok(Self { _spawned: spawned, ..Self::at(args, url).await? })
    }

    /// The server at `url`.
    pub(super) async fn at(args: &TargetArgs, url: String) -> Result<Self> {
        let http = http(args, &url)?;
        wait_until_ready(&http, args.ready_check_timeout_sec).await?;
        let model = match args.served_model_name.as_ref().or(args.model.as_ref()) {
            Some(model) => model.clone(),
            None => first_model(&http, args.backend.backend()).await?,
        };
        Ok(Self { url, model, _spawned: None })
    }
}

/// A client of `url` with the headers of `args`.
fn http(args: &TargetArgs, url: &str) -> Result<Http> {
    let mut http = Http::new(url)?;
    if let Some(key) = &args.api_key {
        http = http.with_header("authorization", &format!("Bearer {key}"))?;
    }
    for header in &args.header {
        let Some((name, value)) = header.split_once('=') else {
            bail!("--header: must be NAME=VALUE");
        };
        http = http.with_header(name.trim(), value.trim())?;
    }
    Ok(http)
}

async fn wait_until_ready(http: &Http, seconds: u64) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while seconds > 0 && http.get("/v1/models").await.is_err() {
        if Instant::now() >= deadline {
            bail!("--ready-check-timeout-sec: the server is not ready after {seconds} seconds");
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The first model of the server's list that does what `backend` asks for.
async fn first_model(http: &Http, backend: Backend) -> Result<String> {
    let fail = |why: String| BenchError::Server(format!("/v1/models: {why}; give --model"));
    let text = http.get("/v1/models").await;
    let text = text.map_err(|failure| fail(format!("{} ({})", failure.text, failure.kind)))?;
    let list: Value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    let models = list["data"].as_array().cloned().unwrap_or_default();
    for id in models.iter().filter_map(|model| model["id"].as_str()) {
        // The list does not tell what a model does.
        if backend != Backend::Embeddings || embeds(http, id).await {
            return Ok(id.to_owned());
        }
    }
    Err(fail("lists no model that does this".to_owned()).into())
}

/// Whether `model` makes vectors.
async fn embeds(http: &Http, model: &str) -> bool {
    let body = json!({ "model": model, "input": "a" }).to_string();
    match http.post(Backend::Embeddings.endpoint(), body.into(), None).await {
        Ok(exchange) => {
            let is_success = exchange.status.is_success();
            // The connection is free for others when all is read.
            exchange.collect().await.is_ok() && is_success
        }
        Err(_) => false,
    }
}

impl Flags<'_> {
    /// The plan of these flags for `target`.
    pub(super) fn prepare(&self, target: &Target) -> Result<Prepared> {
        let backend = self.target.backend.backend();
        let tokenizer = tokenizer(self.target.tokenizer.as_deref(), &target.model)?;
        let tokenizer_id = self.target.tokenizer.clone();
        let tokenizer_id =
            tokenizer_id.or_else(|| tokenizer.is_some().then(|| target.model.clone()));
        let maker = Maker {
            num_prompts: self.dataset.num_prompts,
            seed: self.dataset.seed,
            vocabulary: Vocabulary::new(tokenizer),
            form: self.form(backend),
        };
        let dataset = self.dataset.dataset(backend);
        let dataset = dataset.map_err(|why| BenchError::flag("--dataset-name", why))?;
        let (mut requests, notes) = maker.make(&dataset)?;
        if self.dataset.embedding_share != 0.0 {
            let texts = self.dataset.texts(self.dataset.random_batch_size);
            requests = maker.mix(requests, self.dataset.embedding_share, &texts)?;
        }
        let client = Client::new(http(self.target, &target.url)?, self.settings(target, &maker)?);
        client.check(&requests)?;
        let warmups = maker.warmups(self.traffic.num_warmups, &requests);
        let (objective, objective_name) = self.objective()?;
        let plan = Plan {
            client: Arc::new(client),
            warmups,
            load: self.load(requests)?,
            wanted: self.wanted(objective)?,
            shown: self.shown()?,
            objective_name,
            check: self.figures.verify.map(|num| Check {
                num,
                tolerance: self.figures.verify_tolerance,
                seed: self.dataset.seed,
            }),
        };
        let head = self.head(target, tokenizer_id, plan.load.requests.len())?;
        Ok(Prepared { plan, head, notes })
    }

    /// Ids where the API takes them; texts for chats, and where turns contain one another.
    fn form(&self, backend: Backend) -> Form {
        match backend {
            Backend::Completions if self.dataset.turns <= 1 => Form::Ids,
            _ => Form::Text,
        }
    }

    /// Refuses what would be ignored.
    fn check(&self) -> Result<(), BenchError> {
        let (traffic, dataset) = (self.traffic, self.dataset);
        let has_rate = traffic.request_rate.is_finite() || traffic.ramp_up_strategy.is_some();
        let has_turns = dataset.turns > 1;
        let waits = traffic.users.is_some() || has_turns;
        let refused = [
            (
                self.is_timed() && (has_rate || traffic.users.is_some()),
                "--request-rate",
                "the trace says when requests are sent; use --speed or --no-self-timed",
            ),
            (
                !self.is_timed() && (traffic.speed - 1.0).abs() > f64::EPSILON,
                "--speed",
                "only for requests with timestamps",
            ),
            (traffic.max_concurrency == Some(0), "--max-concurrency", "0: must be at least 1"),
            (
                has_turns && dataset.dataset_name != DatasetName::Random,
                "--turns",
                "only for --dataset-name random",
            ),
            (
                has_turns && traffic.users.is_some(),
                "--users",
                "conversations start at --request-rate; their users wait as they are",
            ),
            (
                has_turns && self.figures.verify.is_some(),
                "--verify",
                "turns of a conversation cannot be sent again alone",
            ),
            (traffic.think_time > 0.0 && !waits, "--think-time", "only with --users or --turns"),
            (
                dataset.embedding_model.is_some() && dataset.embedding_share <= 0.0,
                "--embedding-model",
                "only with --embedding-share; else give --model",
            ),
        ];
        match refused.into_iter().find(|(is_so, ..)| *is_so) {
            Some((_, flag, message)) => Err(BenchError::flag(flag, message)),
            None => Ok(()),
        }
    }

    fn load(&self, requests: Vec<Request>) -> Result<Load> {
        self.check()?;
        Ok(Load {
            due: self.arrivals().schedule(&requests, self.dataset.seed)?,
            requests: requests.into(),
            max_concurrency: self.traffic.max_concurrency,
            pacing: Pacing::Thread,
            history: if self.dataset.turns > 1 { History::Grown } else { History::AsGiven },
            stop: self.traffic.stop_over_saturated.map(Rule::new),
        })
    }

    /// Whether requests are sent when their trace says.
    fn is_timed(&self) -> bool {
        let is_trace = self.dataset.dataset_name.trace().is_some();
        self.traffic.self_timed || (is_trace && !self.traffic.no_self_timed)
    }

    fn arrivals(&self) -> Arrivals {
        let traffic = self.traffic;
        let (rate, burstiness, think) =
            (traffic.request_rate, traffic.burstiness, traffic.think_time);
        let ramp = (traffic.ramp_up_strategy, traffic.ramp_up_start_rps, traffic.ramp_up_end_rps);
        match ramp {
            (Some(strategy), Some(start), Some(end)) => {
                Arrivals::Ramp { strategy: strategy.ramp(), start, end, burstiness }
            }
            _ if self.is_timed() => Arrivals::Trace { speed: traffic.speed },
            _ if self.dataset.turns > 1 => Arrivals::Sessions { rate, burstiness, think },
            _ => match traffic.users {
                Some(num) => Arrivals::Users { num, think },
                None => Arrivals::Rate { rate, burstiness },
            },
        }
    }

    fn settings(&self, target: &Target, maker: &Maker) -> Result<Settings> {
        let backend = self.target.backend.backend();
        if self.dataset.embedding_share > 0.0 && self.dataset.embedding_model.is_none() {
            return Err(BenchError::flag("--embedding-share", "needs --embedding-model").into());
        }
        let sampling = self.sampling;
        let mut body = Map::new();
        let verifies = self.figures.verify.is_some() && backend != Backend::Embeddings;
        let temperature = sampling.temperature.or(verifies.then_some(0.0));
        let fields = [
            ("temperature", temperature.map(Value::from)),
            ("top_p", sampling.top_p.map(Value::from)),
            ("top_k", sampling.top_k.map(Value::from)),
            ("min_p", sampling.min_p.map(Value::from)),
            ("frequency_penalty", sampling.frequency_penalty.map(Value::from)),
            ("presence_penalty", sampling.presence_penalty.map(Value::from)),
            ("repetition_penalty", sampling.repetition_penalty.map(Value::from)),
            ("ignore_eos", self.ignores_eos().then_some(Value::from(true))),
        ];
        let given = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        body.extend(given);
        body.extend(sampling.extra_body.clone().unwrap_or_default());
        let is_greedy = body.get("temperature").and_then(Value::as_f64) == Some(0.0);
        let seeds = if verifies && !is_greedy { Seeds::From(maker.seed) } else { Seeds::AsGiven };
        let vectors = match self.figures.verify {
            Some(_) => Vectors::Kept,
            None => Vectors::Counted,
        };
        Ok(Settings {
            endpoint: self.target.endpoint.clone(),
            embedding_model: self.dataset.embedding_model.clone(),
            extra_body: body,
            seeds,
            request_id_prefix: self.target.request_id_prefix.clone(),
            timeout: Duration::from_secs(self.target.request_timeout),
            vectors,
            ..Settings::new(backend, target.model.clone())
        })
    }

    /// Answers of made-up prompts mean nothing, so their ends mean nothing either.
    fn ignores_eos(&self) -> bool {
        let has_meaning =
            matches!(self.dataset.dataset_name, DatasetName::Custom | DatasetName::Sharegpt);
        let is_embedding = self.target.backend.backend() == Backend::Embeddings;
        !is_embedding && (self.sampling.ignore_eos || !has_meaning)
    }

    fn objective(&self) -> Result<(Objective, Option<String>)> {
        if let Some(name) = &self.figures.slo {
            return Ok((Objective::preset(name)?, Some(name.clone())));
        }
        let pairs = self.figures.goodput.iter().map(String::as_str);
        Ok((Objective::parse("--goodput", pairs)?, None))
    }

    fn shown(&self) -> Result<Vec<Metric>> {
        let names = &self.figures.percentile_metrics;
        if names.is_empty() {
            return Ok(match self.target.backend.backend() {
                Backend::Embeddings => vec![Metric::E2el],
                Backend::Completions | Backend::Chat => USUAL.to_vec(),
            });
        }
        let metric = |name: &String| {
            Metric::named(name.trim()).ok_or_else(|| {
                let known: Vec<&str> = Metric::ALL.iter().map(|metric| metric.names().0).collect();
                let message = format!("{name}: must be one of {}", known.join(", "));
                BenchError::flag("--percentile-metrics", message).into()
            })
        };
        names.iter().map(metric).collect()
    }

    fn wanted(&self, objective: Objective) -> Result<Wanted> {
        let mut metrics = self.shown()?;
        let mut more = ALWAYS.to_vec();
        if self.traffic.max_concurrency.is_some() {
            more.extend([Metric::ClientQueueTime, Metric::E2elIncludingClientQueue]);
        }
        more.retain(|metric| !metrics.contains(metric));
        metrics.extend(more);
        let percents = self.figures.metric_percentiles.clone();
        Ok(Wanted { metrics, percents, objective, seed: self.dataset.seed })
    }

    fn head(
        &self,
        target: &Target,
        tokenizer_id: Option<String>,
        num_prompts: usize,
    ) -> Result<Head> {
        let metadata = self.figures.metadata.iter().map(|pair| {
            let pair = pair.split_once('=').context("--metadata: must be KEY=VALUE")?;
            Ok((pair.0.trim().to_owned(), pair.1.trim().to_owned()))
        });
        let traffic = self.traffic;
        let rate = Some(traffic.request_rate).filter(|rate| rate.is_finite());
        let mut fields = vec![
            ("request_rate", rate.map_or_else(|| json!("inf"), Value::from)),
            ("burstiness", traffic.burstiness.into()),
            ("max_concurrency", traffic.max_concurrency.into()),
        ];
        if let Some(strategy) = traffic.ramp_up_strategy {
            fields.push(("ramp_up_strategy", strategy.as_str().into()));
            fields.push(("ramp_up_start_rps", traffic.ramp_up_start_rps.into()));
            fields.push(("ramp_up_end_rps", traffic.ramp_up_end_rps.into()));
        }
        if self.is_timed() {
            fields.push(("speed", traffic.speed.into()));
        }
        if let Some(users) = traffic.users {
            fields.push(("users", users.into()));
            fields.push(("think_time", traffic.think_time.into()));
        }
        let now = jiff::Timestamp::now();
        Ok(Head {
            date: now.strftime("%Y%m%d-%H%M%S").to_string(),
            backend: self.target.backend.backend().as_str().to_owned(),
            label: self.figures.label.clone(),
            model_id: self.target.model.clone().unwrap_or_else(|| target.model.clone()),
            tokenizer_id,
            num_prompts,
            metadata: metadata.collect::<Result<_>>()?,
            dataset: self.dataset.describe(self.target.backend.backend()),
            traffic: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        })
    }
}

/// The tokenizer of a directory, or of a built-in model. Without a flag, `model` may name either.
fn tokenizer(flag: Option<&str>, model: &str) -> Result<Option<Arc<Tokenizer>>> {
    let name = flag.unwrap_or(model);
    let embedded = [builtin::chat(), builtin::embedding()];
    let files = match embedded.into_iter().find(|embedded| embedded.name == name) {
        Some(embedded) => ModelFiles::Embedded(embedded),
        None if Path::new(name).join("tokenizer.json").is_file() => {
            ModelFiles::Directory(name.into())
        }
        None if flag.is_some() => {
            let message = format!("{name}: neither a directory with a tokenizer.json nor built in");
            return Err(BenchError::flag("--tokenizer", message).into());
        }
        None => return Ok(None),
    };
    let read = |file: &str| {
        let bytes = files.read(file);
        bytes.map(|bytes| bytes.map(std::borrow::Cow::into_owned)).map_err(|error| {
            crate::text::Error::ModelFile { file: file.to_owned(), message: error.to_string() }
        })
    };
    let text = TextModel::load(name, &read, None).context("--tokenizer")?;
    Ok(Some(Arc::clone(text.tokenizer())))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use folio_engine::sched::Registry;

    use super::*;
    use crate::args::{BenchCommand, Cli, Command};

    fn prepared(args: &[&str]) -> Result<Prepared> {
        let words = ["folio", "bench", "serve"].iter().chain(args).map(OsString::from);
        let cli = Cli::read(words, &Registry::builtin()).unwrap();
        let Command::Bench(bench) = cli.command else { panic!("not bench") };
        let BenchCommand::Serve(args) = bench.command else { panic!("not serve") };
        let flags = Flags {
            target: &args.target,
            dataset: &args.dataset,
            sampling: &args.sampling,
            traffic: &args.traffic,
            figures: &args.figures,
        };
        let url = "http://127.0.0.1:1".to_owned();
        flags.prepare(&Target { url, model: "folio-tiny".to_owned(), _spawned: None })
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (args, expected) in [
            (&["--think-time=1"][..], "--think-time: only with --users or --turns"),
            (&["--speed=2"], "--speed: only for requests with timestamps"),
            (&["--max-concurrency=0"], "--max-concurrency: 0: must be at least 1"),
            (&["--turns=2", "--users=2"], "--users: conversations start"),
            (&["--turns=2", "--verify"], "--verify: turns"),
            (&["--embedding-model=e"], "--embedding-model: only with --embedding-share"),
            (&["--embedding-share=0.5"], "--embedding-share: needs --embedding-model"),
            (&["--dataset-name=custom"], "--dataset-name: --dataset-path is missing"),
            (&["--dataset-path=x"], "this dataset has no file"),
            (&["--percentile-metrics=itl,foo"], "foo: must be one of ttft"),
            (&["--slo=mlperf:x"], "--slo: mlperf:x"),
            (&["--goodput", "ttft"], "NAME:MILLISECONDS"),
            (&["--header=a"], "NAME=VALUE"),
            (&["--metadata", "a"], "KEY=VALUE"),
            (&["--request-rate=-1"], "--request-rate: -1: must be above 0"),
        ] {
            let error = format!("{:#}", prepared(args).err().unwrap());
            assert!(error.contains(expected), "{args:?}: {error}");
        }
    }

    #[test]
    fn made_up_prompts_ignore_the_end_and_verified_ones_are_greedy() {
        let body = |args: &[&str]| {
            let args: Vec<&str> =
                ["--num-prompts=2", "--input-len=4"].iter().chain(args).copied().collect();
            let plan = prepared(&args).unwrap().plan;
            let body = plan.client.body(1, &plan.load.requests[1], &[]);
            serde_json::from_slice::<Value>(&body).unwrap()
        };
        let plain = body(&[]);
        assert_eq!((&plain["ignore_eos"], plain.get("temperature")), (&json!(true), None));
        assert_eq!(plain["prompt"].as_array().unwrap().len(), 4);
        let greedy = body(&["--verify"]);
        assert_eq!((&greedy["temperature"], greedy.get("seed")), (&json!(0.0), None));
        let seeded = body(&["--verify", "--temperature=0.7", "--seed=5"]);
        assert_eq!((&seeded["temperature"], &seeded["seed"]), (&json!(0.7), &json!(6)));
    }
}
