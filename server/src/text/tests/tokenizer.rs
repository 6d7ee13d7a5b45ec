//! Loading tokenizers, and what they do with whole texts.

use serde_json::{Value, json};

use super::super::{Error, Skip, SpecialTokens, Tokenizer, TokenizerConfig};

fn file() -> Value {
    let token = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3,
                       "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"},
        "added_tokens": [token(0, "<s>"), token(1, "</s>")],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?",
                  "vocab": {"<s>": 0, "</s>": 1, "?": 2, "a": 3, "b": 4, "c": 5, "turn": 6}},
    })
}

fn load(file: &Value, config: &Value) -> Result<Tokenizer, Error> {
    let config = TokenizerConfig::new(config.to_string().as_bytes())?;
    Tokenizer::new(file.to_string().as_bytes(), &config)
}

#[test]
fn texts_are_never_cut_or_padded() {
    let tokenizer = load(&file(), &json!({})).unwrap();
    let encode = |text: &str, special| tokenizer.encode(text, special).unwrap();
    assert_eq!(encode("a b c a b c", SpecialTokens::Add), [0, 3, 4, 5, 3, 4, 5, 1]);
    assert_eq!(encode("a", SpecialTokens::Omit), [3]);
    assert_eq!(encode("", SpecialTokens::Add), [0, 1]);
    assert!(encode("", SpecialTokens::Omit).is_empty());
}

#[test]
fn a_cut_that_was_asked_for_leaves_the_special_tokens() {
    let tokenizer = load(&file(), &json!({})).unwrap();
    let cut = |special, max| tokenizer.encode_truncated("a b c", special, max).unwrap();
    assert_eq!(cut(SpecialTokens::Add, 4), (vec![0, 3, 4, 1], 5));
    assert_eq!(cut(SpecialTokens::Add, 5), (vec![0, 3, 4, 5, 1], 5));
    assert_eq!(cut(SpecialTokens::Add, 1), (vec![0, 1], 5));
    assert_eq!(cut(SpecialTokens::Omit, 2), (vec![3, 4], 3));
}

#[test]
fn special_tokens_in_a_text_are_recognised() {
    let tokenizer = load(&file(), &json!({})).unwrap();
    assert_eq!(tokenizer.encode("a</s>b", SpecialTokens::Omit).unwrap(), [3, 1, 4]);
    assert_eq!(tokenizer.decode(&[3, 1, 4], Skip::Special), "a b");
    assert_eq!(tokenizer.decode(&[3, 1, 4], Skip::Nothing), "a </s> b");
}

#[test]
fn look_ups() {
    let tokenizer = load(&file(), &json!({})).unwrap();
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!(tokenizer.id("turn"), Some(6));
    assert_eq!(tokenizer.id("none such"), None);
    assert_eq!(tokenizer.token(6).as_deref(), Some("turn"));
    assert_eq!(tokenizer.token(7), None);
    assert!(tokenizer.is_special(1) && !tokenizer.is_special(6) && !tokenizer.is_special(7));
}

#[test]
fn the_configuration_adds_tokens_and_makes_them_special() {
    let config = json!({
        "eos_token": {"content": "turn", "special": true},
        "bos_token": null,
        "added_tokens_decoder": {"7": {"content": "<call>", "special": false}},
    });
    let tokenizer = load(&file(), &config).unwrap();
    assert!(tokenizer.is_special(6));
    assert_eq!(tokenizer.id("<call>"), Some(7));
    assert!(!tokenizer.is_special(7));
    assert_eq!(tokenizer.vocab_size(), 8);
    assert_eq!(tokenizer.encode("a<call>turn", SpecialTokens::Omit).unwrap(), [3, 7, 6]);
    assert_eq!(tokenizer.decode(&[3, 6, 7], Skip::Special), "a <call>");
}

#[test]
fn files_that_cannot_be_used_are_refused_by_name() {
    let refusal = |file: &Value, config: &Value| load(file, config).unwrap_err().to_string();
    let config = json!({"added_tokens_decoder": {"9": {"content": "a"}}});
    assert_eq!(
        refusal(&file(), &config),
        "tokenizer_config.json: added_tokens_decoder gives \"a\" the id 9, but tokenizer.json \
         gives it Some(3)"
    );
    assert!(refusal(&json!({}), &json!({})).starts_with("tokenizer.json: "));
    let mut unknown = file();
    unknown["model"]["type"] = json!("Telepathy");
    assert!(refusal(&unknown, &json!({})).starts_with("tokenizer.json: "));
    let text = refusal(&file(), &json!({"eos_token": 3}));
    assert_eq!(text, "tokenizer_config.json: eos_token: expected a token, found 3");
}
