//! How much memory the models take, decided before any of it is allocated.

use super::{cuda, scoring};
use crate::model::ModelConfig;
use crate::ops::{ActivationLayout, CudaDevice, KvShape, Reserve};
use crate::types::{ConfigError, Error, ModelKind, Result};

/// Tokens that each running sequence gets where nothing says how large the KV cache is to be.
const DEFAULT_TOKENS_PER_SEQ: u32 = 2048;
/// Of the memory that weights and activations leave, the KV cache takes at most one part in this
/// many where nothing says how large it is to be.
const DEFAULT_SHARE: u64 = 2;
/// Most tokens in a KV block.
const MAX_BLOCK_SIZE: u32 = 1024;

/// What the plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct MemoryOptions {
    /// Tokens in a KV block, P.
    pub block_size: u32,
    /// Most sequences of one model in a step.
    pub max_num_seqs: u32,
    /// Most tokens in a step.
    pub max_num_batched_tokens: u32,
    /// How large the KV cache is to be.
    pub kv_cache: KvCacheSize,
    /// How the device lays out activations; the KV cache has their format.
    pub layout: ActivationLayout,
    /// Bytes that the device has free now; `None` when unknown, and then nothing is refused.
    pub available_bytes: Option<u64>,
}

/// How large the KV cache is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// This many blocks, the scratch block included.
    Blocks(u32),
    /// As many blocks as fit into this many bytes.
    Bytes(u64),
    /// In host memory enough for a full batch of common lengths, within half of what is free; on a
    /// GPU all that is free.
    Auto,
}

/// What is going to be allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes of weights. In host memory they are mapped files, which take memory as they are
    /// touched.
    pub weights_bytes: u64,
    /// Bytes of what a GPU takes beside all else.
    pub overhead_bytes: u64,
    /// How the device lays out activations.
    pub layout: ActivationLayout,
    /// What steps need of the device.
    pub reserve: Reserve,
    /// KV blocks for preempted sequences in pinned host memory, beside all of the above. A plan
    /// begins with none: see [`SwapChoice`](super::SwapChoice).
    pub num_host_blocks: u32,
}

impl MemoryPlan {
    /// Plans for `configs`, all models of the engine; at most one of them is a decoder.
    pub fn new(configs: &[ModelConfig], options: &MemoryOptions) -> Result<Self> {
        if !(1..=MAX_BLOCK_SIZE).contains(&options.block_size) {
            return Err(Error::Config(ConfigError {
                field: "block_size",
                value: options.block_size.to_string(),
                limit: format!("must be from 1 to {MAX_BLOCK_SIZE}"),
            }));
        }
        let (mut arena_bytes, mut weights_bytes, mut max_model_len) = (0, 0, 0);
        for config in configs {
            config.check_device(options.layout)?;
            weights_bytes += config.weights_bytes_on(options.layout);
            max_model_len = max_model_len.max(config.limits().max_model_len);
            let num_logits = options.max_num_seqs.max(scoring::MAX_ROWS as u32);
            let num_tokens = options.max_num_batched_tokens;
            let needed = config.activations_bytes(num_tokens, num_logits, options.layout)?;
            arena_bytes = arena_bytes.max(needed + pooled_bytes(config, options));
        }
        let reserve = Reserve {
            arena_bytes,
            kv: None,
            max_num_tokens: options.max_num_batched_tokens as usize,
            max_num_seqs: options.max_num_seqs as usize,
            max_model_len: max_model_len as usize,
        };
        let mut plan = Self {
            weights_bytes,
            overhead_bytes: 0,
            layout: options.layout,
            reserve,
            num_host_blocks: 0,
        };
        let decoder = |config: &&ModelConfig| config.limits().kind == ModelKind::Decoder;
        let decoder = configs.iter().find(decoder);
        if !plan.is_on_host() {
            let kv = decoder.and_then(|config| config.kv_shape(1, options.block_size));
            plan.overhead_bytes = CudaDevice::overhead_bytes(Reserve { kv, ..reserve })
                + decoder.map_or(0, |config| cuda::sampling_bytes(config.limits(), reserve));
        }
        if let Some(config) = decoder {
            let num_blocks = plan.num_blocks_for(config, options)?;
            plan.reserve.kv = config.kv_shape(num_blocks, options.block_size);
        }
        plan.check_fits(options)?;
        Ok(plan)
    }

