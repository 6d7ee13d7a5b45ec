//! A grammar that holds for the answer and not for the reasoning before it.
//!
//! While the model thinks, any token may come but one that ends the text: the answer is still to
//! come. After the closing mark, and one token of line breaks if the model likes, the grammar's
//! first token is due. Where the prompt has not opened the block, the model may open it or not.

use std::sync::Arc;

use folio_engine::types::{Continuation, GrammarError, TokenGrammar, TokenId};

use super::format::{ReasoningFormat, ReasoningStart, single_token};
use crate::text::Tokenizer;

/// What the answers of one request share.
#[derive(Clone, Debug)]
pub(crate) struct ReasoningGate {
    tokenizer: Arc<Tokenizer>,
    format: ReasoningFormat,
    start: ReasoningStart,
    /// All tokens but those that end a text.
    thoughts: Arc<[u32]>,
    /// The opening mark, if it is one token.
    open: Option<TokenId>,
    /// Tokens that are line breaks.
    breaks: Arc<[TokenId]>,
}

impl ReasoningGate {
    /// For a model of `vocab_size` tokens, of which `end_tokens` end a text.
    pub(crate) fn new(
        tokenizer: &Arc<Tokenizer>,
        (format, start): (ReasoningFormat, ReasoningStart),
        vocab_size: u32,
        end_tokens: &[TokenId],
    ) -> Self {
        let mut thoughts = all_tokens(vocab_size);
        for &id in end_tokens {
            if let Some(word) = thoughts.get_mut(id as usize / 32) {
                *word &= !(1 << (id % 32));
            }
        }
        let single = |text| single_token(tokenizer, text).filter(|&id| id < vocab_size);
        Self {
            tokenizer: Arc::clone(tokenizer),
            format,
            start,
            thoughts: thoughts.into(),
            open: single(format.open()),
            breaks: ["\n", "\n\n"].into_iter().filter_map(single).collect(),
        }
    }

    /// `grammar`, for the answer.
    pub(crate) fn around(&self, grammar: Box<dyn TokenGrammar>) -> Box<dyn TokenGrammar> {
        let phase = match self.start {
            ReasoningStart::Inside => Phase::Thinking,
            ReasoningStart::Outside => Phase::Undecided,
        };
        Box::new(AfterReasoning {
            gate: self.clone(),
            grammar,
            phase,
            text: Vec::new(),
            mask: Vec::new(),
            is_current: false,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was generated yet.
    Undecided,
    Thinking,
    /// Right after the closing mark.
    Closed,
    Answering,
}

/// One choice.
struct AfterReasoning {
    gate: ReasoningGate,
    grammar: Box<dyn TokenGrammar>,
    phase: Phase,
    /// The end of the thoughts: what may be the beginning of the closing mark.
    text: Vec<u8>,
    /// The grammar's mask and what else may come.
    mask: Vec<u32>,
    /// Whether `mask` is that of the next token.
    is_current: bool,
}

impl AfterReasoning {
    /// What may come beside what the grammar allows.
    fn extra(&self) -> &[TokenId] {
        match self.phase {
            Phase::Undecided => self.gate.open.as_slice(),
            Phase::Closed => &self.gate.breaks,
            Phase::Thinking | Phase::Answering => &[],
        }
    }

    /// Whether the closing mark ends with or in `token`.
    fn closes(&mut self, token: TokenId) -> bool {
        let close = self.gate.format.close().as_bytes();
        self.text.extend(self.gate.tokenizer.token_bytes(token));
        let is_closed = self.text.windows(close.len()).any(|window| window == close);
        let excess = self.text.len().saturating_sub(close.len() - 1);
        self.text.drain(..excess);
        is_closed
    }
}

impl TokenGrammar for AfterReasoning {
    fn mask(&mut self) -> Result<&[u32], GrammarError> {
        match self.phase {
            Phase::Thinking => return Ok(&self.gate.thoughts),
            Phase::Answering => return self.grammar.mask(),
            Phase::Undecided | Phase::Closed if self.is_current => return Ok(&self.mask),
            Phase::Undecided | Phase::Closed => {}
        }
        let mut mask = self.grammar.mask()?.to_vec();
        for &token in self.extra() {
            set(&mut mask, token);
        }
        self.mask = mask;
        self.is_current = true;
        Ok(&self.mask)
    }

    fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
        self.is_current = false;
        self.phase = match self.phase {
            Phase::Thinking => {
                if self.closes(token) {
                    Phase::Closed
                } else {
                    Phase::Thinking
                }
            }
            Phase::Undecided if self.gate.open == Some(token) => Phase::Thinking,
            Phase::Closed if self.gate.breaks.contains(&token) => Phase::Answering,
            Phase::Undecided | Phase::Closed | Phase::Answering => {
                self.phase = Phase::Answering;
                return self.grammar.accept(token);
            }
        };
        Ok(Continuation::Open)
    }
}

/// The mask that allows every token of a vocabulary.
pub(crate) fn all_tokens(vocab_size: u32) -> Vec<u32> {
    let mut mask = vec![u32::MAX; (vocab_size / 32) as usize];
    if !vocab_size.is_multiple_of(32) {
        mask.push((1 << (vocab_size % 32)) - 1);
    }
    mask
}

/// Allows `token`.
pub(super) fn set(mask: &mut [u32], token: TokenId) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        *word |= 1 << (token % 32);
    }
}

