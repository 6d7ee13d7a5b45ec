//! `folio sim`: a load, a policy and a cost model in; a table and a result out.
//!
//! The load is made in `load`, the result written in `output`. Whoever runs many simulations calls
//! [`simulate`].

mod load;
mod output;

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use folio_engine::decisions::{Disguise, Header, LogFile, LogLimits};
use folio_engine::sched::{Complaints, Decider, PolicyContext, Tempo};
use folio_engine::types::{CostModel, EngineConfig, Nanos, PrefixCaching};
use folio_sim::cluster::{Cluster, Member, PrefillDecode, Router, Transfer, for_decode, router};
use folio_sim::cost::{self, CostContext, ModelShape};
use folio_sim::instance::decoder_config;
use folio_sim::options::LogSink;
use folio_sim::result::{EachRequest, LoadDescription, Selection};
use folio_sim::table::table;
use folio_sim::{
    Description, Detail, FrontEnd, Hooks, Host, KnownLengths, Options, Outcome, Overlap,
    simulate_cluster,
};

use super::replay::SimContext;
use crate::args::SimArgs;
use crate::policy::Policies;

/// Runs one simulation, prints its table and writes its result where that is wanted.
pub(crate) fn run(args: &SimArgs, policies: &Policies) -> Result<()> {
    let start = Instant::now();
    let (outcome, description) = simulate(args, policies)?;
    let took = start.elapsed().as_secs_f64();
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(table(&outcome, &description).as_bytes())?;
    stdout.flush()?;
    let mut notes = output::notes(&outcome);
    let (num, virtual_s) = (outcome.requests.len(), outcome.duration_s());
    notes.push(format!(
        "{num} requests in {virtual_s:.1} s of virtual time, simulated in {took:.2} s: {:.0} times \
         as fast",
        virtual_s / took.max(1e-9)
    ));
    notes.extend(output::save(args, &outcome, &description)?);
    let mut stderr = std::io::stderr().lock();
    for note in notes {
        // Whoever closes the standard error does not want to know.
        let _ = writeln!(stderr, "{note}");
    }
    Ok(())
}

/// Runs one simulation. Equal arguments give equal outcomes, to the bit.
pub(crate) fn simulate(args: &SimArgs, policies: &Policies) -> Result<(Outcome, Description)> {
    let seed = args.output.seed as u64;
    let mut workload = load::workload(args, seed)?;
    let parts = Parts::read(args)?;
    let lengths = Arc::new(KnownLengths::default());
    let make = || parts.policy(args, policies, &lengths, seed);
    let hooks = Hooks { lengths: Some(Arc::clone(&lengths)), log: parts.log(args)? };
    let options = Options {
        engine: parts.engine.clone(),
        policy: make()?,
        cost: Arc::clone(&parts.cost),
        host: parts.host,
        front: front(args),
        slo: args.output.slo(),
        seed,
        detail: if args.output.save_detailed { Detail::Tokens } else { Detail::Requests },
        hooks,
    };
    let cluster = parts.cluster(args, &make)?;
    let outcome = match cluster {
        None => folio_sim::simulate(options, workload.as_mut()),
        Some(cluster) => simulate_cluster(options, cluster, workload.as_mut()),
    };
    let outcome = outcome.context("the simulation stopped")?;
    ensure!(!outcome.requests.is_empty(), "the load has no requests: {}", tally(&outcome));
    Ok((outcome, description(args, &parts.cost)))
}

/// How long steps take on the device that the arguments describe.
pub(crate) fn cost_model(args: &SimArgs) -> Result<Arc<dyn CostModel>> {
    Ok(Parts::read(args)?.cost)
}

fn tally(outcome: &Outcome) -> String {
    let dropped = outcome.read.dropped.iter().map(|(reason, num)| format!("{num} {reason}"));
    let dropped: Vec<String> = dropped.collect();
    let reasons = if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") };
    format!("{} read, {} kept, dropped: {reasons}", outcome.read.num_read, outcome.read.num_kept)
}

