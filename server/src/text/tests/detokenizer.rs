//! Streamed text against the tokenizers library's decoding of the whole list.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Detokenizer, Skip, Tokenizer, TokenizerConfig};

/// A tokenizer with the given vocabulary and decoder, and `<end>` as its last, special token.
fn model(vocabulary: &[String], decoder: &Value) -> (Arc<Tokenizer>, tokenizers::Tokenizer) {
    let ids: Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let token = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "normalized": false,
               "single_word": false, "lstrip": false, "rstrip": false})
    };
    let added =
        [token(vocabulary.len(), "<end>", true), token(vocabulary.len() + 1, "<tool é>", false)];
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": vocabulary[0]},
    });
    let bytes = serde_json::to_vec(&file).unwrap();
    let tokenizer = Tokenizer::new(&bytes, &TokenizerConfig::default()).unwrap();
    (Arc::new(tokenizer), tokenizers::Tokenizer::from_bytes(&bytes).unwrap())
}

fn stream(tokenizer: &Arc<Tokenizer>, ids: &[u32], skip: Skip) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), skip);
    let mut deltas: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    deltas.push(detokenizer.finish());
    deltas
}

/// The spelling of bytes in byte-level vocabularies, as GPT-2 published it.
fn byte_level(bytes: &[u8]) -> String {
    let mut next = 256;
    let alphabet: Vec<char> = (0..=255_u32)
        .map(|byte| {
            if matches!(byte, 33..=126 | 161..=172 | 174..=255) {
                char::from_u32(byte).unwrap()
            } else {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect();
    bytes.iter().map(|&byte| alphabet[usize::from(byte)]).collect()
}

/// Byte strings that cut characters anywhere, and some that are no UTF-8 at all.
fn byte_strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let cut = "[a é日本🎉👨]{1,3}".prop_flat_map(|text| {
        let length = text.len();
        (Just(text), 0..length, 1..=length)
            .prop_map(|(text, start, end)| text.as_bytes()[start.min(end - 1)..end].to_vec())
    });
    let token = prop_oneof![4 => cut, 1 => proptest::collection::vec(any::<u8>(), 1..4)];
    proptest::collection::vec(token, 4..40)
}

fn unique(spellings: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for spelling in spellings {
        if !seen.contains(&spelling) {
            seen.push(spelling);
        }
    }
    seen
}

/// Ids below `num` of the picks, special and unknown ones among them.
fn ids(picks: &[prop::sample::Index], num: usize) -> Vec<u32> {
    picks.iter().map(|pick| pick.index(num) as u32).collect()
}

fn decoders_of_text() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
               "split": true}),
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never",
               "split": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": false}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": "▁+"}, "content": " "},
            {"type": "Strip", "content": "a", "start": 1, "stop": 0}]}),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn byte_level_streams_equal_the_librarys_decoding(
        tokens in byte_strings(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let vocabulary = unique(tokens.iter().map(|bytes| byte_level(bytes)));
        let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                             "use_regex": true});
        let (tokenizer, library) = model(&vocabulary, &decoder);
        let ids = ids(&picks, vocabulary.len() + 3);
        for (skip, skips_special) in [(Skip::Special, true), (Skip::Nothing, false)] {
            let deltas = stream(&tokenizer, &ids, skip);
            prop_assert_eq!(deltas.concat(), library.decode(&ids, skips_special).unwrap());
            prop_assert_eq!(deltas.concat(), tokenizer.decode(&ids, skip));
        }
        // What was pushed is out, but for the beginning of a character.
        let mut detokenizer = Detokenizer::new(Arc::clone(&tokenizer), Skip::Nothing);
        let mut bytes = Vec::new();
        let mut text = String::new();
        for id in ids {
            bytes.extend(tokenizer.token_bytes(id));
            text.push_str(&detokenizer.push(id));
            let whole = String::from_utf8_lossy(&bytes);
            let held = whole.strip_prefix(text.as_str());
            prop_assert!(held == Some("") || held == Some("\u{FFFD}"), "{held:?}");
        }
    }

    #[test]
    fn streams_of_words_equal_the_librarys_decoding(
        decoder in decoders_of_text(),
        words in proptest::collection::vec("(▁|##|<| )?[ab'nt日🎉.?]{1,3}(</w>)?", 2..20),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 1..40),
    ) {
        let vocabulary = unique(words);
        let (tokenizer, library) = model(&vocabulary, &decoder);
        let ids = ids(&picks, vocabulary.len() + 3);
        for (skip, skips_special) in [(Skip::Special, true), (Skip::Nothing, false)] {
            let is_any = ids.iter().any(|&id| tokenizer.token(id).is_some() &&
                !(skips_special && tokenizer.is_special(id)));
            if is_any {
                let expected = library.decode(&ids, skips_special).unwrap();
                prop_assert_eq!(stream(&tokenizer, &ids, skip).concat(), expected);
            }
        }
    }

    #[test]
    fn byte_fallback_streams_equal_the_librarys_decoding_but_for_broken_runs(
        words in proptest::collection::vec("▁?[ab日🎉]{1,3}", 1..6),
        picks in proptest::collection::vec(prop_oneof![
            3 => "[a é日🎉]{1,2}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 1..4),
            2 => Just(Vec::new()),
        ], 1..20),
        word_picks in proptest::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let words = unique(words);
        let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
        let vocabulary: Vec<String> = bytes.chain(words.iter().cloned()).collect();
        let decoder = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        let (tokenizer, library) = model(&vocabulary, &decoder);

        // A word wherever there are no bytes; runs of bytes in between.
        let mut ids = Vec::new();
        let mut joined = String::new();
        let mut is_as_library = true;
        let mut run: Vec<u8> = Vec::new();
        for (at, bytes) in picks.iter().map(Some).chain([None]).enumerate() {
            if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                ids.extend(bytes.iter().map(|&byte| u32::from(byte)));
                run.extend(bytes);
                continue;
            }
            for chunk in run.utf8_chunks() {
                joined.push_str(chunk.valid());
                joined.push_str(&"\u{FFFD}".repeat(chunk.invalid().len()));
            }
            let is_valid = std::str::from_utf8(&run).is_ok();
            let has_valid = run.utf8_chunks().any(|chunk| !chunk.valid().is_empty());
            is_as_library &= is_valid || !has_valid;
            run.clear();
            if bytes.is_some() {
                let word = word_picks[at % word_picks.len()].index(words.len());
                ids.push(256 + word as u32);
                joined.push_str(&words[word].replace('▁', " "));
            }
        }
        let expected = joined.strip_prefix(' ').unwrap_or(&joined);
        prop_assert_eq!(stream(&tokenizer, &ids, Skip::Special).concat(), expected);
        if is_as_library {
            prop_assert_eq!(expected, library.decode(&ids, true).unwrap());
        }
    }
}

