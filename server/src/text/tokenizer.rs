//! Text to token ids and back, as the model's tokenizer.json says.
//!
//! Invariants: nothing is cut to a length and nothing is padded, whatever the file asks for; the
//! caller decides what to do about a text that is too long. Shared by all threads, never changed
//! after loading. Neighbours: `detokenizer` for streams, `decoding` for the steps of a decoder.

use folio_engine::types::TokenId;
use tokenizers::{AddedToken, Encoding};

use super::config::{FILE as CONFIG_FILE, TokenizerConfig};
use super::decoding::{Decoding, Piece, Place};
use super::detokenizer::{self, Skip};
use super::error::{Error, Result};
use super::length;

/// Name of the file, for messages.
pub(super) const FILE: &str = "tokenizer.json";

/// Whether encoding frames the text with the tokens that the model was trained to see around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As the file's post-processor says: for embeddings and for prompts of completions.
    Add,
    /// The text alone: for rendered chats, which spell their special tokens out.
    Omit,
}

/// One model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    decoding: Decoding,
    vocab_size: u32,
    longest_token_bytes: usize,
}

impl Tokenizer {
    /// Builds it from the bytes of tokenizer.json and what tokenizer_config.json adds.
    ///
    /// # Errors
    /// [`Error::ModelFile`] if the file is malformed, of a version or kind that is not known, if
    /// its decoder cannot be streamed, or if the two files disagree about a token's id.
    pub fn new(tokenizer_json: &[u8], config: &TokenizerConfig) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(tokenizer_json)
            .map_err(|error| Error::file(FILE, &error))?;
        inner.with_truncation(None).map_err(|error| Error::file(FILE, &error))?;
        inner.with_padding(None);
        add_configured_tokens(&mut inner, config)?;
        let decoding = Decoding::new(inner.get_decoder()).map_err(|e| Error::file(FILE, &e))?;
        let vocab_size = inner.get_vocab(true).into_values().max().map_or(0, |id| id + 1);
        if vocab_size == 0 {
            return Err(Error::file(FILE, &"the vocabulary is empty"));
        }
        let mut tokenizer = Self { inner, decoding, vocab_size, longest_token_bytes: 0 };
        tokenizer.longest_token_bytes = length::longest_token_bytes(&tokenizer);
        Ok(tokenizer)
    }

    /// The token ids of `text`, all of them. Special tokens that `text` spells are recognised.
    /// Costs about a millisecond for a thousand tokens: call it where blocking is allowed.
    pub fn encode(&self, text: &str, special_tokens: SpecialTokens) -> Result<Vec<TokenId>> {
        let encoding = self.encoding(text, special_tokens)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The token ids of a pair of texts, as the file's post-processor frames them, and where those
    /// of the second type begin: behind the end where it puts all tokens into one type.
    ///
    /// # Errors
    /// [`Error::Tokenize`], also where types do not follow one another.
    pub fn encode_pair(&self, first: &str, second: &str) -> Result<(Vec<TokenId>, usize)> {
        let encoding = self.inner.encode_fast((first, second), true);
        let encoding = encoding.map_err(|error| Error::Tokenize(error.to_string()))?;
        let types = encoding.get_type_ids();
        let second_start = types.iter().position(|&id| id > 0).unwrap_or(types.len());
        if types[second_start..].contains(&0) {
            let message = "tokens of the first type follow those of the second".to_owned();
            return Err(Error::Tokenize(message));
        }
        Ok((encoding.get_ids().to_vec(), second_start))
    }

    /// As [`Self::encode`], cut to `max_tokens` by taking ordinary tokens off the end where the
    /// client asked for that; special tokens stay. Also returns how many tokens the whole text has.
    pub fn encode_truncated(
        &self,
        text: &str,
        special_tokens: SpecialTokens,
        max_tokens: usize,
    ) -> Result<(Vec<TokenId>, usize)> {
        let encoding = self.encoding(text, special_tokens)?;
        let num_tokens = encoding.len();
        let mut num_left = num_tokens.saturating_sub(max_tokens);
        let mut ids: Vec<TokenId> = Vec::with_capacity(num_tokens - num_left);
        // From the end, so that those left out are the last ones.
        for (&id, &was_added) in
            encoding.get_ids().iter().zip(encoding.get_special_tokens_mask()).rev()
        {
            if num_left > 0 && was_added == 0 {
                num_left -= 1;
            } else {
                ids.push(id);
            }
        }
        ids.reverse();
        Ok((ids, num_tokens))
    }

    fn encoding(&self, text: &str, special_tokens: SpecialTokens) -> Result<Encoding> {
        let adds = special_tokens == SpecialTokens::Add;
        self.inner.encode_fast(text, adds).map_err(|error| Error::Tokenize(error.to_string()))
    }

    /// The text of `ids`: what a [`Detokenizer`](super::Detokenizer) returns for them, joined.
    ///
    /// Equal to Hugging Face's `decode`, with one exception in vocabularies with a byte
    /// fallback: there one broken byte turns every character spelled by bytes before it into
    /// replacement characters, which a stream cannot take back. Here only the broken bytes do.
    pub fn decode(&self, ids: &[TokenId], skip: Skip) -> String {
        detokenizer::decode(self, ids, skip)
    }

    /// One more than the highest token id. A model may have more rows than this.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of the longest token, as text.
    pub fn longest_token_bytes(&self) -> usize {
        self.longest_token_bytes
    }

    /// The id of the token spelled `token` in the vocabulary.
    pub fn id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    /// How the vocabulary spells `id`, such as `Ġthe`; `None` outside the vocabulary.
    pub fn token(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a special token: one that [`Skip::Special`] leaves out.
    pub fn is_special(&self, id: TokenId) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// The bytes that `id` adds to a text it continues, a space in front included; not always
    /// whole characters. A special token has those of its spelling. Empty outside the vocabulary.
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        let Some(spelling) = self.decoded_spelling(id) else {
            return Vec::new();
        };
        match self.decoding.piece(spelling, Place::INSIDE) {
            Piece::Text(text) => text.into_bytes(),
            Piece::Bytes(bytes) => bytes,
            Piece::Byte(byte) => vec![byte],
        }
    }

    /// The same as text, with replacement characters for what is not whole characters.
    pub fn token_text(&self, id: TokenId) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    /// The spelling that decoding starts from.
    pub(super) fn decoded_spelling(&self, id: TokenId) -> Option<String> {
        let added = self.inner.get_added_vocabulary();
        added.simple_id_to_token(id).or_else(|| self.inner.id_to_token(id))
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    pub(super) fn decoding(&self) -> &Decoding {
        &self.decoding
    }
}

/// Adds the tokens that only tokenizer_config.json has, and makes special those that it names as
/// such, so that they are found in a text and skipped in an answer.
fn add_configured_tokens(
    inner: &mut tokenizers::Tokenizer,
    config: &TokenizerConfig,
) -> Result<()> {
    let fail = |error: tokenizers::Error| Error::file(CONFIG_FILE, &error);
    for (id, token) in &config.added_tokens {
        if inner.token_to_id(&token.content).is_none() {
            inner.add_tokens([token.clone()]).map_err(fail)?;
        }
        let found = inner.token_to_id(&token.content);
        if found != Some(*id) {
            let message = format!(
                "added_tokens_decoder gives {:?} the id {id}, but {FILE} gives it {found:?}",
                token.content
            );
            return Err(Error::file(CONFIG_FILE, &message));
        }
    }
    let named = config.special_tokens.iter().map(|(_, content)| content);
    for content in named.chain(&config.extra_special_tokens) {
        let is_special = inner.get_added_vocabulary().is_special_token(content);
        if !is_special && inner.token_to_id(content).is_some() {
            let token = AddedToken::from(content.as_str(), true);
            inner.add_special_tokens([token]).map_err(fail)?;
        }
    }
    Ok(())
}
