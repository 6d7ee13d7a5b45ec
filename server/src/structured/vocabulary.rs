//! The tokens of one model as `llguidance` wants them: a trie of their bytes, made once.

use folio_engine::types::TokenId;
use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use toktrie::{
    ApproximateTokEnv, INVALID_TOKEN, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
};

use super::limits::Limits;
use crate::models::ServedModel;
use crate::text::{Skip, Tokenizer};

/// Longest token that a constraint may use, in bytes: what the trie can hold. Vocabularies have a
/// few longer ones at most, of spaces.
const MAX_TOKEN_BYTES: usize = 1000;

/// A model's tokens, and what makes parsers over them.
pub struct Vocabulary {
    pub(super) factory: ParserFactory,
    /// Tokens that end a text.
    pub(super) end_tokens: Vec<TokenId>,
    /// Whether a generated text that begins with a space is delivered without it.
    pub(super) leading_space: LeadingSpace,
}

/// What becomes of a space that the generated text begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeadingSpace {
    /// It is delivered.
    Kept,
    /// The detokeniser drops it, since encoding had put one in front.
    Dropped,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("end_tokens", &self.end_tokens).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// The vocabulary of `model`. Takes a second for 150,000 tokens.
    ///
    /// # Errors
    /// Why no constraint can be enforced on this model.
    pub fn new(model: &ServedModel) -> Result<Self, String> {
        let tokenizer = model.text.tokenizer();
        let vocab_size = model.limits.vocab_size;
        let end_tokens: Vec<_> =
            model.end_tokens.iter().copied().filter(|&id| id < vocab_size).collect();
        let words: Vec<_> = (0..vocab_size)
            .map(|id| {
                let is_special = end_tokens.contains(&id) || tokenizer.is_special(id);
                word(tokenizer, id, is_special)
            })
            .collect();
        let tok_eos = end_tokens.first().copied().unwrap_or(INVALID_TOKEN);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocab_size, tok_eos), &words);
        if !end_tokens.is_empty() {
            trie = trie.with_eos_tokens(&end_tokens);
        }
        // Not canonical: how the model spells a text with its tokens is left to the model.
        let env: TokEnv = std::sync::Arc::new(ApproximateTokEnv::new(trie));
        let capabilities = InferenceCapabilities::default();
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|error| format!("its vocabulary has no trie: {error}"))?;
        factory.quiet();
        *factory.limits_mut() = Limits::of_parser();
        let leading_space = leading_space(tokenizer, vocab_size);
        Ok(Self { factory, end_tokens, leading_space })
    }
}

/// The bytes of a token; none for one that no text may have.
fn word(tokenizer: &Tokenizer, id: TokenId, is_special: bool) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id);
    let word = if is_special && !bytes.is_empty() {
        [&[MARKER], &bytes[..]].concat()
    } else if bytes.first() == Some(&MARKER) {
        Vec::new() // no UTF-8 has this byte, and here it marks special tokens
    } else {
        bytes
    };
    if word.len() > MAX_TOKEN_BYTES { Vec::new() } else { word }
}

/// Tries with a token that is a space and a letter.
fn leading_space(tokenizer: &Tokenizer, vocab_size: u32) -> LeadingSpace {
    let is_probe = |bytes: &[u8]| matches!(bytes, [b' ', letter] if letter.is_ascii_alphabetic());
    let probe = (0..vocab_size)
        .find(|&id| is_probe(&tokenizer.token_bytes(id)) && !tokenizer.is_special(id));
    match probe.map(|id| tokenizer.decode(&[id], Skip::Nothing)) {
        Some(text) if !text.starts_with(' ') => LeadingSpace::Dropped,
        _ => LeadingSpace::Kept,
    }
}
