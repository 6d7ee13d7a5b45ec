//! What the template engine does unlike Python or Jinja2, in ways that templates can tell: methods
//! that its own collection lacks, tests and conversions that decide otherwise, floats.

use minijinja::value::{Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat;

/// Calls `method` of `value`.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(result) = text_method(text, method, args)
    {
        return result;
    }
    match (value.kind(), method) {
        (ValueKind::Seq, "index") => index(value, args),
        (ValueKind::Map, "copy") => from_args::<()>(args).map(|()| value.clone()),
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Methods of text that are not in the collection; `None` for all others.
fn text_method(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    let result = match method {
        "removeprefix" => from_args(args)
            .map(|(prefix,): (&str,)| text.strip_prefix(prefix).unwrap_or(text).into()),
        "removesuffix" => from_args(args)
            .map(|(suffix,): (&str,)| text.strip_suffix(suffix).unwrap_or(text).into()),
        "rsplit" => rsplit(text, args),
        "partition" => from_args(args).map(|(mark,): (&str,)| match text.split_once(mark) {
            Some((before, after)) => triple(before, mark, after),
            None => triple(text, "", ""),
        }),
        "rpartition" => from_args(args).map(|(mark,): (&str,)| match text.rsplit_once(mark) {
            Some((before, after)) => triple(before, mark, after),
            None => triple("", "", text),
        }),
        "index" => from_args(args).and_then(|(part,): (&str,)| match text.find(part) {
            Some(at) => Ok(Value::from(text[..at].chars().count())),
            None => Err(Error::new(ErrorKind::InvalidOperation, "index: not in the text")),
        }),
        "casefold" => from_args(args).map(|()| text.to_lowercase().into()),
        _ => return None,
    };
    Some(result)
}

fn triple(before: &str, mark: &str, after: &str) -> Value {
    Value::from(Tuple::from([before, mark, after].map(Value::from)))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (mark, max_splits): (Option<&str>, Option<i64>) = from_args(args)?;
    let max_splits = max_splits.and_then(|num| usize::try_from(num).ok());
    if mark == Some("") {
        return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
    }
    let mut parts = Vec::new();
    let mut rest = match mark {
        Some(_) => text,
        None => text.trim_end(),
    };
    while max_splits.is_none_or(|max| parts.len() < max) {
        let split = match mark {
            Some(mark) => rest.rsplit_once(mark),
            None => rest.rsplit_once(char::is_whitespace).map(|(a, b)| (a.trim_end(), b)),
        };
        let Some((before, part)) = split else { break };
        parts.push(part);
        rest = before;
    }
    if mark.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    Ok(parts.into_iter().rev().map(Value::from).collect())
}

fn index(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (&Value,) = from_args(args)?;
    match list.try_iter()?.position(|item| item == *wanted) {
        Some(at) => Ok(Value::from(at)),
        None => Err(Error::new(ErrorKind::InvalidOperation, "index: not in the list")),
    }
}

/// The test `sequence`: whether `value` has a length and items, as texts and mappings do too.
pub(super) fn is_sequence(value: &Value) -> bool {
    let kind = value.kind();
    value.is_undefined() || matches!(kind, ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// The test `iterable`. The engine takes `none` for an empty list.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The filter `int`: `default`, or zero, for what is no number.
pub(super) fn int(value: &Value, default: Option<Value>) -> Value {
    if value.is_integer() {
        return value.clone();
    }
    // As in Python a text may be a float too, of which the fraction is dropped. What is beyond
    // the range of integers is no number here.
    let integer = value.as_str().and_then(|text| text.trim().parse::<i64>().ok());
    let truncated = || number(value).map(f64::trunc).filter(|float| float.abs() < 9e18);
    integer
        .or_else(|| truncated().map(|float| float as i64))
        .map_or_else(|| default.unwrap_or_else(|| Value::from(0)), Value::from)
}

/// The filter `float`: `default`, or zero, for what is no number.
pub(super) fn to_float(value: &Value, default: Option<Value>) -> Value {
    number(value).map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from)
}

fn number(value: &Value) -> Option<f64> {
    match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => value.as_str()?.trim().parse().ok(),
        _ => None,
    }
}

/// Prints `value` as `{{ value }}` does.
pub(super) fn print(
    output: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), Error> {
    if value.is_number() && !value.is_integer() {
        output.write_str(&float(f64::try_from(value.clone())?)).map_err(Error::from)
    } else {
        minijinja::escape_formatter(output, state, value)
    }
}

/// The shortest digits that read back as `value`, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
