//! Flags of the engine: device, batch, queue, KV cache.

use std::time::Duration;

use crate::client::MAX_TIMEOUT;
use clap::{ArgAction, Args, ValueEnum};
use folio_engine::types::Protection;

use super::Bytes;

/// Steps whose tokens may wait when nothing else is said.
const QUEUED_STEPS: u64 = 256;

/// How models are computed and requests are scheduled.
#[derive(Args, Debug)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Where to compute
    #[arg(long, env = "FOLIO_DEVICE", value_enum, default_value_t = Device::Auto)]
    pub device: Device,

    /// Threads that compute [default: one for each core]
    #[arg(long, env = "FOLIO_THREADS")]
    pub threads: Option<usize>,

    /// Most sequences of one model in a step
    #[arg(long, env = "FOLIO_MAX_NUM_SEQS", default_value_t = 64)]
    pub max_num_seqs: u32,

    /// Most tokens in a step, all models together
    #[arg(
        long,
        env = "FOLIO_MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value_t = 2048
    )]
    pub max_num_batched_tokens: u32,

    /// Most prompts that are partly computed at the same time
    #[arg(long, env = "FOLIO_MAX_NUM_PARTIAL_PREFILLS", default_value_t = 4)]
    pub max_num_partial_prefills: u32,

    /// Most prompt tokens of one sequence in a step [default: no limit but the step's]
    #[arg(long, env = "FOLIO_LONG_PREFILL_TOKEN_THRESHOLD", value_name = "TOKENS")]
    pub long_prefill_token_threshold: Option<u32>,

    /// Most sequences that may wait; beyond it requests get 429
    #[arg(long, env = "FOLIO_MAX_QUEUED_REQUESTS", default_value_t = 4096)]
    pub max_queued_requests: u32,

    /// Most prompt tokens that may wait; beyond it requests get 429, but one that would wait alone
    /// is taken [default: as many as 256 full steps hold]
    #[arg(long, env = "FOLIO_MAX_QUEUED_TOKENS", value_name = "TOKENS")]
    pub max_queued_tokens: Option<u64>,

    /// Longest time that a request may take, for those too that ask for no `timeout` [default: no
    /// limit]
    #[arg(long, env = "FOLIO_MAX_REQUEST_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    pub max_request_timeout: Option<Duration>,

    /// Longest time without the end of a step while there is work; beyond it the server is not
    /// ready
    #[arg(
        long,
        env = "FOLIO_STEP_TIMEOUT",
        value_name = "SECONDS",
        default_value = "60",
        value_parser = seconds
    )]
    pub step_timeout: Duration,

    /// Which sequences go first: the name of a policy and its parameters
    #[arg(
        long,
        visible_alias = "policy",
        env = "FOLIO_SCHEDULING_POLICY",
        value_name = "SPEC",
        default_value = "fcfs"
    )]
    pub scheduling_policy: String,

    /// Policy that is asked in each step and not followed: what it would have done otherwise is
    /// counted
    #[arg(long, env = "FOLIO_SHADOW_POLICY", value_name = "SPEC")]
    pub shadow_policy: Option<String>,

    /// Tokens in a block of the KV cache
    #[arg(long, env = "FOLIO_BLOCK_SIZE", value_name = "TOKENS", default_value_t = 16)]
    pub block_size: u32,

    /// Blocks in the KV cache [default: as many as memory allows, within reason]
    #[arg(
        long,
        visible_alias = "num-gpu-blocks-override",
        env = "FOLIO_NUM_BLOCKS",
        conflicts_with = "kv_cache_memory"
    )]
    pub num_blocks: Option<u32>,

    /// Memory for the KV cache, in bytes or with a unit such as GiB
    #[arg(long, env = "FOLIO_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub kv_cache_memory: Option<Bytes>,

    /// Share of the GPU's memory that may be used, what others use included
    #[arg(long, env = "FOLIO_GPU_MEMORY_UTILIZATION", value_name = "SHARE", default_value_t = 0.9)]
    pub gpu_memory_utilization: f32,

    /// Host memory for the KV blocks of preempted sequences, taken where it is faster to bring them
    /// back than to compute them again; 0 for none
    #[arg(long, env = "FOLIO_SWAP_SPACE", value_name = "BYTES", default_value = "4GiB")]
    pub swap_space: Bytes,

    /// Give the same tokens on a GPU whatever else is in a step, at some speed (always so on a CPU)
    #[arg(long, env = "FOLIO_DETERMINISTIC", action = ArgAction::SetTrue)]
    pub deterministic: bool,

    /// Launch every kernel of every step on a GPU instead of replaying captured graphs
    #[arg(long, env = "FOLIO_ENFORCE_EAGER", action = ArgAction::SetTrue)]
    pub enforce_eager: bool,

    /// Do not share the KV cache between requests that begin alike
    #[arg(long, env = "FOLIO_NO_ENABLE_PREFIX_CACHING", action = ArgAction::SetTrue)]
    pub no_enable_prefix_caching: bool,

    /// Seed of the requests that bring none, in order of arrival [default: a new one each start]
    #[arg(long = "seed", env = "FOLIO_SEED", value_name = "SEED", allow_negative_numbers = true)]
    pub default_seed: Option<i64>,
}

impl EngineArgs {
    /// How the engine protects itself.
    pub(crate) fn protection(&self) -> Protection {
        let default = u64::from(self.max_num_batched_tokens).saturating_mul(QUEUED_STEPS);
        Protection {
            max_queued_tokens: Some(self.max_queued_tokens.unwrap_or(default)),
            step_timeout: self.step_timeout,
            ..Protection::default()
        }
    }
}

/// A length of time.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let duration = duration.filter(|duration| !duration.is_zero() && *duration <= MAX_TIMEOUT);
    let max = MAX_TIMEOUT.as_secs();
    duration.ok_or_else(|| format!("must be a number of seconds above 0 and at most {max}"))
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// A GPU if there is one, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}