/// What the engines are made of.
struct Parts {
    model: ModelShape,
    engine: EngineConfig,
    cost: Arc<dyn CostModel>,
    host: Host,
    /// Bytes of the keys and values of a token.
    token_bytes: f64,
}

impl Parts {
    fn read(args: &SimArgs) -> Result<Self> {
        let model = ModelShape::find(&args.device.model)?;
        let block_size = args.engine.block_size;
        let context = CostContext { model: model.clone(), block_size };
        let cost = cost::from_spec(&args.device.cost, &context)?;
        let hardware = cost::hardware(&args.device.cost)?;
        let num_blocks = match (args.engine.num_blocks, &hardware) {
            (Some(num_blocks), _) => num_blocks,
            (None, Some(hardware)) => {
                // One block more is scratch.
                let num_blocks = hardware.num_blocks(&model, block_size.max(1));
                ensure!(
                    num_blocks > 0,
                    "{} does not fit into the memory of {}: give --num-blocks to simulate it all \
                     the same",
                    model.name,
                    args.device.cost
                );
                num_blocks.saturating_add(1)
            }
            (None, None) => bail!(
                "--num-blocks must be given: {} does not say how much memory there is",
                args.device.cost
            ),
        };
        let token_bytes = hardware.map_or(0.0, |hardware| hardware.block_bytes(&model, 1));
        let engine = engine(args, model.max_model_len, num_blocks);
        Ok(Self { host: host(args)?, model, engine, cost, token_bytes })
    }

    /// A policy for one engine.
    fn policy(
        &self,
        args: &SimArgs,
        policies: &Policies,
        lengths: &Arc<KnownLengths>,
        seed: u64,
    ) -> Result<Decider> {
        let context = PolicyContext {
            cost: Some(Arc::clone(&self.cost)),
            lengths: Some(Arc::clone(lengths) as _),
            seed,
            block_size: self.engine.block_size,
            tempo: Tempo::Simulated,
            complaints: Complaints::new(|text| {
                let _ = writeln!(std::io::stderr(), "warning: {text}");
            }),
            ..PolicyContext::default()
        };
        let made = policies.registry().make(&args.engine.scheduling_policy, &context);
        made.map_err(|error| anyhow!("--scheduling-policy: {}", error.pointed()))
    }

    /// The engines beside the first, and who chooses among them.
    fn cluster(
        &self,
        args: &SimArgs,
        make: &dyn Fn() -> Result<Decider>,
    ) -> Result<Option<Cluster>> {
        let num = args.cluster.instances as usize;
        if num == 1 {
            ensure!(
                args.cluster.router == "round-robin",
                "--router {} has nothing to choose from: --instances must be at least 2",
                args.cluster.router
            );
            return Ok(None);
        }
        let mut num_prefill = num;
        let router: Box<dyn Router> = match args.cluster.router.as_str() {
            "prefill-decode" => {
                let wanted = args.cluster.prefill_instances.map(|num| num as usize);
                num_prefill = wanted.unwrap_or(num / 2);
                ensure!(
                    num_prefill < num,
                    "--prefill-instances = {num_prefill}: must leave one of --instances = {num}"
                );
                Box::new(PrefillDecode { num_prefill })
            }
            name => router(name, num).with_context(|| format!("--router = {name}: unknown"))?,
        };
        let others = (1..num).map(|index| {
            let engine = self.engine.clone();
            let engine = if index < num_prefill { engine } else { for_decode(engine) };
            Ok(Member { engine, policy: make()? })
        });
        let latency = Nanos::from_secs_f64(args.cluster.transfer_latency_us * 1e-6);
        let bytes_per_s = args.cluster.transfer_bandwidth * 1e9;
        Ok(Some(Cluster {
            others: others.collect::<Result<_>>()?,
            router,
            transfer: Transfer::over(bytes_per_s, self.token_bytes, latency),
        }))
    }

