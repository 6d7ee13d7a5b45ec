//! A grammar of calls that begins to hold with the mark of the first one.
//!
//! For answers that may have calls and need not: before the mark the text is free, or has the
//! shape that the request asked for, and then the mark may only come first. From the mark on the
//! answer is calls, and their arguments fit. Only for models whose mark is one token.

use std::sync::Arc;

use folio_engine::types::{Continuation, GrammarError, TokenGrammar, TokenId};

use super::after_reasoning::set;

/// One choice.
pub(crate) struct LazyCalls {
    mark: TokenId,
    calls: Box<dyn TokenGrammar>,
    text: Text,
    phase: Phase,
}

/// What the text may be where there are no calls.
pub(crate) enum Text {
    /// Any, of these tokens.
    Free(Arc<[u32]>),
    /// Of a shape. The mask is that of the first token, and that of the mark with it.
    Shaped(Box<dyn TokenGrammar>, Vec<u32>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Begin,
    Text,
    Calls,
}

impl LazyCalls {
    /// `calls`, from the first `mark` on.
    pub(crate) fn new(mark: TokenId, calls: Box<dyn TokenGrammar>, text: Text) -> Self {
        Self { mark, calls, text, phase: Phase::Begin }
    }
}

impl TokenGrammar for LazyCalls {
    fn mask(&mut self) -> Result<&[u32], GrammarError> {
        match (self.phase, &mut self.text) {
            (Phase::Calls, _) => self.calls.mask(),
            (_, Text::Free(all)) => Ok(all),
            (Phase::Begin, Text::Shaped(grammar, mask)) => {
                if mask.is_empty() {
                    *mask = grammar.mask()?.to_vec();
                    set(mask, self.mark);
                }
                Ok(mask)
            }
            (Phase::Text, Text::Shaped(grammar, _)) => grammar.mask(),
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
        match (self.phase, &mut self.text) {
            (Phase::Calls, _) => return self.calls.accept(token),
            (Phase::Begin, _) | (Phase::Text, Text::Free(_)) if token == self.mark => {
                self.phase = Phase::Calls;
                // The mark is the first thing that its grammar takes. It counts what may follow.
                self.calls.mask()?;
                return self.calls.accept(token);
            }
            _ => self.phase = Phase::Text,
        }
        match &mut self.text {
            Text::Free(_) => Ok(Continuation::Open),
            Text::Shaped(grammar, _) => grammar.accept(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use folio_engine::types::allows;

    use super::*;

    /// Takes these tokens, then ends.
    struct Fixed(Vec<TokenId>, Vec<u32>);

    impl TokenGrammar for Fixed {
        fn mask(&mut self) -> Result<&[u32], GrammarError> {
            self.1 = vec![0];
            set(&mut self.1, self.0[0]);
            Ok(&self.1)
        }

        fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
            assert_eq!(token, self.0.remove(0));
            Ok(if self.0.is_empty() { Continuation::Complete } else { Continuation::Open })
        }
    }

    fn fixed(tokens: &[TokenId]) -> Box<dyn TokenGrammar> {
        Box::new(Fixed(tokens.to_vec(), Vec::new()))
    }

    const MARK: TokenId = 9;

    fn allowed(grammar: &mut LazyCalls) -> Vec<TokenId> {
        let mask = grammar.mask().unwrap().to_vec();
        (0..32).filter(|&id| allows(&mask, id)).collect()
    }

    #[test]
    fn a_free_text_may_come_to_a_call_at_any_time() {
        let all: Arc<[u32]> = Arc::new([u32::MAX]);
        let mut grammar = LazyCalls::new(MARK, fixed(&[MARK, 3]), Text::Free(all));
        for token in [1, 2, 3] {
            assert_eq!(allowed(&mut grammar).len(), 32);
            assert_eq!(grammar.accept(token), Ok(Continuation::Open));
        }
        assert_eq!(grammar.accept(MARK), Ok(Continuation::Open));
        assert_eq!(allowed(&mut grammar), [3]);
        assert_eq!(grammar.accept(3), Ok(Continuation::Complete));
    }

    #[test]
    fn a_shaped_text_or_calls() {
        let shaped = || Text::Shaped(fixed(&[4, 5]), Vec::new());
        let mut grammar = LazyCalls::new(MARK, fixed(&[MARK, 3]), shaped());
        assert_eq!(allowed(&mut grammar), [4, MARK]);
        assert_eq!(grammar.accept(4), Ok(Continuation::Open));
        assert_eq!(allowed(&mut grammar), [5]);
        assert_eq!(grammar.accept(5), Ok(Continuation::Complete));
        let mut grammar = LazyCalls::new(MARK, fixed(&[MARK, 3]), shaped());
        assert_eq!(grammar.accept(MARK), Ok(Continuation::Open));
        assert_eq!(allowed(&mut grammar), [3]);
    }
}
