//! The seam for grammars: which tokens may come next, as bits.
//!
//! The engine knows no grammar. It asks for the mask of the next position once the tokens before it
//! are known, keeps to it, and tells which token was chosen. State lives with the choice, so that
//! preemption, chunking and batch-mates do not touch it.

use super::TokenId;

/// The shape that one choice must have, and how far it has come. One instance a choice.
///
/// [`mask`](Self::mask) and [`accept`](Self::accept) take turns, in the order of the tokens. What
/// they answer depends on the tokens alone. Both run on the engine's thread: tens of microseconds
/// each, and bounded whatever the grammar.
pub trait TokenGrammar: Send {
    /// The tokens that may come next: bit `id % 32` of word `id / 32` is set for each, in
    /// ⌈V / 32⌉ words or more. End-of-sequence tokens are among them where the text may end.
    /// Computed once between two tokens, however often it is asked for.
    fn mask(&mut self) -> Result<&[u32], GrammarError>;

    /// Enters `token`, which the latest mask allows. The end of the sequence is not entered.
    fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError>;
}

/// Whether a text can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// More may or must follow.
    Open,
    /// The text is whole and nothing may follow it: the choice ends here.
    Complete,
}

/// A grammar could not go on: a limit of its work was reached, or it is broken. Ends the choice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the grammar cannot go on: {0}")]
pub struct GrammarError(pub String);

/// Whether `mask` allows `token`.
#[must_use]
pub fn allows(mask: &[u32], token: TokenId) -> bool {
    mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
}
