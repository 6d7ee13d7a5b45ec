//! A Lark grammar before it is compiled: held against the limits, and against what sampling would
//! have to follow and does not.

use serde_json::Value;

use super::compiler::Refusal;
use super::limits::Limits;
use super::schema;
use crate::openai::Keywords;

/// Holds a grammar against the limits.
pub(super) fn check(grammar: &str, limits: &Limits) -> Result<(), Refusal> {
    if grammar.trim().is_empty() {
        return Err(Refusal::invalid("", "is empty"));
    }
    if grammar.contains("::=") {
        let message = "looks like EBNF or GBNF (it has ::=): this server reads Lark grammars, \
                       with rules such as `start: \"yes\" | \"no\"`";
        return Err(Refusal::unsupported("", message));
    }
    if depth(grammar) > limits.max_depth {
        let message = format!("has brackets more than {} deep", limits.max_depth);
        return Err(Refusal::invalid("", message));
    }
    if let Some(line) = grammar.lines().find(|line| sets_temperature(line)) {
        let message = format!("sets a temperature for a rule, which is not supported: {line}");
        return Err(Refusal::unsupported("", message));
    }
    if intersects(grammar) {
        let message = "intersects terminals with &, which is not supported";
        return Err(Refusal::unsupported("", message));
    }
    for rest in grammar.split("%json").skip(1) {
        // What is not JSON there is for the compiler to refuse.
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        if let Some(Ok(embedded)) = values.next() {
            schema::check(&embedded, Keywords::MustHold, limits)?;
        }
    }
    Ok(())
}

/// Brackets within each other, those in strings and patterns too.
fn depth(grammar: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for byte in grammar.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Whether a line begins a rule with an attribute that sampling would have to follow.
fn sets_temperature(line: &str) -> bool {
    let attributes = line.split_once('[').and_then(|(name, rest)| {
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        rest.split_once(']').filter(|_| is_name).map(|(attributes, _)| attributes)
    });
    attributes.is_some_and(|attributes| attributes.contains("temperature"))
}

/// Whether there is an `&` outside of strings, patterns and comments. Intersections multiply the
/// cases of their parts, which the library does not count.
fn intersects(grammar: &str) -> bool {
    let mut quote = None;
    let mut bytes = grammar.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(end), byte) if byte == end => quote = None,
            (None, b'#') => quote = Some(b'\n'),
            (None, b'/') => {
                let is_comment = bytes.peek() == Some(&b'/');
                quote = Some(if is_comment { b'\n' } else { b'/' });
            }
            (None, b'"') => quote = Some(byte),
            (None, b'&') => return true,
            _ => {}
        }
    }
    false
}
