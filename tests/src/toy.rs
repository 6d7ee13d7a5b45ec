//! A grammar small enough to check by hand: what may come next is a hash of what came before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use folio_engine::types::{Continuation, GrammarError, TokenGrammar, TokenId, allows};

/// About one token in three may come next, other ones after every text; the text ends at a length.
#[derive(Debug)]
pub struct ToyGrammar {
    tokens: Vec<TokenId>,
    len: usize,
    fails_at: usize,
    panics_at: usize,
    mask: Vec<u32>,
    is_current: bool,
    num_masks: Arc<AtomicU32>,
}

impl ToyGrammar {
    /// Texts of `len` tokens out of a vocabulary of `vocab_size`.
    #[must_use]
    pub fn new(vocab_size: u32, len: usize) -> Self {
        Self {
            tokens: Vec::new(),
            len,
            fails_at: usize::MAX,
            panics_at: usize::MAX,
            mask: vec![0; vocab_size.div_ceil(32) as usize],
            is_current: false,
            num_masks: Arc::default(),
        }
    }

    /// Has no mask after `num_tokens` tokens.
    #[must_use]
    pub fn failing_after(mut self, num_tokens: usize) -> Self {
        self.fails_at = num_tokens;
        self
    }

    /// Panics when asked for a mask after `num_tokens` tokens.
    #[must_use]
    pub fn panicking_after(mut self, num_tokens: usize) -> Self {
        self.panics_at = num_tokens;
        self
    }

    /// Masks computed so far, for whoever keeps this.
    #[must_use]
    pub fn num_masks(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.num_masks)
    }

    /// Whether `token` may follow `before`.
    #[must_use]
    pub fn permits(before: &[TokenId], token: TokenId) -> bool {
        let hash = before.iter().fold(17u32, |hash, &id| hash.wrapping_mul(31).wrapping_add(id));
        (hash >> 3).wrapping_add(token).is_multiple_of(3)
    }
}

impl TokenGrammar for ToyGrammar {
    fn mask(&mut self) -> Result<&[u32], GrammarError> {
        assert!(self.tokens.len() < self.panics_at, "as asked for");
        if self.tokens.len() >= self.fails_at {
            return Err(GrammarError("as asked for".into()));
        }
        if !self.is_current {
            self.num_masks.fetch_add(1, Ordering::Relaxed);
            for (word, first) in self.mask.iter_mut().zip((0u32..).step_by(32)) {
                let bit = |i| u32::from(Self::permits(&self.tokens, first + i)) << i;
                *word = (0..32).map(bit).sum();
            }
            self.is_current = true;
        }
        Ok(&self.mask)
    }

    fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
        if !self.is_current || !allows(&self.mask, token) {
            return Err(GrammarError(format!("{token} after {:?}", self.tokens)));
        }
        self.tokens.push(token);
        self.is_current = false;
        Ok(if self.tokens.len() == self.len { Continuation::Complete } else { Continuation::Open })
    }
}
