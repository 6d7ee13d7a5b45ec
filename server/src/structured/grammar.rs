//! A compiled constraint, and its state in one choice.

use std::sync::{Arc, Mutex, PoisonError};

use folio_engine::types::{Continuation, GrammarError, TokenGrammar, TokenId};
use llguidance::Matcher;
use llguidance::api::StopReason;

use super::compile::plain;
use crate::openai::EndOfSequence;

/// A constraint that was compiled for a model. Kept and shared; holds no state of any text.
pub struct Compiled {
    /// Before the first token. Cloned only, under the lock, for the library's caches are not
    /// for two threads at a time.
    matcher: Mutex<Matcher>,
    /// Which tokens a text may begin with.
    first_mask: Arc<[u32]>,
    end_tokens: Arc<[TokenId]>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

impl Compiled {
    /// Takes a fresh `matcher` and computes the mask that every text begins with, which is the
    /// dearest: it is done here and never again.
    pub(super) fn new(mut matcher: Matcher, end_tokens: &[TokenId]) -> Result<Self, String> {
        let mask = matcher.compute_mask().map_err(|error| match matcher.stop_reason() {
            StopReason::NoExtensionBias => "no token of the model's can begin such a text".into(),
            _ => plain(&error.to_string()),
        })?;
        let first_mask: Vec<u32> = mask.into();
        let mut ordinary = first_mask.clone();
        clear(&mut ordinary, end_tokens);
        if ordinary.iter().all(|&word| word == 0) {
            return Err("it allows no text but the empty one".into());
        }
        Ok(Self {
            matcher: Mutex::new(matcher),
            first_mask: first_mask.into(),
            end_tokens: end_tokens.into(),
        })
    }

    /// What the choices of one request share: nothing of it is shared with another request, so
    /// that no request can use up what the library keeps for a grammar.
    pub fn session(self: &Arc<Self>) -> Session {
        let matcher = self.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Session { compiled: Arc::clone(self), matcher }
    }
}

/// A constraint for the choices of one request.
pub struct Session {
    compiled: Arc<Compiled>,
    matcher: Matcher,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// The state of a choice before its first token.
    pub fn start(&self, end_of_sequence: EndOfSequence) -> Box<dyn TokenGrammar> {
        let mut mask = self.compiled.first_mask.to_vec();
        let barred: Arc<[TokenId]> = match end_of_sequence {
            EndOfSequence::Stops => Arc::new([]),
            EndOfSequence::Ignored => Arc::clone(&self.compiled.end_tokens),
        };
        clear(&mut mask, &barred);
        let matcher = self.matcher.clone();
        Box::new(ConstrainedText { matcher, mask, is_current: true, barred })
    }
}

/// The state of one choice under a constraint.
pub struct ConstrainedText {
    matcher: Matcher,
    mask: Vec<u32>,
    /// Whether `mask` is that of the next token.
    is_current: bool,
    /// Tokens that are never allowed: those that end a text, where the request ignores them.
    barred: Arc<[TokenId]>,
}

impl std::fmt::Debug for ConstrainedText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConstrainedText").finish_non_exhaustive()
    }
}

impl TokenGrammar for ConstrainedText {
    fn mask(&mut self) -> Result<&[u32], GrammarError> {
        if !self.is_current {
            let mask = self.matcher.compute_mask();
            self.mask = mask.map_err(|error| GrammarError(plain(&error.to_string())))?.into();
            clear(&mut self.mask, &self.barred);
            self.is_current = true;
        }
        Ok(&self.mask)
    }

    fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
        self.is_current = false;
        let entered = self.matcher.consume_token(token);
        entered.map_err(|error| GrammarError(plain(&error.to_string())))?;
        match self.matcher.stop_reason() {
            StopReason::NotStopped => Ok(Continuation::Open),
            reason if reason.is_ok() => Ok(Continuation::Complete),
            reason => Err(GrammarError(reason.to_string())),
        }
    }
}

/// Takes `tokens` out of a mask.
fn clear(mask: &mut [u32], tokens: &[TokenId]) {
    for &token in tokens {
        if let Some(word) = mask.get_mut(token as usize / 32) {
            *word &= !(1 << (token % 32));
        }
    }
}
