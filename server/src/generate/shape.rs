//! What an answer is besides a text of some shape: reasoning before it, or calls instead of it.

use std::sync::Arc;

use folio_engine::types::{TokenGrammar, TokenId};

use crate::models::ServedModel;
use crate::openai::Structure;
use crate::tools::{LazyCalls, ReasoningFormat, ReasoningGate, ReasoningStart, Text, all_tokens};

/// What the answer to a prompt is besides a text. By default nothing.
#[derive(Clone, Debug, Default)]
pub struct AnswerKind {
    /// The model thinks first: no shape holds there.
    reasoning: Option<ReasoningGate>,
    /// The answer may have calls, which are to be of this shape.
    calls: Option<LazyShape>,
}

/// The shape of calls that an answer need not have.
#[derive(Clone, Debug)]
struct LazyShape {
    /// The token that each begins with.
    mark: TokenId,
    structure: Structure,
    /// The mask of all tokens.
    all: Arc<[u32]>,
}

impl AnswerKind {
    /// Of `model`, which marks its reasoning so and may make such calls.
    pub(super) fn new(
        model: &ServedModel,
        reasoning: Option<(ReasoningFormat, ReasoningStart)>,
        calls: Option<(TokenId, Structure)>,
    ) -> Self {
        let vocab_size = model.limits.vocab_size;
        let gate = |reasoning| {
            let tokenizer = model.text.tokenizer();
            ReasoningGate::new(tokenizer, reasoning, vocab_size, &model.end_tokens)
        };
        let lazy = |(mark, structure)| {
            let all = all_tokens(vocab_size).into();
            LazyShape { mark, structure, all }
        };
        Self { reasoning: reasoning.map(gate), calls: calls.map(lazy) }
    }

    /// The shape that calls are to have, for the compiler.
    pub(super) fn calls(&self) -> Option<&Structure> {
        self.calls.as_ref().map(|calls| &calls.structure)
    }

    /// The grammar of a choice whose text has the grammar `text`, and whose calls have `calls`.
    pub(super) fn grammar(
        &self,
        text: Option<Box<dyn TokenGrammar>>,
        calls: Option<Box<dyn TokenGrammar>>,
    ) -> Option<Box<dyn TokenGrammar>> {
        let grammar = match (&self.calls, calls) {
            (Some(shape), Some(calls)) => {
                let free = || Text::Free(Arc::clone(&shape.all));
                let text = text.map_or_else(free, |text| Text::Shaped(text, Vec::new()));
                Some(Box::new(LazyCalls::new(shape.mark, calls, text)) as Box<dyn TokenGrammar>)
            }
            _ => text,
        }?;
        Some(match &self.reasoning {
            Some(gate) => gate.around(grammar),
            None => grammar,
        })
    }
}