    /// KV blocks, the scratch block included; 0 without a decoder.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        self.reserve.kv.map_or(0, |kv| kv.num_blocks as u32)
    }

    /// Bytes of the KV cache.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.reserve.kv.map_or(0, |kv| self.bytes_per_block(kv) * kv.num_blocks as u64)
    }

    /// Bytes of the step arena.
    #[must_use]
    pub fn activations_bytes(&self) -> u64 {
        self.reserve.arena_bytes as u64
    }

    fn is_on_host(&self) -> bool {
        self.layout == ActivationLayout::CPU
    }

    fn bytes_per_block(&self, kv: KvShape) -> u64 {
        (kv.numbers_per_block() * self.layout.dtype.num_bytes()) as u64
    }

    fn num_blocks_for(&self, config: &ModelConfig, options: &MemoryOptions) -> Result<u32> {
        let Some(block) = config.kv_shape(1, options.block_size) else {
            return Ok(0);
        };
        let per_block = self.bytes_per_block(block);
        // One more for the scratch block.
        let blocks_of = |tokens: u64| tokens.div_ceil(u64::from(options.block_size)) + 1;
        let num_blocks = match options.kv_cache {
            KvCacheSize::Blocks(num_blocks) => u64::from(num_blocks),
            KvCacheSize::Bytes(num_bytes) => num_bytes / per_block,
            KvCacheSize::Auto if !self.is_on_host() && options.available_bytes.is_some() => {
                self.left(options).unwrap_or(0) / per_block
            }
            KvCacheSize::Auto => {
                let max_len = config.limits().max_model_len;
                let tokens_per_seq = u64::from(max_len.min(DEFAULT_TOKENS_PER_SEQ));
                let wanted = blocks_of(tokens_per_seq * u64::from(options.max_num_seqs))
                    .max(blocks_of(u64::from(max_len)));
                self.left(options)
                    .map_or(wanted, |left| wanted.min(left / DEFAULT_SHARE / per_block))
            }
        };
        let num_blocks = u32::try_from(num_blocks).unwrap_or(u32::MAX);
        if num_blocks < 2 {
            return Err(Error::OutOfMemory(format!(
                "the KV cache would have {num_blocks} blocks of {} and needs at least 2 ({self})",
                Bytes(per_block)
            )));
        }
        Ok(num_blocks)
    }

    /// Bytes that all but the KV cache takes.
    fn taken(&self) -> u64 {
        self.weights_bytes + self.activations_bytes() + self.overhead_bytes
    }

    /// Bytes that this leaves.
    fn left(&self, options: &MemoryOptions) -> Option<u64> {
        let taken = self.taken();
        options.available_bytes.map(|available| available.saturating_sub(taken))
    }

    fn check_fits(&self, options: &MemoryOptions) -> Result<()> {
        let needed = self.taken() + self.kv_bytes();
        match options.available_bytes {
            Some(available) if needed > available => Err(Error::OutOfMemory(format!(
                "{} are needed and {} are free ({self}); lower max_num_batched_tokens, \
                 max_num_seqs or the KV cache",
                Bytes(needed),
                Bytes(available)
            ))),
            _ => Ok(()),
        }
    }
}

/// What an encoder's vectors take in the arena, after the hidden states that they are pooled from.
fn pooled_bytes(config: &ModelConfig, options: &MemoryOptions) -> usize {
    let is_pooled_there =
        config.limits().kind.is_encoder() && options.layout != ActivationLayout::CPU;
    let num_floats = options.max_num_seqs as usize * config.hidden_size() as usize;
    // And room for the start of a cache line.
    if is_pooled_there { num_floats * 4 + 256 } else { 0 }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "weights {}", Bytes(self.weights_bytes))?;
        if let Some(kv) = self.reserve.kv {
            let num_tokens = (kv.num_blocks - 1) * kv.block_size;
            let num_bytes = Bytes(self.kv_bytes());
            write!(f, ", KV cache {num_bytes} for {num_tokens} tokens")?;
        }
        let (activations, tokens) = (self.activations_bytes(), self.reserve.max_num_tokens);
        write!(f, ", activations {} for {tokens} tokens a step", Bytes(activations))?;
        match self.overhead_bytes {
            0 => Ok(()),
            num_bytes => write!(f, ", workspaces {}", Bytes(num_bytes)),
        }
    }
}

