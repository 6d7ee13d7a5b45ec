//! What a cost model must know of a language model: how much there is to multiply and to read.
//!
//! Read from a `config.json` by the engine's own reader, so that the sizes are those that would
//! be loaded; a few well-known ones are there by name.

use std::path::Path;

use folio_engine::model::{Embedded, ModelConfig, ModelFiles};
use folio_engine::types::ModelKind;

use super::{CostError, Precision};

/// The sizes of a decoder model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// What to call it.
    pub name: String,
    /// Longest sequence, prompt and answer together, in tokens.
    pub max_model_len: u32,
    /// Entries of the vocabulary, V.
    pub vocab_size: u32,
    /// Layers, L.
    pub num_layers: u32,
    /// Width of hidden states, H.
    pub hidden_size: u32,
    /// Width of all query heads of a layer together, N D.
    pub query_width: u32,
    /// Width of all key heads of a layer together, K D; values have as many.
    pub key_width: u32,
    /// Parameters of the layers: all that every token is multiplied with.
    pub num_layer_params: u64,
    /// Parameters of the output matrix, which only rows that emit are multiplied with.
    pub num_head_params: u64,
    /// All parameters, those of the embedding too where it is not the output matrix.
    pub num_params: u64,
}

/// A `config.json` under a name.
macro_rules! known {
    ($($name:literal),+ $(,)?) => {
        [$(Embedded {
            name: $name,
            files: &[(
                "config.json",
                include_bytes!(concat!("models/", $name, ".json")).as_slice(),
            )],
        }),+]
    };
}

static KNOWN: [Embedded; 8] = known![
    "folio-tiny",
    "qwen3-0.6b",
    "llama-2-7b",
    "mistral-7b",
    "llama-3-8b",
    "llama-3.1-8b",
    "qwen3-8b",
    "llama-3-70b",
];

impl ModelShape {
    /// The names of those that need no file.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|model| model.name)
    }

    /// The model called `name`, or else the one in the directory of that name.
    pub fn find(name: &str) -> Result<Self, CostError> {
        let lower = name.to_ascii_lowercase();
        if let Some(known) = KNOWN.iter().find(|model| model.name == lower) {
            return Self::read(&ModelFiles::Embedded(known), known.name);
        }
        let directory = Path::new(name);
        if !directory.is_dir() {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            return Err(CostError::Model {
                name: name.to_owned(),
                message: format!("it is neither a directory with a config.json nor one of {known}"),
            });
        }
        Self::read(&ModelFiles::Directory(directory.to_owned()), name)
    }

    /// The model that `files` describe. Only `config.json` is read.
    pub fn read(files: &ModelFiles, name: &str) -> Result<Self, CostError> {
        let failed = |message: String| CostError::Model { name: name.to_owned(), message };
        let config =
            ModelConfig::read_dummy(files, None).map_err(|error| failed(error.to_string()))?;
        let limits = config.limits();
        if limits.kind != ModelKind::Decoder {
            return Err(failed("it is an encoder; only decoders are simulated".into()));
        }
        let heads = config.heads();
        let hidden_size = config.hidden_size();
        // The size of made-up weights in 16 bits.
        let num_params = config.weights_bytes() / 2;
        let num_head_params = u64::from(limits.vocab_size) * u64::from(hidden_size);
        let num_embedding_params =
            if is_tied(files).map_err(failed)? { 0 } else { num_head_params };
        Ok(Self {
            name: name.to_owned(),
            max_model_len: limits.max_model_len,
            vocab_size: limits.vocab_size,
            num_layers: config.num_layers(),
            hidden_size,
            query_width: (heads.num_heads * heads.head_size) as u32,
            key_width: (heads.num_kv_heads * heads.head_size) as u32,
            num_layer_params: num_params.saturating_sub(num_head_params + num_embedding_params),
            num_head_params,
            num_params,
        })
    }

    /// Bytes of all weights.
    #[must_use]
    pub fn weights_bytes(&self, precision: Precision) -> u64 {
        self.num_params * precision.weight_bytes()
    }

    /// Bytes of keys and values of a token, all layers together, with `number_bytes` a number.
    #[must_use]
    pub fn kv_bytes(&self, number_bytes: u64) -> u64 {
        2 * u64::from(self.num_layers) * u64::from(self.key_width) * number_bytes
    }
}

/// Whether the embedding is the output matrix.
fn is_tied(files: &ModelFiles) -> Result<bool, String> {
    let text = files.read("config.json").map_err(|error| error.to_string())?;
    let config = serde_json::from_slice::<serde_json::Value>(&text.unwrap_or_default())
        .map_err(|error| format!("config.json: {error}"))?;
    Ok(config["tie_word_embeddings"] == serde_json::Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of the models' cards.
    #[test]
    fn known_models_have_the_parameters_that_their_cards_tell() {
        for (name, num_params) in [
            ("llama-2-7b", 6_738_415_616),
            ("llama-3-8b", 8_030_261_248),
            ("llama-3.1-8b", 8_030_261_248),
            ("llama-3-70b", 70_553_706_496),
            ("mistral-7b", 7_248_023_552),
            ("qwen3-0.6b", 596_049_920),
            ("qwen3-8b", 8_190_735_360),
        ] {
            let shape = ModelShape::find(name).unwrap();
            assert_eq!(shape.num_params, num_params, "{name}");
        }
    }

    /// 32 layers, 8 key heads of 128: 128 KiB a token in 16 bits.
    #[test]
    fn keys_and_values_of_a_token_take_what_is_known() {
        let llama = ModelShape::find("Llama-3-8B").unwrap();
        assert_eq!(llama.kv_bytes(2), 128 * 1024);
        assert_eq!(llama.num_head_params, 128_256 * 4096);
        assert_eq!(llama.num_layer_params, 8_030_261_248 - 2 * 128_256 * 4096);
        let qwen = ModelShape::find("qwen3-0.6b").unwrap();
        assert_eq!(qwen.kv_bytes(2), 112 * 1024);
        assert_eq!((qwen.hidden_size, qwen.query_width), (1024, 2048));
        assert_eq!(qwen.num_layer_params, 596_049_920 - 151_936 * 1024);
    }

    #[test]
    fn a_model_that_is_not_there_is_refused_with_those_that_are() {
        let error = ModelShape::find("llama-9").unwrap_err().to_string();
        assert!(error.contains("`llama-9`") && error.contains("qwen3-0.6b"), "{error}");
    }
}
