//! Qwen 2 and 2.5: Llama with biases on queries, keys and values, and windows in upper layers
//! where `use_sliding_window` is set.

use super::{Architecture, decoders};
use crate::model::decoder::{HeadNorm, Variant};
use crate::model::layers::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["Qwen2ForCausalLM"],
    read: |config, _| {
        let variant = Variant {
            qkv_bias: Bias::Present,
            output_bias: Bias::Absent,
            mlp_bias: Bias::Absent,
            head_norm: HeadNorm::None,
            output: decoders::output(config)?,
        };
        decoders::read(config, variant, decoders::switched_windows(config)?)
    },
};