#[test]
fn characters_come_whole_and_broken_bytes_come_at_once() {
    let bytes = "日🎉é".as_bytes();
    let vocabulary: Vec<String> = (0..=255_u8).map(|byte| byte_level(&[byte])).collect();
    let (tokenizer, _) = model(
        &vocabulary,
        &json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": false, "use_regex": false}),
    );
    let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
    let deltas = stream(&tokenizer, &ids, Skip::Special);
    assert_eq!(deltas, ["", "", "日", "", "", "", "🎉", "", "é", ""]);

    let broken = stream(&tokenizer, &[0xE3, 0x61, 0xFF, 0xF0, 0x9F], Skip::Special);
    assert_eq!(broken, ["", "\u{FFFD}a", "\u{FFFD}", "", "", "\u{FFFD}"]);
}

#[test]
fn a_trim_at_the_end_takes_only_the_end() {
    let vocabulary = ["a", " ", "  "].map(str::to_owned);
    let (tokenizer, _) = model(
        &vocabulary,
        &json!({"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 2}]}),
    );
    assert_eq!(tokenizer.decode(&[2, 0, 2, 0, 2, 1], Skip::Special), " a  a ");
    assert_eq!(tokenizer.decode(&[1], Skip::Special), "");
    assert_eq!(tokenizer.decode(&[], Skip::Special), "");
    assert_eq!(stream(&tokenizer, &[0, 2, 0], Skip::Special), ["a", "", "  a", ""]);
}

#[test]
fn entries_of_log_probabilities_have_the_tokens_own_bytes() {
    let vocabulary = vec![byte_level(b" the"), byte_level(&[0xE6, 0x97])];
    let (tokenizer, _) = model(
        &vocabulary,
        &json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": false, "use_regex": false}),
    );
    assert_eq!(tokenizer.token_bytes(0), b" the");
    assert_eq!(tokenizer.token_text(0), " the");
    assert_eq!(tokenizer.token_bytes(1), [0xE6, 0x97]);
    assert_eq!(tokenizer.token_text(1), "\u{FFFD}");
    assert_eq!(tokenizer.token_text(2), "<end>");
    assert_eq!(tokenizer.token_bytes(99), b"");

    let vocabulary = ["▁the", "<0xE6>"].map(str::to_owned);
    let (tokenizer, _) = model(
        &vocabulary,
        &json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}),
    );
    assert_eq!(tokenizer.token_bytes(0), b" the");
    assert_eq!(tokenizer.token_bytes(1), [0xE6]);
}

#[test]
fn decoders_that_cannot_stream_are_refused() {
    let decoder = json!({"type": "Sequence", "decoders": [{"type": "Fuse"},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}]});
    let file = json!({"version": "1.0", "added_tokens": [], "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}});
    let bytes = serde_json::to_vec(&file).unwrap();
    let error = Tokenizer::new(&bytes, &TokenizerConfig::default()).unwrap_err().to_string();
    assert_eq!(error, "tokenizer.json: decoder Replace after Fuse is not supported");
}
