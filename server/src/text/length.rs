//! How long a text can be that fits into a number of tokens, known before it is tokenised.
//!
//! Tokenising takes hundreds of bytes of memory for each byte of text, so a text that cannot fit
//! must be told from its length. Neighbours: `tokenizer`, whose longest token gives the bound.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;

use super::error::{Error, Result};
use super::tokenizer::{SpecialTokens, Tokenizer};

/// How many times longer a text may be than its tokens where something takes bytes out of it.
const SHRINKING: u64 = 4;
/// Bytes for each token beyond which a text is so unusual that its beginning is tried first.
const UNUSUAL_BYTES_PER_TOKEN: u64 = 8;
/// Bytes that are tried at a time.
const PART_BYTES: usize = 16 << 10;
/// Cutting a text can add tokens at the cuts; parts are believed only beyond this multiple.
const MARGIN: usize = 2;

impl Tokenizer {
    /// Most bytes of a text that may have only `max_tokens` tokens: each is as long as the
    /// longest. Where normalising or splitting can take bytes out (composed and compatibility
    /// characters, runs of spaces), four times as many: this covers every character, but a
    /// text that is nearly all spaces, or nearly all characters that the vocabulary does not
    /// have and merges into one unknown token, counts as too long although it would fit.
    pub fn max_text_bytes(&self, max_tokens: u32) -> u64 {
        let factor = if keeps_every_byte(self.inner()) { 1 } else { SHRINKING };
        u64::from(max_tokens) * self.longest_token_bytes() as u64 * factor
    }

    /// Refuses a text that cannot fit into `max_tokens`, at a cost that depends on `max_tokens`
    /// and not on the text. What passes may still turn out to be too long.
    ///
    /// # Errors
    /// [`Error::TooLong`], and [`Error::Tokenize`].
    pub fn check_length(&self, text: &str, max_tokens: u32) -> Result<()> {
        let num_bytes = text.len() as u64;
        let max_bytes = self.max_text_bytes(max_tokens);
        if num_bytes > max_bytes {
            return Err(Error::TooLong { num_bytes, max_bytes, max_tokens });
        }
        if num_bytes <= u64::from(max_tokens) * UNUSUAL_BYTES_PER_TOKEN {
            return Ok(());
        }
        let (mut num_tokens, mut rest) = (0, text);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(char_boundary(rest, PART_BYTES));
            num_tokens += self.encode(part, SpecialTokens::Omit)?.len();
            if num_tokens > max_tokens as usize * MARGIN {
                let max_bytes = (text.len() - after.len()) as u64;
                return Err(Error::TooLong { num_bytes, max_bytes, max_tokens });
            }
            rest = after;
        }
        Ok(())
    }
}

/// The longest token of the vocabulary, in bytes of the text that it stands for; at least 1.
pub(super) fn longest_token_bytes(tokenizer: &Tokenizer) -> usize {
    let added = tokenizer.inner().get_added_vocabulary().get_added_tokens_decoder();
    let added = added.values().map(|token| token.content.len());
    let lens = (0..tokenizer.vocab_size()).map(|id| tokenizer.token_bytes(id).len());
    lens.chain(added).max().unwrap_or(0).max(1)
}

/// The last boundary between characters up to `max_bytes`, which is more than a character has.
fn char_boundary(text: &str, max_bytes: usize) -> usize {
    let mut end = max_bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

/// Whether every byte of a text is in one of its tokens.
fn keeps_every_byte(inner: &tokenizers::Tokenizer) -> bool {
    let added = inner.get_added_vocabulary().get_added_tokens_decoder();
    inner.get_normalizer().is_none()
        && matches!(inner.get_model(), tokenizers::ModelWrapper::BPE(_))
        && inner.get_pre_tokenizer().is_none_or(only_splits)
        && !added.values().any(|token| token.lstrip || token.rstrip)
}

fn only_splits(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    match pre_tokenizer {
        PreTokenizerWrapper::Sequence(all) => all.as_ref().iter().all(only_splits),
        PreTokenizerWrapper::Split(split) => split.behavior != SplitDelimiterBehavior::Removed,
        PreTokenizerWrapper::ByteLevel(_)
        | PreTokenizerWrapper::Metaspace(_)
        | PreTokenizerWrapper::Digits(_) => true,
        _ => false,
    }
}
