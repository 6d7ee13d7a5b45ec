//! What a model's configuration files say, checked before any weight is read.

use std::sync::Arc;

use super::architectures::{self, Description};
use super::dummy::DummyWeights;
use super::fields::Fields;
use super::files::ModelFiles;
use super::sentence::PoolingConfig;
use super::weights::{self, CheckpointSource, DryWeights};
use super::{Blueprint, Checkpoint, Model, WeightSource};
use crate::ops::{ActivationLayout, CudaDevice, Device, DryOps, Dtype, Heads, KvShape};
use crate::types::{ConfigError, Error, ModelKind, ModelLimits, Result, TokenId};

/// The configuration of one model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    label: String,
    blueprint: Arc<dyn Blueprint>,
    max_model_len: u32,
    eos_token_ids: Vec<TokenId>,
    weights: Weights,
    weights_bytes: u64,
    /// Bytes of the weights where activations have 16 bits.
    short_weights_bytes: u64,
    dtype: Dtype,
    notes: Vec<String>,
}

/// Where the weights come from.
#[derive(Clone, Copy, Debug)]
enum Weights {
    /// The model's files.
    Checkpoint,
    /// They are made up.
    Dummy,
}

impl ModelConfig {
    /// Reads the configuration files of a model.
    ///
    /// `max_model_len` shortens what the model could do, for less memory; it cannot lengthen it.
    /// Fails with [`UnsupportedModel`](crate::types::Error::UnsupportedModel) for everything that
    /// is not implemented. No weight is read.
    pub fn read(files: &ModelFiles, max_model_len: Option<u32>) -> Result<Self> {
        let config = Self::read_dummy(files, max_model_len)?;
        let sizes = weights::weight_files(files)?.into_iter();
        let weights_bytes = sizes.map(|(_, num_bytes)| num_bytes).sum();
        Ok(Self { weights: Weights::Checkpoint, weights_bytes, ..config })
    }

    /// Like [`read`](Self::read), for a model whose weights are to be made up: what it computes
    /// means nothing, but takes as long as the real one. No weight file is needed.
    pub fn read_dummy(files: &ModelFiles, max_model_len: Option<u32>) -> Result<Self> {
        let Some(config) = Fields::read(files, "config.json")? else {
            return Err(files.error("config.json", "there is no such file".into()));
        };
        let Description { blueprint, notes } = architectures::describe(&config, files)?;
        let max_model_len = checked_len(max_model_len, blueprint.max_len())?;
        let mut dry = DryWeights::default();
        blueprint.build(&mut dry, max_model_len)?;
        Ok(Self {
            label: files.label(),
            max_model_len,
            eos_token_ids: eos_token_ids(&config, files)?,
            weights: Weights::Dummy,
            weights_bytes: dry.num_numbers * Dtype::Bf16.num_bytes() as u64,
            short_weights_bytes: 2 * dry.num_short + 4 * dry.num_single,
            dtype: dtype(&config)?,
            blueprint: Arc::from(blueprint),
            notes,
        })
    }

    /// What the scheduler must know.
    #[must_use]
    pub fn limits(&self) -> ModelLimits {
        ModelLimits {
            kind: self.blueprint.kind(),
            max_model_len: self.max_model_len,
            vocab_size: self.blueprint.vocab_size(),
        }
    }

    /// Width of hidden states, H; for an encoder also of its embeddings.
    #[must_use]
    pub fn hidden_size(&self) -> u32 {
        self.blueprint.hidden_size()
    }

    /// Number of layers, L.
    #[must_use]
    pub fn num_layers(&self) -> u32 {
        self.blueprint.num_layers()
    }

    /// Heads of each layer.
    #[must_use]
    pub fn heads(&self) -> Heads {
        self.blueprint.heads()
    }

