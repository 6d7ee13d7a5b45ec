//! Qwen 3, dense: heads of queries and keys are normalised, and there are no biases unless
//! `attention_bias` is set.

use super::{Architecture, decoders};
use crate::model::decoder::{HeadNorm, Variant};
use crate::model::layers::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["Qwen3ForCausalLM"],
    read: |config, _| {
        let attention_bias = config.is_set("attention_bias")?.into();
        let variant = Variant {
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            mlp_bias: Bias::Absent,
            head_norm: HeadNorm::Rms,
            output: decoders::output(config)?,
        };
        if config.get("head_dim").is_none() {
            return Err(config.missing("head_dim"));
        }
        decoders::read(config, variant, decoders::switched_windows(config)?)
    },
};