    /// Where decisions go.
    fn log(&self, args: &SimArgs) -> Result<Option<LogSink>> {
        let Some(path) = &args.output.decision_log else { return Ok(None) };
        let policy = args.engine.scheduling_policy.as_str();
        let mut header =
            Header::new(policy, self.engine.clone(), std::slice::from_ref(&self.model.name));
        header.policy_context = serde_json::to_value(SimContext {
            cost: args.device.cost.clone(),
            model: args.device.model.clone(),
            seed: args.output.seed as u64,
        })?;
        let disguise = Disguise::reproducible(&self.engine);
        let limits = LogLimits { max_bytes: None };
        let name = path.display().to_string();
        let file = LogFile::create(path, header, disguise, limits);
        let mut file = Flushed { file: file.with_context(|| name.clone())?, name };
        Ok(Some(Box::new(move |calls| file.write(calls))))
    }
}

/// A log whose end is written when it goes. What cannot be written is said once.
struct Flushed {
    file: LogFile,
    name: String,
}

impl Flushed {
    fn write(&mut self, calls: Vec<folio_engine::sched::decisions::Call>) {
        let result = self.file.write(calls);
        self.complain(result);
    }

    fn complain(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result
            && !self.name.is_empty()
        {
            let _ = writeln!(std::io::stderr(), "warning: {}: {error}", self.name);
            self.name.clear();
        }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        let result = self.file.flush();
        self.complain(result);
    }
}

fn engine(args: &SimArgs, model_len: u32, num_blocks: u32) -> EngineConfig {
    let engine = &args.engine;
    EngineConfig {
        block_size: engine.block_size,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.max_num_batched_tokens,
        max_num_partial_prefills: engine.max_num_partial_prefills,
        long_prefill_token_threshold: engine.long_prefill_token_threshold,
        max_queued_requests: engine.max_queued_requests.unwrap_or(u32::MAX),
        prefix_caching: if engine.no_enable_prefix_caching {
            PrefixCaching::Off
        } else {
            PrefixCaching::On
        },
        ..decoder_config(engine.max_model_len.unwrap_or(model_len), num_blocks)
    }
}

fn host(args: &SimArgs) -> Result<Host> {
    let overlap = if args.device.async_scheduling { Overlap::Ahead } else { Overlap::None };
    let fitted = cost::fitted(&args.device.cost)?;
    let measured = fitted.map(|fitted| fitted.host().host(overlap));
    let mut host = measured.unwrap_or(Host { overlap, ..Host::default() });
    let nanos = |us: f64| Nanos::from_secs_f64(us * 1e-6);
    host.per_step = args.device.host_step_us.map_or(host.per_step, nanos);
    host.per_sequence = args.device.host_sequence_us.map_or(host.per_sequence, nanos);
    Ok(host)
}

fn front(args: &SimArgs) -> FrontEnd {
    FrontEnd {
        max_tokens: args.device.max_tokens,
        timeout: args.device.timeout.map(Nanos::from_secs_f64),
        closes_at: args.device.max_duration.map(Nanos::from_secs_f64),
    }
}

fn description(args: &SimArgs, cost: &Arc<dyn CostModel>) -> Description {
    let output = &args.output;
    Description {
        model: args.device.model.clone(),
        workload: output.label.clone().unwrap_or_else(|| load::name(args)),
        cost: cost.name().to_owned(),
        policy: args.engine.scheduling_policy.trim().to_owned(),
        router: (args.cluster.instances > 1).then(|| args.cluster.router.clone()),
        seed: output.seed as u64,
        load: LoadDescription {
            rate: load::configured_rate(args),
            burstiness: args.load.burstiness,
        },
        slo: output.slo(),
        selection: Selection {
            metrics: output.percentile_metrics.clone(),
            percents: output.metric_percentiles.clone(),
            requests: if output.save_detailed { EachRequest::Tell } else { EachRequest::Leave },
        },
        metadata: output.metadata.clone(),
    }
}
