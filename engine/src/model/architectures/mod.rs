//! Which architectures there are: one row each.

mod bert;
mod decoders;
mod encoders;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod xlm_roberta;

use super::Blueprint;
use super::fields::Fields;
use super::files::ModelFiles;
use crate::types::{Error, Result};

/// Largest head size D of the attention kernels.
const MAX_HEAD_SIZE: u32 = 256;

/// One architecture.
pub(super) struct Architecture {
    /// Entries of `architectures` in config.json that mean it.
    names: &'static [&'static str],
    /// Reads its configuration.
    read: fn(&Fields, &ModelFiles) -> Result<Description>,
}

/// What a configuration says.
pub(super) struct Description {
    pub(super) blueprint: Box<dyn Blueprint>,
    /// What an operator should know.
    pub(super) notes: Vec<String>,
}

/// All architectures.
const ARCHITECTURES: [&Architecture; 8] = [
    &llama::ARCHITECTURE,
    &mistral::ARCHITECTURE,
    &qwen2::ARCHITECTURE,
    &qwen3::ARCHITECTURE,
    &bert::ARCHITECTURE,
    &xlm_roberta::ARCHITECTURE,
    &bert::CROSS_ENCODER,
    &xlm_roberta::CROSS_ENCODER,
];

/// Reads the configuration `config` of the model `files`.
pub(super) fn describe(config: &Fields, files: &ModelFiles) -> Result<Description> {
    reject_everywhere(config)?;
    let named = config.optional_texts("architectures")?.unwrap_or_default();
    let known = ARCHITECTURES
        .into_iter()
        .find(|row| named.iter().any(|name| row.names.contains(&name.as_str())));
    let Some(architecture) = known else {
        let names = ARCHITECTURES.iter().flat_map(|row| row.names).copied();
        let hint = format!("one of {}", names.collect::<Vec<_>>().join(", "));
        return Err(config.unsupported("architectures", &hint));
    };
    (architecture.read)(config, files)
}

/// Refuses what no architecture implements.
fn reject_everywhere(config: &Fields) -> Result<()> {
    if config.get("quantization_config").is_some() {
        let hint = "quantised weights are not implemented; use float32, bfloat16 or float16";
        return Err(config.unsupported("quantization_config", hint));
    }
    for field in ["torch_dtype", "dtype"] {
        match config.optional_text(field)?.as_deref() {
            None | Some("float32" | "bfloat16" | "float16" | "auto") => {}
            Some(_) => {
                return Err(config.unsupported(field, "one of float32, bfloat16, float16"));
            }
        }
    }
    for field in ["is_encoder_decoder", "add_cross_attention"] {
        if config.is_set(field)? {
            return Err(config.unsupported(field, "only false is implemented"));
        }
    }
    Ok(())
}

/// Refuses heads that the kernels cannot compute.
fn check_head_size(head_size: u32) -> Result<()> {
    if head_size.is_multiple_of(8) && head_size <= MAX_HEAD_SIZE {
        return Ok(());
    }
    Err(Error::UnsupportedModel {
        field: "head_dim".into(),
        value: head_size.to_string(),
        hint: format!("a multiple of 8 up to {MAX_HEAD_SIZE}"),
    })
}
