//! Reading what the configurations of encoders have in common.

use super::Description;
use crate::model::encoder::{EncoderConfig, EncoderOutput, Positions};
use crate::model::fields::Fields;
use crate::model::files::ModelFiles;
use crate::model::score_head::{ScoreHeadConfig, ScoreHeadNames};
use crate::model::sentence::{self, SentenceConfig};
use crate::ops::{Activation, Heads};
use crate::types::Result;

/// In what the members of the family differ.
#[derive(Clone, Copy)]
pub(super) struct Start {
    /// What checkpoints with a head put before every name.
    pub(super) prefix: &'static str,
    /// Row of the position table that the first token takes.
    pub(super) row: u32,
    /// Where a cross-encoder's head is; `None` for a model of vectors.
    pub(super) head: Option<ScoreHeadNames>,
}

/// The fields that all encoders share.
pub(super) fn read(config: &Fields, files: &ModelFiles, start: Start) -> Result<Description> {
    if config.is_set("is_decoder")? {
        return Err(config.unsupported("is_decoder", "only false is implemented"));
    }
    match config.optional_text("position_embedding_type")?.as_deref() {
        None | Some("absolute") => {}
        Some(_) => {
            let hint = "only absolute is implemented";
            return Err(config.unsupported("position_embedding_type", hint));
        }
    }
    let (output, max_seq_length, notes) = read_output(config, files, start.head)?;
    let num_rows = config.size("max_position_embeddings")?;
    let Some(num_positions) = num_rows.checked_sub(start.row).filter(|&left| left > 0) else {
        let hint = format!("must be above the row of the first token, {}", start.row);
        return Err(config.unsupported("max_position_embeddings", &hint));
    };
    let positions = Positions {
        num_rows,
        offset: start.row,
        num_types: config.optional_size("type_vocab_size")?.unwrap_or(2),
        max_len: max_seq_length.unwrap_or(num_positions).min(num_positions),
    };
    let blueprint = EncoderConfig {
        vocab_size: config.size("vocab_size")?,
        hidden_size: config.size("hidden_size")?,
        intermediate_size: config.size("intermediate_size")?,
        num_layers: config.size("num_hidden_layers")?,
        heads: heads(config)?,
        positions,
        activation: activation(config)?,
        norm_epsilon: config.optional_positive("layer_norm_eps")?.unwrap_or(1e-12) as f32,
        output,
        prefix: start.prefix,
    };
    Ok(Description { blueprint: Box::new(blueprint), notes })
}

/// What becomes of hidden states, the longest text if the files limit it, and notes.
fn read_output(
    config: &Fields,
    files: &ModelFiles,
    head: Option<ScoreHeadNames>,
) -> Result<(EncoderOutput, Option<u32>, Vec<String>)> {
    Ok(match head {
        None => {
            let SentenceConfig { pooling, max_seq_length, notes } = sentence::read(files)?;
            (EncoderOutput::Vector(pooling), max_seq_length, notes)
        }
        Some(names) => {
            let head = ScoreHeadConfig::read(config, names)?;
            (EncoderOutput::Score(head), sentence::max_seq_length(files)?, Vec::new())
        }
    })
}

fn heads(config: &Fields) -> Result<Heads> {
    let (hidden, num_heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
    if !hidden.is_multiple_of(num_heads) {
        let hint = format!("must divide hidden_size = {hidden}");
        return Err(config.unsupported("num_attention_heads", &hint));
    }
    super::check_head_size(hidden / num_heads)?;
    Ok(Heads {
        num_heads: num_heads as usize,
        num_kv_heads: num_heads as usize,
        head_size: (hidden / num_heads) as usize,
    })
}

fn activation(config: &Fields) -> Result<Activation> {
    match config.optional_text("hidden_act")?.as_deref() {
        None | Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some(_) => {
            let hint = "one of gelu, gelu_new, gelu_pytorch_tanh, relu, silu";
            Err(config.unsupported("hidden_act", hint))
        }
    }
}
