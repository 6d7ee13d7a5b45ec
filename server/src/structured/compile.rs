//! From a constraint to the library's grammar and, on the calling thread, to a parser.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{JsonCompileOptions, Matcher};
use serde_json::{Value, json};

use super::compiler::Refusal;
use super::grammar::Compiled;
use super::lark;
use super::limits::Limits;
use super::schema;
use super::vocabulary::{LeadingSpace, Vocabulary};
use crate::openai::{Constraint, JsonShape, Keywords, Whitespace};

/// Longest message of the library's that is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 400;

/// Holds `constraint` against the limits, at a cost in proportion to its length.
pub(super) fn check(constraint: &Constraint, limits: &Limits) -> Result<(), Refusal> {
    let num_bytes = num_bytes(constraint);
    if num_bytes > limits.max_bytes {
        let message = format!("has {num_bytes} bytes, at most {} are allowed", limits.max_bytes);
        return Err(Refusal::invalid("", message));
    }
    match constraint {
        Constraint::JsonObject(whitespace) => check_whitespace(whitespace),
        Constraint::JsonSchema(shape) => {
            check_whitespace(&shape.whitespace)?;
            schema::check(&shape.schema, shape.keywords, limits)
        }
        Constraint::Regex(pattern) if pattern.is_empty() => Err(Refusal::invalid("", "is empty")),
        Constraint::Choice(choices) if choices.len() > limits.max_choices => {
            let (num, max) = (choices.len(), limits.max_choices);
            let message = format!("has {num} choices, at most {max} are allowed");
            Err(Refusal::invalid("", message))
        }
        Constraint::Regex(_) | Constraint::Choice(_) => Ok(()),
        Constraint::Lark(grammar) => lark::check(grammar, limits),
    }
}

fn check_whitespace(whitespace: &Whitespace) -> Result<(), Refusal> {
    match whitespace {
        Whitespace::Pattern(pattern) if pattern.is_empty() || pattern.len() > 256 => {
            let message = format!(
                "goes with a pattern for white space of {} bytes, which must be 1 to 256",
                pattern.len()
            );
            Err(Refusal::invalid("", message))
        }
        _ => Ok(()),
    }
}

/// Bytes of a constraint as it came.
pub(super) fn num_bytes(constraint: &Constraint) -> usize {
    match constraint {
        Constraint::JsonObject(_) => 0,
        Constraint::JsonSchema(shape) => shape.schema.to_string().len(),
        Constraint::Regex(text) | Constraint::Lark(text) => text.len(),
        Constraint::Choice(choices) => choices.iter().map(String::len).sum(),
    }
}

/// Compiles a checked constraint. May take long, and much of the stack.
pub(super) fn compile(
    vocabulary: &Vocabulary,
    constraint: Constraint,
) -> Result<Compiled, Refusal> {
    let grammar = spaced(body(constraint), vocabulary.leading_space);
    let refuse = |message: String| {
        Refusal::invalid("", format!("cannot be made into a grammar: {}", plain(&message)))
    };
    let parser = vocabulary.factory.create_parser(grammar);
    let matcher = Matcher::new(Ok(parser.map_err(|error| refuse(error.to_string()))?));
    if let Some(message) = matcher.get_error() {
        return Err(refuse(message));
    }
    Compiled::new(matcher, &vocabulary.end_tokens).map_err(refuse)
}

fn body(constraint: Constraint) -> GrammarWithLexer {
    match constraint {
        Constraint::JsonObject(whitespace) => {
            let schema = json!({ "type": "object" });
            json_grammar(JsonShape { schema, whitespace, keywords: Keywords::MustHold })
        }
        Constraint::JsonSchema(shape) => json_grammar(shape),
        Constraint::Regex(pattern) => GrammarWithLexer::from_regex(&pattern),
        Constraint::Choice(choices) => {
            let quoted = choices.into_iter().map(|choice| Value::String(choice).to_string());
            let quoted = quoted.collect::<Vec<_>>().join(" | ");
            GrammarWithLexer::from_lark(format!("start: CHOICE\nCHOICE: {quoted}"))
        }
        Constraint::Lark(text) => GrammarWithLexer::from_lark(text),
    }
}

fn json_grammar(shape: JsonShape) -> GrammarWithLexer {
    let mut options = JsonCompileOptions {
        whitespace_flexible: false,
        lenient: shape.keywords == Keywords::BestEffort,
        ..JsonCompileOptions::default()
    };
    match shape.whitespace {
        Whitespace::OneSpace => {
            // Both are regular expressions.
            ", ?".clone_into(&mut options.item_separator);
            ": ?".clone_into(&mut options.key_separator);
        }
        Whitespace::Nothing => {}
        Whitespace::Pattern(pattern) => options.whitespace_pattern = Some(pattern),
    }
    let mut schema = match schema::exact(shape.schema) {
        // The options travel inside the schema, so it must be an object.
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({ "enum": [] }),
        schema => schema,
    };
    options.apply_to(&mut schema);
    GrammarWithLexer::from_json_schema(schema)
}

/// Where a leading space is not delivered the text may have one more.
fn spaced(mut body: GrammarWithLexer, leading_space: LeadingSpace) -> TopLevelGrammar {
    if leading_space == LeadingSpace::Kept {
        return TopLevelGrammar::from_grammar(body);
    }
    body.name = Some("body".to_owned());
    let start = GrammarWithLexer::from_lark("start: SPACE? @body\nSPACE: \" \"".to_owned());
    TopLevelGrammar { grammars: vec![start, body], max_tokens: None }
}

/// A message of the library's without the state and the backtraces that it may carry.
pub(super) fn plain(message: &str) -> String {
    let end = message.find("\n<").unwrap_or(message.len());
    let message = message[..end].trim();
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((index, _)) => format!("{}…", &message[..index]),
        None => message.to_owned(),
    }
}
