//! Reading what the configurations of decoders have in common.

use super::Description;
use crate::model::decoder::{DecoderConfig, OutputMatrix, Variant};
use crate::model::fields::Fields;
use crate::model::rope::RopeConfig;
use crate::ops::Heads;
use crate::types::{Error, Result};

/// The fields that all decoders share, around what `variant` and `windows` say of this one.
pub(super) fn read(
    config: &Fields,
    variant: Variant,
    windows: Vec<Option<u32>>,
) -> Result<Description> {
    reject_activation(config)?;
    let rope = RopeConfig::read(config, 10_000.0)?;
    let blueprint = DecoderConfig {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        intermediate_size: config.size("intermediate_size")?,
        max_len: rope.max_len(config.size("max_position_embeddings")?),
        heads: heads(config)?,
        windows,
        rope,
        norm_epsilon: config.optional_positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        variant,
    };
    Ok(Description { blueprint: Box::new(blueprint), notes: Vec::new() })
}

/// No layer has a window; anything else in `layer_types` is refused.
pub(super) fn no_windows(config: &Fields) -> Result<Vec<Option<u32>>> {
    windows(config, None, |_| false)
}

/// A window of `sliding_window` for the layers that `layer_types` names, or, where there is no
/// such list, for those of which `slides` is true.
pub(super) fn windows(
    config: &Fields,
    sliding_window: Option<u32>,
    slides: impl Fn(u32) -> bool,
) -> Result<Vec<Option<u32>>> {
    const HINT: &str = "full_attention, or sliding_attention where the model has a window";
    let num_layers = config.size("num_hidden_layers")?;
    let Some(types) = config.optional_texts("layer_types")? else {
        let window = |layer| sliding_window.filter(|_| slides(layer));
        return Ok((0..num_layers).map(window).collect());
    };
    if types.len() != num_layers as usize {
        let found = types.len();
        return Err(config.error(format!(
            "layer_types has {found} entries, but num_hidden_layers = {num_layers}"
        )));
    }
    types
        .iter()
        .map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if sliding_window.is_some() => Ok(sliding_window),
            other => Err(Error::UnsupportedModel {
                field: "layer_types".into(),
                value: other.to_owned(),
                hint: HINT.into(),
            }),
        })
        .collect()
}

/// Windows of `sliding_window` from layer `max_window_layers` on, where `use_sliding_window` is
/// set; else none.
pub(super) fn switched_windows(config: &Fields) -> Result<Vec<Option<u32>>> {
    if !config.is_set("use_sliding_window")? {
        return no_windows(config);
    }
    let first = config.optional_count("max_window_layers")?.unwrap_or(28);
    let window = config.optional_size("sliding_window")?;
    windows(config, window, |layer| layer >= first)
}

/// Where the output matrix comes from: `tie_word_embeddings`, by default not tied.
pub(super) fn output(config: &Fields) -> Result<OutputMatrix> {
    if config.is_set("tie_word_embeddings")? {
        Ok(OutputMatrix::Tied)
    } else {
        Ok(OutputMatrix::Own)
    }
}

fn heads(config: &Fields) -> Result<Heads> {
    let num_heads = config.size("num_attention_heads")?;
    let num_kv_heads = config.optional_size("num_key_value_heads")?.unwrap_or(num_heads);
    if !num_heads.is_multiple_of(num_kv_heads) {
        let hint = format!("must divide num_attention_heads = {num_heads}");
        return Err(config.unsupported("num_key_value_heads", &hint));
    }
    let hidden = config.size("hidden_size")?;
    let head_size = match config.optional_size("head_dim")? {
        Some(head_size) => head_size,
        None if hidden.is_multiple_of(num_heads) => hidden / num_heads,
        None => {
            let hint = format!("must divide hidden_size = {hidden}");
            return Err(config.unsupported("num_attention_heads", &hint));
        }
    };
    super::check_head_size(head_size)?;
    Ok(Heads {
        num_heads: num_heads as usize,
        num_kv_heads: num_kv_heads as usize,
        head_size: head_size as usize,
    })
}

fn reject_activation(config: &Fields) -> Result<()> {
    match config.optional_text("hidden_act")?.as_deref() {
        None | Some("silu" | "swish") => Ok(()),
        Some(_) => Err(config.unsupported("hidden_act", "only silu is implemented")),
    }
}
