//! The models that are part of the program: what serves when no `--model` is given.
//!
//! Both are small but truly trained; `scripts/folio_tiny` and `scripts/folio_tiny_e5` say how.

use folio_engine::model::Embedded;

/// Files of a directory under `server/builtin`, with the names that they have there.
macro_rules! embedded {
    ($directory:literal, [$($file:literal),+ $(,)?]) => {
        Embedded {
            name: $directory,
            files: &[$(($file, include_bytes!(concat!("../builtin/", $directory, "/", $file)))),+],
        }
    };
}

static CHAT: Embedded = embedded!(
    "folio-tiny",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
);

static EMBEDDING: Embedded = embedded!(
    "folio-tiny-e5",
    [
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
);

/// **folio-tiny**: a decoder for chats, with a chat template.
pub fn chat() -> &'static Embedded {
    &CHAT
}

/// **folio-tiny-e5**: an encoder for embeddings, used with the prefixes `query: ` and
/// `passage: `.
pub fn embedding() -> &'static Embedded {
    &EMBEDDING
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use folio_engine::model::ModelFiles;
    use serde_json::json;

    use super::*;
    use crate::text::{ChatInput, GenerationPrompt, Skip, SpecialTokens, TextModel};

    fn load(model: &'static Embedded) -> TextModel {
        let files = ModelFiles::Embedded(model);
        let read = |name: &str| Ok(files.read(name).unwrap().map(Cow::into_owned));
        TextModel::load(model.name, &read, None).unwrap()
    }

    #[test]
    fn the_chat_model_reads_a_conversation() {
        let model = load(chat());
        let messages = [json!({"role": "user", "content": "Hello, wörld 🎉"})];
        let input = ChatInput {
            messages: &messages,
            tools: None,
            documents: None,
            generation_prompt: GenerationPrompt::Add,
            kwargs: None,
            now: 0,
        };
        let text = model.render_chat(&input).unwrap();
        let ids = model.encode_chat(&input, 1024).unwrap();
        assert_eq!(model.tokenizer().decode(&ids, Skip::Nothing), text);
        assert!(text.contains("Hello, wörld 🎉"), "{text}");
        assert!(ids.iter().any(|&id| model.tokenizer().is_special(id)), "{ids:?}");
    }

    #[test]
    fn the_embedding_model_frames_a_text() {
        let model = load(embedding());
        let tokenizer = model.tokenizer();
        let ids = tokenizer.encode("query: how are you", SpecialTokens::Add).unwrap();
        assert_eq!(ids.first(), model.special_token_id("bos_token").as_ref());
        assert_eq!(ids.last(), model.special_token_id("eos_token").as_ref());
        assert!(ids.len() > 3, "{ids:?}");
    }
}
