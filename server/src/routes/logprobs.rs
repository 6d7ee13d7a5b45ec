//! Log-probabilities as answers write them: of completions in columns, of prompts by token id.

use std::collections::BTreeMap;
use std::fmt::Write;

use folio_engine::types::{TokenId, TokenLogprobs};

use crate::generate::{PromptReport, TextToken};
use crate::models::ServedModel;
use crate::openai::{CompletionLogprobs, PromptLogprobs, PromptToken, TokenNames, finite_logprob};
use crate::text::{Detokenizer, Skip};

/// Columns for tokens of a completion, which begins after `num_lead_chars` characters.
pub(super) fn columns(
    (model, names): (&ServedModel, TokenNames),
    tokens: &[TextToken],
    num_lead_chars: usize,
) -> CompletionLogprobs {
    let mut columns = CompletionLogprobs::default();
    for token in tokens {
        let Some(logprobs) = &token.logprobs else { continue };
        push((model, names), (token.id, logprobs), None, &mut columns);
        columns.text_offset.push(num_lead_chars + token.offset);
    }
    columns
}

/// Columns for the prompt of a completion that leads it as `text`, with at most `num_top` of the
/// likeliest tokens. Nothing comes before the first token, so nothing is known of it.
pub(super) fn prompt_columns(
    (model, names): (&ServedModel, TokenNames),
    report: &PromptReport,
    text: &str,
    num_top: u32,
) -> CompletionLogprobs {
    let mut columns = CompletionLogprobs {
        text_offset: offsets(model, report, text),
        ..CompletionLogprobs::default()
    };
    if let Some(&first) = report.tokens.first() {
        columns.tokens.push(names.name(first, || spelling(model, first)));
        columns.token_logprobs.push(None);
        columns.top_logprobs.push(None);
    }
    let scores = report.logprobs.as_deref().unwrap_or(&[]);
    for (&id, score) in report.tokens.iter().skip(1).zip(scores) {
        push((model, names), (id, &score.logprobs), Some(num_top), &mut columns);
    }
    columns
}

/// The columns of `rest` after those of `columns`.
pub(super) fn append(columns: &mut CompletionLogprobs, rest: CompletionLogprobs) {
    columns.tokens.extend(rest.tokens);
    columns.token_logprobs.extend(rest.token_logprobs);
    columns.top_logprobs.extend(rest.top_logprobs);
    columns.text_offset.extend(rest.text_offset);
}

/// How likely the tokens of a prompt were, by token id, with at most `num_top` others at each
/// place.
pub(super) fn by_token_id(
    model: &ServedModel,
    report: &PromptReport,
    num_top: u32,
) -> PromptLogprobs {
    let scores = report.logprobs.as_deref().unwrap_or(&[]);
    let entry = |id: TokenId, logprob: f32, rank: u32| {
        let decoded_token = model.text.tokenizer().token_text(id);
        (id.to_string(), PromptToken { logprob: finite_logprob(logprob), rank, decoded_token })
    };
    let at_place = |(&id, score): (&TokenId, &folio_engine::types::PromptLogprob)| {
        let top = score.logprobs.top.iter().take(num_top as usize).zip(1..);
        let mut entries: BTreeMap<_, _> =
            top.map(|(&(id, logprob), rank)| entry(id, logprob, rank)).collect();
        let (key, own) = entry(id, score.logprobs.logprob, score.rank);
        entries.insert(key, own);
        Some(entries)
    };
    let rest = report.tokens.iter().skip(1).zip(scores).map(at_place);
    std::iter::once(None).chain(rest).collect()
}

fn push(
    (model, names): (&ServedModel, TokenNames),
    (id, logprobs): (TokenId, &TokenLogprobs),
    num_top: Option<u32>,
    columns: &mut CompletionLogprobs,
) {
    let spell = |&(id, logprob): &(TokenId, f32)| {
        (names.name(id, || spelling(model, id)), finite_logprob(logprob))
    };
    let num_top = num_top.map_or(usize::MAX, |num| num as usize);
    let mut top: BTreeMap<_, _> = logprobs.top.iter().take(num_top).map(spell).collect();
    let (spelling, logprob) = spell(&(id, logprobs.logprob));
    top.insert(spelling.clone(), logprob);
    columns.tokens.push(spelling);
    columns.token_logprobs.push(Some(logprob));
    columns.top_logprobs.push(Some(top));
}

/// Where the text of each token of a prompt begins in `text`, in characters. Special tokens that
/// were put around the text have no room in it.
fn offsets(model: &ServedModel, report: &PromptReport, text: &str) -> Vec<usize> {
    let tokenizer = model.text.tokenizer();
    let mut detokenizer = Detokenizer::new(std::sync::Arc::clone(tokenizer), Skip::Nothing);
    let (mut num_chars, mut num_bytes) = (0, 0);
    let mut offset_of = |&id: &TokenId| {
        let offset = num_chars;
        let is_there = || {
            let rest = text.get(num_bytes..).unwrap_or_default();
            rest.starts_with(&tokenizer.token_text(id))
        };
        if !tokenizer.is_special(id) || is_there() {
            let text = detokenizer.push(id);
            num_chars += text.chars().count();
            num_bytes += text.len();
        }
        offset
    };
    report.tokens.iter().map(&mut offset_of).collect()
}

/// A token's text; if it is only part of a character, its bytes as OpenAI's API spells them.
fn spelling(model: &ServedModel, id: TokenId) -> String {
    match String::from_utf8(model.text.tokenizer().token_bytes(id)) {
        Ok(text) => text,
        Err(error) => error.as_bytes().iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}
