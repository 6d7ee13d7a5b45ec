//! Words, numbers and signs of an expression, each with its place.

use crate::sched::{PolicyError, SpecText};

/// A word of the language.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Number(f64),
    Name(&'a str),
    Sign(&'static str),
    End,
}

/// All signs, those that begin like another before that one.
const SIGNS: [&str; 20] = [
    "&&", "||", "<=", ">=", "==", "!=", "+", "-", "*", "/", "%", "<", ">", "!", "?", ":", "(", ")",
    ",", "&",
];

/// The tokens of `text` and the byte at which each begins; the last is [`Token::End`].
pub(super) fn tokens(text: SpecText<'_>) -> Result<Vec<(Token<'_>, usize)>, PolicyError> {
    let source = text.text();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = source[at..].chars().next() {
        let rest = &source[at..];
        let (token, length) = if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        } else if c.is_ascii_digit() || c == '.' {
            number(rest).ok_or_else(|| {
                let word = &rest[..number_length(rest)];
                text.error_at(at, format!("{word:?} is not a number"))
            })?
        } else if c.is_ascii_alphabetic() || c == '_' {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            (Token::Name(&rest[..length]), length)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err(text.error_at(at, format!("{c:?} means nothing here{}", hint(c))));
        };
        tokens.push((token, at));
        at += length;
    }
    tokens.push((Token::End, source.len()));
    Ok(tokens)
}

fn hint(c: char) -> &'static str {
    match c {
        '=' => "; to compare, write ==",
        '|' => "; to combine, write ||",
        '^' => "; there are no powers: multiply",
        _ => "",
    }
}

/// Digits with a fraction and an exponent, and how many bytes they take.
fn number(text: &str) -> Option<(Token<'_>, usize)> {
    let length = number_length(text);
    let value: f64 = text[..length].parse().ok()?;
    value.is_finite().then_some((Token::Number(value), length))
}

/// Everything that is glued to the digits, so that `3x` and `1.2.3` are not taken apart.
fn number_length(text: &str) -> usize {
    let mut previous = ' ';
    let is_over = |c: char| {
        let is_exponent_sign = matches!(c, '+' | '-') && matches!(previous, 'e' | 'E');
        previous = c;
        !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || is_exponent_sign)
    };
    text.find(is_over).unwrap_or(text.len())
}
