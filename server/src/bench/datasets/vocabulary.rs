//! Prompts of a wanted number of tokens, as ids or as text.

use std::sync::Arc;

use folio_engine::types::TokenId;
use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::super::request::Prompt;
use crate::text::{Skip, SpecialTokens, Tokenizer};

/// Fewest words of a tokenizer that texts are made of; else all its tokens are.
const MIN_WORDS: usize = 100;
/// Ids that every vocabulary has and that are no special tokens in any that is known.
const PLAIN_IDS: std::ops::Range<TokenId> = 32..250;
/// One token each in most vocabularies of English.
const PLAIN_WORDS: [&str; 32] = [
    " time",
    " year",
    " people",
    " way",
    " day",
    " man",
    " thing",
    " woman",
    " life",
    " child",
    " world",
    " school",
    " state",
    " family",
    " group",
    " country",
    " hand",
    " part",
    " place",
    " case",
    " week",
    " company",
    " system",
    " program",
    " question",
    " work",
    " number",
    " night",
    " point",
    " home",
    " water",
    " room",
];

/// What the server's API takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Token ids: lengths are exact.
    Ids,
    /// Text: lengths are about right.
    Text,
}

/// What prompts are made of.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    tokenizer: Option<Arc<Tokenizer>>,
    /// All but special tokens.
    ids: Vec<TokenId>,
    /// Those that are a word with a space before it: texts of them keep their length.
    words: Vec<TokenId>,
}

impl Vocabulary {
    /// A vocabulary of `tokenizer`; without one, of tokens and words that most models have.
    pub fn new(tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let Some(tokenizer) = tokenizer else {
            return Self { tokenizer: None, ids: PLAIN_IDS.collect(), words: Vec::new() };
        };
        let ids: Vec<TokenId> = (0..tokenizer.vocab_size())
            .filter(|&id| tokenizer.token(id).is_some() && !tokenizer.is_special(id))
            .collect();
        let is_word = |id: &&TokenId| match tokenizer.token_bytes(**id).as_slice() {
            [b' ', word @ ..] => word.len() > 1 && word.iter().all(u8::is_ascii_lowercase),
            _ => false,
        };
        let mut words: Vec<TokenId> = ids.iter().filter(is_word).copied().collect();
        if words.len() < MIN_WORDS {
            words.clone_from(&ids);
        }
        Self { tokenizer: Some(tokenizer), ids, words }
    }

    /// What the user should know about lengths.
    pub fn note(&self, form: Form) -> Option<String> {
        let note = match (&self.tokenizer, form) {
            (Some(_), _) => return None,
            (None, Form::Ids) => "prompts are made of the ids 32 to 249",
            (None, Form::Text) => "lengths of texts are counted in words",
        };
        Some(format!("without --tokenizer, {note}"))
    }

    /// `len` tokens that a prompt in `form` can be made of.
    pub fn random(&self, random: &mut ChaCha8Rng, form: Form, len: usize) -> Vec<TokenId> {
        let from = match form {
            Form::Ids => &self.ids,
            Form::Text if self.words.is_empty() => return plain_words(random, len),
            Form::Text => &self.words,
        };
        (0..len).map(|_| from[random.random_range(0..from.len())]).collect()
    }

    /// `len` random ids.
    pub fn random_ids(&self, random: &mut ChaCha8Rng, len: usize) -> Vec<TokenId> {
        self.random(random, Form::Ids, len)
    }

    /// A random text of about `len` tokens.
    pub fn random_text(&self, random: &mut ChaCha8Rng, len: usize) -> String {
        let tokens = self.random(random, Form::Text, len);
        self.text(&tokens)
    }

    /// The prompt of `tokens`, which [`random`](Self::random) made for `form`.
    pub fn prompt(&self, form: Form, tokens: Vec<TokenId>) -> Prompt {
        match form {
            Form::Ids => Prompt::Ids(tokens.into()),
            Form::Text => Prompt::Text(self.text(&tokens).into()),
        }
    }

    /// The text of tokens that were made for texts.
    pub fn text(&self, tokens: &[TokenId]) -> String {
        if let Some(tokenizer) = &self.tokenizer {
            return tokenizer.decode(tokens, Skip::Nothing);
        }
        let word = |&token: &TokenId| PLAIN_WORDS[token as usize % PLAIN_WORDS.len()];
        tokens.iter().map(word).collect()
    }

    /// Tokens of `text`: as the tokenizer says, else an estimate of four bytes a token.
    pub fn count(&self, text: &str) -> u32 {
        let exact = self.tokenizer.as_ref().and_then(|tokenizer| {
            tokenizer.encode(text, SpecialTokens::Omit).ok().map(|ids| ids.len() as u32)
        });
        exact.unwrap_or_else(|| (text.len() as u32).div_ceil(4))
    }
}

/// Places in the list of words.
fn plain_words(random: &mut ChaCha8Rng, len: usize) -> Vec<TokenId> {
    (0..len).map(|_| random.random_range(0..PLAIN_WORDS.len() as TokenId)).collect()
}
