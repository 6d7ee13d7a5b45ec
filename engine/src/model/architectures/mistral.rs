//! Mistral 7B and its kin: Llama with a window in every layer, or none where it is null.

use super::{Architecture, decoders};
use crate::model::decoder::{HeadNorm, Variant};
use crate::model::layers::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    names: &["MistralForCausalLM"],
    read: |config, _| {
        let variant = Variant {
            qkv_bias: Bias::Absent,
            output_bias: Bias::Absent,
            mlp_bias: Bias::Absent,
            head_norm: HeadNorm::None,
            output: decoders::output(config)?,
        };
        let window = config.optional_size("sliding_window")?;
        decoders::read(config, variant, decoders::windows(config, window, |_| true)?)
    },
};
