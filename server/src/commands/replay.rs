//! `folio replay`.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use folio_engine::decisions::Header;
use folio_engine::sched::{Complaints, OutputLengths, PolicyContext, Tempo};
use folio_engine::types::{CostModel, RequestId};
use folio_sim::cost::{self, CostContext, ModelShape};
use folio_sim::replay::{Replay, ReplayEnd, output_lengths, replay};
use serde::Deserialize;

use super::explain::open;
use crate::args::ReplayArgs;
use crate::policy::Policies;

/// What a simulation enters into its log so that its policy can be made again.
#[derive(Debug, Deserialize, serde::Serialize)]
pub(super) struct SimContext {
    /// As `--cost` said it.
    pub cost: String,
    /// As `--model` said it.
    pub model: String,
    /// As `--seed` said it.
    pub seed: u64,
}

/// Replays a log, and says whether all was decided in the same way.
pub(crate) fn run(args: &ReplayArgs, policies: &Policies) -> Result<()> {
    let log = open(&args.log)?;
    let policy = args.policy.clone().unwrap_or_else(|| log.header().policy.clone());
    let lengths = Lengths(if policy.contains("predictor") {
        output_lengths(open(&args.log)?)
    } else {
        HashMap::new()
    });
    let context = context(log.header(), lengths)?;
    let replay = replay(log, &mut |_, spec| {
        let spec = args.policy.as_deref().unwrap_or(spec);
        let made = policies.registry().make(spec, &context);
        made.map_err(|error| error.pointed())
    })?;
    let Replay { num_calls, num_steps, num_requests, span, end } = replay;
    let seconds = span.as_secs_f64();
    let mut output = std::io::stdout().lock();
    writeln!(
        output,
        "{num_requests} requests, {num_steps} steps, {num_calls} calls in {seconds:.3} s under \
         {policy}: all decided in the same way{}",
        if matches!(end, ReplayEnd::Complete) { "" } else { " so far" }
    )?;
    match end {
        ReplayEnd::Complete => Ok(()),
        ReplayEnd::Gap { num_calls } => {
            bail!("{num_calls} calls are missing in the log; nothing after them can be compared")
        }
        ReplayEnd::Broken(error) => {
            // A server may be writing it still.
            writeln!(std::io::stderr(), "warning: {}: {error}", args.log.display())?;
            Ok(())
        }
        ReplayEnd::Differs(difference) => bail!("the first difference is {difference}"),
    }
}

/// What the policy of a log was given.
fn context(header: &Header, lengths: Lengths) -> Result<PolicyContext> {
    let block_size = header.engine.block_size;
    let mut context = PolicyContext {
        block_size,
        tempo: Tempo::Live,
        complaints: Complaints::new(|text| {
            let _ = writeln!(std::io::stderr(), "warning: {text}");
        }),
        ..PolicyContext::default()
    };
    if header.policy_context.is_null() {
        return Ok(context);
    }
    let sim: SimContext = serde_json::from_value(header.policy_context.clone())
        .context("the policy_context of the log")?;
    let model = ModelShape::find(&sim.model)?;
    let cost: Arc<dyn CostModel> = cost::from_spec(&sim.cost, &CostContext { model, block_size })?;
    context.cost = Some(cost);
    context.seed = sim.seed;
    context.tempo = Tempo::Simulated;
    context.lengths = Some(Arc::new(lengths));
    Ok(context)
}

/// How long the answers of a log became.
#[derive(Debug)]
struct Lengths(HashMap<RequestId, u32>);

impl OutputLengths for Lengths {
    fn output_len(&self, request: RequestId) -> Option<u32> {
        self.0.get(&request).copied()
    }
}
