//! The engine's settings: validated once, read-only afterwards.

use std::time::Duration;

/// What kind of work a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ModelKind {
    /// Generates tokens over the paged KV cache.
    Decoder,
    /// Turns a whole text into one vector, in one step and without KV blocks.
    Encoder,
    /// Turns a pair of texts into one score, in the same way.
    CrossEncoder,
}

impl ModelKind {
    /// Whether each text is computed whole, in one step and without KV blocks.
    #[must_use]
    pub fn is_encoder(self) -> bool {
        self != Self::Decoder
    }
}

/// What the scheduler must know of a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ModelLimits {
    /// Decoder or encoder.
    pub kind: ModelKind,
    /// Longest sequence, prompt and output together, special tokens counted.
    pub max_model_len: u32,
    /// Vocabulary size, V; prompt tokens must be below it.
    pub vocab_size: u32,
}

/// Whether full blocks are kept for requests with an equal prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PrefixCaching {
    /// Keep and share them.
    #[default]
    On,
    /// Never share between requests.
    Off,
}

/// Settings of the scheduler and the KV pool. Call [`validated`](Self::validated) before use.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct EngineConfig {
    /// The loaded models, indexed by `ModelId`. At most one decoder.
    pub models: Vec<ModelLimits>,
    /// Tokens in a KV block, P.
    pub block_size: u32,
    /// KV blocks in the pool, the scratch block included.
    pub num_blocks: u32,
    /// Most sequences of one model in a step.
    pub max_num_seqs: u32,
    /// Most tokens in a step, all models together.
    pub max_num_batched_tokens: u32,
    /// Most decoder sequences whose prompts are partly computed at the same time.
    pub max_num_partial_prefills: u32,
    /// Most prompt tokens of one sequence in one step; `None` leaves it to the budget.
    pub long_prefill_token_threshold: Option<u32>,
    /// Most requests that may wait.
    pub max_queued_requests: u32,
    /// Whether prefixes are shared between requests.
    pub prefix_caching: PrefixCaching,
    /// Blocks of host memory for what preempted sequences have computed. With any, preemption
    /// prefers saving to recomputing; 0 where the executor cannot swap, or it does not pay.
    pub num_host_blocks: u32,
}

/// How an engine protects itself. None of it changes what is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Most tokens of requests that may wait; `None` for any number. A request that would wait
    /// alone is taken whatever its length.
    pub max_queued_tokens: Option<u64>,
    /// Longest time without the end of a step while there is work; beyond it the engine counts as
    /// stalled.
    pub step_timeout: Duration,
    /// Failures within [`failure_window`](Self::failure_window) with which the engine gives up;
    /// at least 1.
    pub max_failures: u32,
    /// See [`max_failures`](Self::max_failures).
    pub failure_window: Duration,
}

impl Default for Protection {
    /// A minute without a step is a stall; the third failure within a minute is the last.
    fn default() -> Self {
        Self {
            max_queued_tokens: None,
            step_timeout: Duration::from_secs(60),
            max_failures: 3,
            failure_window: Duration::from_secs(60),
        }
    }
}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value}: {limit}")]
pub struct ConfigError {
    /// Name of the setting.
    pub field: &'static str,
    /// The value given.
    pub value: String,
    /// What it must satisfy, with the numbers.
    pub limit: String,
}

impl EngineConfig {
    /// Checks every setting, alone and against the others.
    pub fn validated(self) -> Result<Self, ConfigError> {
        self.check_counts()?;
        let num_decoders = self.models_of(ModelKind::Decoder).count();
        ensure(num_decoders <= 1, "models", num_decoders, || {
            "at most one decoder model can be loaded".into()
        })?;
        ensure(!self.models.is_empty(), "models", 0, || "load at least one model".into())?;
        for encoder in self.models.iter().filter(|model| model.kind.is_encoder()) {
            self.check_encoder_fits(encoder, num_decoders)?;
        }
        Ok(self)
    }

    /// Tokens that all allocatable blocks hold together.
    #[must_use]
    pub fn kv_capacity_tokens(&self) -> u32 {
        self.num_blocks.saturating_sub(1).saturating_mul(self.block_size)
    }

    fn models_of(&self, kind: ModelKind) -> impl Iterator<Item = &ModelLimits> {
        self.models.iter().filter(move |model| model.kind == kind)
    }

    fn check_counts(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("block_size", self.block_size),
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_num_partial_prefills", self.max_num_partial_prefills),
            ("long_prefill_token_threshold", self.long_prefill_token_threshold.unwrap_or(1)),
            ("max_queued_requests", self.max_queued_requests),
        ];
        for (field, value) in at_least_one {
            ensure(value >= 1, field, value, || "must be at least 1".into())?;
        }
        ensure(self.block_size <= 1024, "block_size", self.block_size, || {
            "must be at most 1024".into()
        })?;
        if self.models_of(ModelKind::Decoder).next().is_some() {
            ensure(self.num_blocks >= 2, "num_blocks", self.num_blocks, || {
                "must be at least 2: one block is scratch".into()
            })?;
            let (tokens, seqs) = (self.max_num_batched_tokens, self.max_num_seqs);
            ensure(tokens >= seqs, "max_num_batched_tokens", tokens, || {
                format!("must be at least max_num_seqs = {seqs}")
            })?;
        }
        Ok(())
    }

    /// An encoder text is computed whole, beside one token of every running decoder sequence.
    fn check_encoder_fits(
        &self,
        encoder: &ModelLimits,
        num_decoders: usize,
    ) -> Result<(), ConfigError> {
        let decode = if num_decoders > 0 { self.max_num_seqs } else { 0 };
        let need = encoder.max_model_len.saturating_add(decode);
        ensure(
            self.max_num_batched_tokens >= need,
            "max_num_batched_tokens",
            self.max_num_batched_tokens,
            || {
                format!(
                    "must be at least {need}: an embedding of {} tokens is computed in one step \
                     beside {decode} decoding sequences",
                    encoder.max_model_len
                )
            },
        )
    }
}

fn ensure(
    holds: bool,
    field: &'static str,
    value: impl std::fmt::Display,
    limit: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(ConfigError { field, value: value.to_string(), limit: limit() })
    }
}
