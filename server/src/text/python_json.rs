//! JSON as Python's `json.dumps` writes it, the `tojson` of chat templates: a space after
//! separators, nothing escaped for HTML, characters beyond ASCII as they are, floats in Python's
//! spelling.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::python;

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
#[expect(clippy::needless_pass_by_value, reason = "the template engine passes arguments by value")]
pub(super) fn tojson(
    value: &Value,
    positional: Rest<Value>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = match positional.get(at) {
            Some(given) => Some(given.clone()),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let is_set = |v: Option<Value>| v.is_some_and(|v| v.is_true());
    let ensures_ascii = is_set(argument(0, "ensure_ascii")?);
    let indent = argument(1, "indent")?.map(|v| indentation(&v)).transpose()?;
    let separators = argument(2, "separators")?.map(|v| pair(&v)).transpose()?;
    let sorts_keys = is_set(argument(3, "sort_keys")?);
    kwargs.assert_all_used()?;
    if positional.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let default_item = if indent.is_some() { "," } else { ", " };
    let separators = separators.unwrap_or_else(|| (default_item.to_owned(), ": ".to_owned()));
    let mut writer =
        Writer { output: String::new(), indent, separators, ensures_ascii, sorts_keys };
    writer.value(value, 0)?;
    Ok(writer.output)
}

/// What `indent` asks for at each level: that many spaces, or the text itself.
fn indentation(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if value.kind() == ValueKind::Bool {
        return Ok(" ".repeat(usize::from(value.is_true())));
    }
    let num = value
        .as_i64()
        .ok_or_else(|| invalid(format!("tojson: indent must be an integer, not {value}")))?;
    let max = 64;
    if num > max {
        return Err(invalid(format!("tojson: indent is {num}, the limit is {max}")));
    }
    Ok(" ".repeat(usize::try_from(num).unwrap_or(0)))
}

/// What `separators` asks for between items and after keys.
fn pair(value: &Value) -> Result<(String, String), Error> {
    let items: Vec<Value> = value.try_iter()?.collect();
    match items.as_slice() {
        [item, key] => Ok((item.to_string(), key.to_string())),
        _ => Err(invalid(format!("tojson: separators must be two, not {}", items.len()))),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Values may nest this deep. The engine's own limit on recursion does not see this walk.
const MAX_DEPTH: usize = 200;

struct Writer {
    output: String,
    indent: Option<String>,
    separators: (String, String),
    ensures_ascii: bool,
    sorts_keys: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!("tojson: nested more than {MAX_DEPTH} deep")));
        }
        match value.kind() {
            ValueKind::None => self.output.push_str("null"),
            ValueKind::Bool => self.output.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.output.push_str(&number(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.object(value, depth)?,
            other => return Err(invalid(format!("tojson: {other} has no form in JSON"))),
        }
        Ok(())
    }

    fn list(&mut self, list: &Value, depth: usize) -> Result<(), Error> {
        self.output.push('[');
        let mut is_empty = true;
        for item in list.try_iter()? {
            self.begin_item(is_empty, depth + 1);
            is_empty = false;
            self.value(&item, depth + 1)?;
        }
        self.close(']', is_empty, depth);
        Ok(())
    }

    fn object(&mut self, object: &Value, depth: usize) -> Result<(), Error> {
        self.output.push('{');
        let mut keys: Vec<Value> = object.try_iter()?.collect();
        if self.sorts_keys {
            keys.sort();
        }
        for (at, key) in keys.iter().enumerate() {
            self.begin_item(at == 0, depth + 1);
            self.key(key)?;
            self.output.push_str(&self.separators.1);
            self.value(&object.get_item(key)?, depth + 1)?;
        }
        self.close('}', keys.is_empty(), depth);
        Ok(())
    }

    fn key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.text(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.output.push('"');
                self.value(key, 0)?;
                self.output.push('"');
            }
            other => return Err(invalid(format!("tojson: {other} cannot be a key"))),
        }
        Ok(())
    }

    fn begin_item(&mut self, is_first: bool, depth: usize) {
        if !is_first {
            self.output.push_str(&self.separators.0);
        }
        self.new_line(depth);
    }

    fn close(&mut self, bracket: char, is_empty: bool, depth: usize) {
        if !is_empty {
            self.new_line(depth);
        }
        self.output.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.output.push('\n');
            self.output.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn text(&mut self, text: &str) {
        self.output.push('"');
        for c in text.chars() {
            match c {
                '"' => self.output.push_str("\\\""),
                '\\' => self.output.push_str("\\\\"),
                '\n' => self.output.push_str("\\n"),
                '\r' => self.output.push_str("\\r"),
                '\t' => self.output.push_str("\\t"),
                '\u{8}' => self.output.push_str("\\b"),
                '\u{c}' => self.output.push_str("\\f"),
                c if c < ' ' || (self.ensures_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.output.push_str("\\u");
                        self.output.extend(hex_digits(*unit));
                    }
                }
                c => self.output.push(c),
            }
        }
        self.output.push('"');
    }
}

fn hex_digits(unit: u16) -> impl Iterator<Item = char> {
    let digit = move |shift: u16| char::from_digit(u32::from(unit >> shift & 0xF), 16);
    [12, 8, 4, 0].into_iter().filter_map(digit)
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let value = f64::try_from(value.clone())?;
    Ok(match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value if value.is_nan() => "NaN".to_owned(),
        value => python::float(value),
    })
}
