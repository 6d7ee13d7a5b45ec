//! The bound on a text's length never refuses a text that fits, and refuses soon what cannot.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use folio_engine::model::{Embedded, ModelFiles};
use proptest::prelude::*;

use crate::builtin;
use crate::text::{Error, SpecialTokens, TextModel, Tokenizer};

fn load(model: &'static Embedded) -> Arc<Tokenizer> {
    let files = ModelFiles::Embedded(model);
    let read = |name: &str| Ok(files.read(name).unwrap().map(Cow::into_owned));
    Arc::clone(TextModel::load(model.name, &read, None).unwrap().tokenizer())
}

static CHAT: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| load(builtin::chat()));
static EMBEDDING: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| load(builtin::embedding()));

/// The text must pass where there is room for exactly its tokens, and no more.
fn fits(tokenizer: &Tokenizer, text: &str) {
    let num_tokens = tokenizer.encode(text, SpecialTokens::Omit).unwrap().len() as u32;
    let max_bytes = tokenizer.max_text_bytes(num_tokens);
    assert!(text.len() as u64 <= max_bytes, "{num_tokens} tokens of {text:?}");
    assert_eq!(tokenizer.check_length(text, num_tokens), Ok(()), "{text:?}");
}

/// The text of tokens picked from the whole vocabulary, the longest ones included.
fn picked(tokenizer: &Tokenizer, picks: &[u32]) -> String {
    let text = |&pick: &u32| tokenizer.token_text(pick % tokenizer.vocab_size());
    picks.iter().map(text).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn texts_that_fit_pass_where_every_byte_is_kept(
        any in ".{0,60}",
        spaces in "[ \\t\\n\u{3000}]{0,300}",
        picks in proptest::collection::vec(any::<u32>(), 0..40),
    ) {
        let tokens = picked(&CHAT, &picks);
        for text in [&any, &spaces, &tokens, &format!("{tokens}{spaces}{any}").repeat(20)] {
            fits(&CHAT, text);
        }
    }

    /// Wide and mathematical letters shrink to a quarter, and runs of spaces to one.
    #[test]
    fn texts_that_fit_pass_where_normalising_shrinks_them(
        letters in "[A-Zａ-ｚ𝐀-𝐳ァ-ヶ0-9가-힣]{0,40}",
        words in proptest::collection::vec("[a-z𝐚-𝐳]{1,12} {1,80}", 1..40),
        picks in proptest::collection::vec(4..9500u32, 0..40),
    ) {
        let tokens = picked(&EMBEDDING, &picks);
        // Hangul is not in the vocabulary: each run of it is one unknown token, short enough.
        for text in [&letters, &words.concat(), &tokens, &format!("{tokens}{}", words.concat())] {
            fits(&EMBEDDING, text);
        }
    }
}

#[test]
fn the_longest_tokens_alone_pass() {
    for tokenizer in [&CHAT, &EMBEDDING] {
        let ids = 0..tokenizer.vocab_size();
        let longest = ids.max_by_key(|&id| tokenizer.token_bytes(id).len()).unwrap();
        for num in [1, 10, 1000] {
            fits(tokenizer, &tokenizer.token_text(longest).repeat(num));
        }
    }
}

#[test]
fn a_text_that_cannot_fit_is_refused_with_bytes_and_limit() {
    for tokenizer in [&CHAT, &EMBEDDING] {
        let max_bytes = tokenizer.max_text_bytes(100);
        let text = "w".repeat(max_bytes as usize + 1);
        let num_bytes = max_bytes + 1;
        let refused = Error::TooLong { num_bytes, max_bytes, max_tokens: 100 };
        assert_eq!(tokenizer.check_length(&text, 100), Err(refused));
    }
}

/// Shorter than the bound, but its beginning alone has far too many tokens.
#[test]
fn an_unusually_long_text_is_refused_by_its_beginning() {
    let max_tokens = 100_000;
    let text = "w ".repeat(CHAT.max_text_bytes(max_tokens) as usize / 2);
    match CHAT.check_length(&text, max_tokens) {
        Err(Error::TooLong { num_bytes, max_bytes, .. }) => {
            assert_eq!(num_bytes, text.len() as u64);
            assert!(max_bytes < 1_000_000, "{max_bytes} of {num_bytes} bytes were tried");
        }
        other => panic!("{other:?}"),
    }
}