    /// Tokens after which a generation usually ends: those of generation_config.json, else those
    /// of config.json. May be empty.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[TokenId] {
        &self.eos_token_ids
    }

    /// What messages call the model.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What an operator should know of how the files were read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes of the weight files, or of the weights that are made up.
    #[must_use]
    pub fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// Bytes that the weights take on a device with this layout.
    #[must_use]
    pub fn weights_bytes_on(&self, layout: ActivationLayout) -> u64 {
        match layout.dtype {
            Dtype::F32 => self.weights_bytes,
            Dtype::Bf16 | Dtype::F16 => self.short_weights_bytes,
        }
    }

    /// The number format that the configuration names, which is usually that of the weights;
    /// single precision where it names none.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Refuses what a device with this layout has no kernels for.
    pub fn check_device(&self, layout: ActivationLayout) -> Result<()> {
        if layout == ActivationLayout::CPU {
            return Ok(());
        }
        let refused = |field: &str, value: usize, hint: String| Error::UnsupportedModel {
            field: field.into(),
            value: value.to_string(),
            hint,
        };
        let Heads { num_heads, num_kv_heads, head_size } = self.blueprint.heads();
        if !CudaDevice::HEAD_SIZES.contains(&head_size) {
            let hint = format!("CUDA kernels have heads of {:?}", CudaDevice::HEAD_SIZES);
            let field = format!("head_dim of {num_heads} query and {num_kv_heads} key heads");
            return Err(refused(&field, head_size, hint));
        }
        let widths = [
            ("hidden_size", self.blueprint.hidden_size()),
            ("intermediate_size", self.blueprint.intermediate_size()),
        ];
        match widths.into_iter().find(|(_, width)| !width.is_multiple_of(8)) {
            Some((field, width)) => {
                Err(refused(field, width as usize, "a multiple of 8 on CUDA".into()))
            }
            None => Ok(()),
        }
    }

    /// How an encoder's hidden states become a vector; `None` for a decoder.
    #[must_use]
    pub fn pooling(&self) -> Option<PoolingConfig> {
        self.blueprint.pooling()
    }

    /// The KV cache of `num_blocks` blocks of `block_size` tokens; `None` for an encoder.
    #[must_use]
    pub fn kv_shape(&self, num_blocks: u32, block_size: u32) -> Option<KvShape> {
        let heads = self.blueprint.heads();
        (self.blueprint.kind() == ModelKind::Decoder).then(|| KvShape {
            num_layers: self.blueprint.num_layers() as usize,
            num_kv_heads: heads.num_kv_heads,
            head_size: heads.head_size,
            block_size: block_size as usize,
            num_blocks: num_blocks as usize,
        })
    }

    /// Bytes of activations in a step of `num_tokens`, all of which may be outputs, with logits of
    /// at most `num_logits` rows at a time, on a device with this layout: the arena's peak in a dry
    /// run of the very forward pass.
    pub fn activations_bytes(
        &self,
        num_tokens: u32,
        num_logits: u32,
        layout: ActivationLayout,
    ) -> Result<usize> {
        let model = self.build(&mut DryWeights::default())?;
        let num_tokens = num_tokens as usize;
        let mut ops = DryOps::new(num_tokens, num_tokens, layout);
        let hidden = model.forward(&mut ops);
        model.logits(&mut ops, hidden.first_rows(hidden.rows().min(num_logits as usize)));
        Ok(ops.peak())
    }

    /// Loads the weights onto a device; calls `loaded` with the bytes of each tensor.
    pub(crate) fn load(
        &self,
        files: &ModelFiles,
        device: &mut dyn Device,
        loaded: &mut dyn FnMut(usize),
    ) -> Result<Box<dyn Model>> {
        match self.weights {
            Weights::Dummy => self.build(&mut DummyWeights::new(device, loaded)),
            Weights::Checkpoint => {
                let checkpoint = Checkpoint::open(files)?;
                self.build(&mut CheckpointSource::new(&checkpoint, device, loaded))
            }
        }
    }

    /// Names and shapes of what the model takes from a checkpoint.
    #[cfg(test)]
    pub(crate) fn tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        let mut names = weights::TensorNames::default();
        self.build(&mut names)?;
        Ok(names.0)
    }

    fn build(&self, weights: &mut dyn WeightSource) -> Result<Box<dyn Model>> {
        self.blueprint.build(weights, self.max_model_len)
    }
}

fn checked_len(wanted: Option<u32>, available: u32) -> Result<u32> {
    let wanted = wanted.unwrap_or(available);
    if (1..=available).contains(&wanted) {
        return Ok(wanted);
    }
    Err(ConfigError {
        field: "max_model_len",
        value: wanted.to_string(),
        limit: format!("must be from 1 to {available}, what the model can attend to"),
    }
    .into())
}

fn dtype(config: &Fields) -> Result<Dtype> {
    for field in ["dtype", "torch_dtype"] {
        match config.optional_text(field)?.as_deref() {
            Some("bfloat16") => return Ok(Dtype::Bf16),
            Some("float16") => return Ok(Dtype::F16),
            Some("float32") => return Ok(Dtype::F32),
            _ => {}
        }
    }
    Ok(Dtype::F32)
}

fn eos_token_ids(config: &Fields, files: &ModelFiles) -> Result<Vec<TokenId>> {
    const FIELD: &str = "eos_token_id";
    let generation = match Fields::read(files, "generation_config.json")? {
        Some(generation) => generation.optional_token_ids(FIELD)?,
        None => None,
    };
    match generation {
        Some(ids) => Ok(ids),
        None => Ok(config.optional_token_ids(FIELD)?.unwrap_or_default()),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
