//! Llama 1 to 3.3 and the many checkpoints that declare themselves so.

use super::{Architecture, decoders};
use crate::model::decoder::{HeadNorm, Variant};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["LlamaForCausalLM"],
    read: |config, _| {
        let attention_bias = config.is_set("attention_bias")?.into();
        let variant = Variant {
            qkv_bias: attention_bias,
            output_bias: attention_bias,
            mlp_bias: config.is_set("mlp_bias")?.into(),
            head_norm: HeadNorm::None,
            output: decoders::output(config)?,
        };
        decoders::read(config, variant, decoders::no_windows(config)?)
    },
};