#[cfg(test)]
mod tests {
    use folio_engine::types::allows;

    use super::*;
    use crate::builtin;
    use crate::text::{SpecialTokens, TextModel};

    /// Takes the tokens of one text, then ends.
    struct Fixed {
        tokens: Vec<TokenId>,
        mask: Vec<u32>,
    }

    impl TokenGrammar for Fixed {
        fn mask(&mut self) -> Result<&[u32], GrammarError> {
            self.mask = vec![0; 96];
            set(&mut self.mask, self.tokens[0]);
            Ok(&self.mask)
        }

        fn accept(&mut self, token: TokenId) -> Result<Continuation, GrammarError> {
            assert_eq!(token, self.tokens.remove(0));
            Ok(if self.tokens.is_empty() { Continuation::Complete } else { Continuation::Open })
        }
    }

    const END: TokenId = 2;

    fn gate(start: ReasoningStart) -> (Arc<Tokenizer>, ReasoningGate) {
        let files = folio_engine::model::ModelFiles::Embedded(builtin::chat());
        let read = |name: &str| Ok(files.read(name).unwrap().map(std::borrow::Cow::into_owned));
        let model = TextModel::load("tiny", &read, None).unwrap();
        let tokenizer = Arc::clone(model.tokenizer());
        let gate = ReasoningGate::new(&tokenizer, (ReasoningFormat::Think, start), 3072, &[END]);
        (tokenizer, gate)
    }

    /// Feeds `text`, each token of which must be allowed, and the grammar complete at the end.
    fn feed(start: ReasoningStart, thought: &str, answer: &str) {
        let (tokenizer, gate) = gate(start);
        let encode = |text: &str| tokenizer.encode(text, SpecialTokens::Omit).unwrap();
        let fixed = Fixed { tokens: encode(answer), mask: Vec::new() };
        let mut grammar = gate.around(Box::new(fixed));
        let mut last = Continuation::Open;
        for token in encode(thought).into_iter().chain(encode(answer)) {
            assert_eq!(last, Continuation::Open);
            assert!(allows(grammar.mask().unwrap(), token), "{token} of {thought:?} {answer:?}");
            last = grammar.accept(token).unwrap();
        }
        assert_eq!(last, Continuation::Complete, "{thought:?}");
    }

    #[test]
    fn the_answer_is_constrained_and_the_thoughts_are_not() {
        feed(ReasoningStart::Inside, "Hm, {\"a\": </thin 日本 </think>", "yes or no");
        feed(ReasoningStart::Inside, "</think>\n", "yes");
        feed(ReasoningStart::Outside, "", "yes");
    }

    #[test]
    fn thoughts_cannot_end_the_text() {
        let (tokenizer, gate) = gate(ReasoningStart::Inside);
        let tokens = tokenizer.encode("x", SpecialTokens::Omit).unwrap();
        let mut grammar = gate.around(Box::new(Fixed { tokens, mask: Vec::new() }));
        assert!(!allows(grammar.mask().unwrap(), END));
        assert!(allows(grammar.mask().unwrap(), 3071) && !allows(grammar.mask().unwrap(), 3072));
    }
}