/// A number of bytes, shown in the unit that suits it.
struct Bytes(u64);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..1_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.2} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Embedded, ModelFiles};
    use crate::ops::{Dtype, Stacking};

    /// Llama with 2 layers, 2 key/value heads of 8: a block of 16 tokens has 4096 bytes.
    const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 1000,
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}"#;
    const WEIGHTS: [u8; 10_000] = [0; 10_000];
    const BLOCK_BYTES: u64 = 2 * 2 * 2 * 8 * 16 * 4;

    static MODEL: Embedded = Embedded {
        name: "test",
        files: &[("config.json", CONFIG.as_bytes()), ("model.safetensors", &WEIGHTS)],
    };

    fn plan(kv_cache: KvCacheSize, available_bytes: Option<u64>) -> Result<MemoryPlan> {
        plan_with_blocks_of(16, kv_cache, available_bytes)
    }

    fn plan_with_blocks_of(
        block_size: u32,
        kv_cache: KvCacheSize,
        available_bytes: Option<u64>,
    ) -> Result<MemoryPlan> {
        let config = ModelConfig::read(&ModelFiles::Embedded(&MODEL), None).unwrap();
        let options = MemoryOptions {
            block_size,
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            kv_cache,
            layout: ActivationLayout::CPU,
            available_bytes,
        };
        MemoryPlan::new(&[config], &options)
    }

    #[test]
    fn the_kv_cache_is_as_large_as_asked_for() {
        let blocks = plan(KvCacheSize::Blocks(7), None).unwrap();
        assert_eq!((blocks.num_blocks(), blocks.kv_bytes()), (7, 7 * BLOCK_BYTES));
        let bytes = plan(KvCacheSize::Bytes(10 * BLOCK_BYTES + 5), None).unwrap();
        assert_eq!(bytes.num_blocks(), 10);
        let auto = plan(KvCacheSize::Auto, None).unwrap();
        assert_eq!(auto.num_blocks(), 8 * 2048 / 16 + 1);
    }

    #[test]
    fn the_default_leaves_half_of_what_is_free() {
        let activations = plan(KvCacheSize::Auto, None).unwrap().activations_bytes();
        let available = activations + 10_000 + 40 * BLOCK_BYTES;
        let plan = plan(KvCacheSize::Auto, Some(available)).unwrap();
        assert_eq!(plan.num_blocks(), 20);
    }

    /// The same model with heads of 32 on a GPU: a block of 16 tokens has 8192 bytes.
    fn plan_on_gpu(kv_cache: KvCacheSize, available_bytes: Option<u64>) -> Result<MemoryPlan> {
        let text: &[u8] =
            CONFIG.replace("\"vocab_size\"", "\"head_dim\": 32, \"vocab_size\"").leak().as_bytes();
        let files = Box::leak(Box::new([("config.json", text)]));
        let files = ModelFiles::Embedded(Box::leak(Box::new(Embedded { name: "gpu", files })));
        let config = ModelConfig::read_dummy(&files, None).unwrap();
        let layout = ActivationLayout { dtype: Dtype::Bf16, stacking: Stacking::SideBySide };
        let options = MemoryOptions {
            block_size: 16,
            max_num_seqs: 8,
            max_num_batched_tokens: 64,
            kv_cache,
            layout,
            available_bytes,
        };
        MemoryPlan::new(&[config], &options)
    }

    #[test]
    fn a_gpu_gives_all_that_is_left_to_the_kv_cache() {
        let some = plan_on_gpu(KvCacheSize::Blocks(2), None).unwrap();
        assert_eq!(some.kv_bytes(), 2 * 8192);
        // Matrices have 16 bits: embedding, output, and 34 thousand numbers of two layers.
        let num_numbers = 2 * 1000 * 32 + 2 * (32 * (128 + 64 + 64 + 128) + 3 * 32 * 64);
        let beside = 4 * (5 * 32 + 4096 * 32);
        assert_eq!(some.weights_bytes, 2 * num_numbers + beside);
        let taken = some.weights_bytes + some.activations_bytes() + some.overhead_bytes;
        let all = plan_on_gpu(KvCacheSize::Auto, Some(taken + 1000 * 8192 + 5)).unwrap();
        assert_eq!(all.num_blocks(), 1000);
        assert!(all.to_string().contains("workspaces"), "{all}");
        let error = plan_on_gpu(KvCacheSize::Auto, Some(taken)).unwrap_err().to_string();
        assert!(error.contains("needs at least 2") && error.contains("workspaces"), "{error}");
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_numbers() {
        let error = plan(KvCacheSize::Blocks(1000), Some(3_000_000)).unwrap_err().to_string();
        assert!(error.contains("3.00 MB are free") || error.contains("3.0 MB are free"), "{error}");
        let error = plan(KvCacheSize::Auto, Some(20_000)).unwrap_err().to_string();
        assert!(error.contains("needs at least 2"), "{error}");
        let error = plan(KvCacheSize::Bytes(5), None).unwrap_err().to_string();
        assert!(error.contains("needs at least 2"), "{error}");
    }

    #[test]
    fn blocks_of_no_or_too_many_tokens_are_refused_by_name() {
        for size in [0, 1025, u32::MAX] {
            for kv_cache in [KvCacheSize::Auto, KvCacheSize::Blocks(3), KvCacheSize::Bytes(9999)] {
                let error = plan_with_blocks_of(size, kv_cache, None).unwrap_err().to_string();
                assert!(error.contains("block_size") && error.contains("1024"), "{error}");
            }
        }
    }

    #[test]
    fn activations_cover_logits_and_layers_share_memory() {
        let plan = plan(KvCacheSize::Blocks(2), None).unwrap();
        let (tokens, logits) = (64, 8 * 1000);
        // Hidden, normed, queries, keys, values and attended; gate, up and product come after.
        let layer = tokens * (32 * 4 + 16 * 2);
        let num_floats = plan.reserve.arena_bytes / 4;
        assert!((logits..logits + 3 * layer).contains(&num_floats), "{plan:?}");
        let line = plan.to_string();
        assert!(
            line.starts_with("weights 10.0 kB, KV cache 8.2 kB for 16 tokens, activ"),
            "{line}"
        );
    }
}
