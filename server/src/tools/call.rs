//! Reads a call that is one JSON object: `{"name": "…", "arguments": {…}}`.
//!
//! The arguments are passed on while they are read, as soon as the name is known, in whichever
//! order the two come. `parameters` is another name for `arguments`. Arguments may also be a
//! string with an object in it, or null for none. Nothing comes out of a text before it is
//! certain that it is a call; what goes wrong later leaves the call as it is.

use std::sync::Arc;

use serde_json::Value;

use super::parts::Parts;
use super::scan::{JsonScanner, Scan, escaped};

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallStep {
    /// The call goes on.
    Inside,
    /// It ended the call.
    Ended,
    /// This is not a call, or no longer one. The character is not part of it.
    Bad,
}

/// Which JSON counts as a call.
#[derive(Clone, Debug)]
pub(super) enum CallNames {
    /// Any with a name: a mark has said that it is a call.
    Any,
    /// Only one of these tools', with no other fields: there is no mark.
    OneOf(Arc<[String]>),
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    KeyOrEnd,
    Key,
    InKey,
    Colon,
    BeforeValue(Field),
    InValue(Field),
    AfterValue,
}

/// What a value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    /// Arguments that have to be complete before they can be passed on.
    Arguments,
    /// Arguments that are passed on as they come.
    StreamedArguments,
    Other,
}

/// Reads one object.
#[derive(Debug)]
pub(super) struct CallReader {
    names: CallNames,
    state: State,
    /// Follows the key or the value that is being read.
    scanner: JsonScanner,
    /// The key or the value that is being read, where it is kept.
    text: String,
    /// All text, as long as nothing came out of it.
    raw: String,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    is_started: bool,
}

impl CallReader {
    /// Expects the opening brace next.
    pub(super) fn new(names: CallNames) -> Self {
        Self {
            names,
            state: State::Open,
            scanner: JsonScanner::new(),
            text: String::new(),
            raw: String::new(),
            name: None,
            arguments: None,
            is_started: false,
        }
    }

    /// What was read, if nothing came out of it.
    pub(super) fn unused(&self) -> &str {
        if self.is_started { "" } else { &self.raw }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, parts: &mut Parts) -> CallStep {
        let step = self.step(c, parts);
        if step != CallStep::Bad && !self.is_started {
            self.raw.push(c);
        }
        step
    }

    fn step(&mut self, c: char, parts: &mut Parts) -> CallStep {
        let is_space = matches!(c, ' ' | '\t' | '\n' | '\r');
        let next = match (self.state, c) {
            (State::InKey, _) => return self.step_in_key(c),
            (State::InValue(field), _) => return self.step_in_value(field, c, parts),
            (State::Open, '{') => State::KeyOrEnd,
            (State::Open, _) => return CallStep::Bad,
            (state, _) if is_space => state,
            (State::KeyOrEnd | State::Key, '"') => {
                self.begin(c);
                State::InKey
            }
            (State::KeyOrEnd | State::AfterValue, '}') => return self.end(parts),
            (State::Colon, ':') => State::BeforeValue(self.field()),
            (State::BeforeValue(field), _) => return self.begin_value(field, c, parts),
            (State::AfterValue, ',') => State::Key,
            _ => return CallStep::Bad,
        };
        self.state = next;
        CallStep::Inside
    }

    /// A key or a value begins with `c`.
    fn begin(&mut self, c: char) -> Scan {
        self.scanner = JsonScanner::new();
        self.text.clear();
        self.text.push(c);
        self.scanner.push(c)
    }

    fn step_in_key(&mut self, c: char) -> CallStep {
        self.push_kept(c);
        match self.scanner.push(c) {
            Scan::Inside => CallStep::Inside,
            Scan::Ended => {
                self.state = State::Colon;
                let is_odd = self.field() == Field::Other && !self.takes_other_fields();
                if is_odd { CallStep::Bad } else { CallStep::Inside }
            }
            Scan::EndedBefore | Scan::Bad => CallStep::Bad,
        }
    }

    fn push_kept(&mut self, c: char) {
        match escaped(c) {
            Some(escape) if self.scanner.is_in_string() => self.text.push_str(&escape),
            _ => self.text.push(c),
        }
    }

    /// What the value of the key that was read is for. Of fields that are there twice the first
    /// counts.
    fn field(&self) -> Field {
        match self.text.as_str() {
            "\"name\"" if self.name.is_none() => Field::Name,
            "\"arguments\"" | "\"parameters\"" if !self.is_started && self.arguments.is_none() => {
                Field::Arguments
            }
            _ => Field::Other,
        }
    }

    /// Whether other fields may stand beside the two: without a mark only those that models are
    /// known to write.
    fn takes_other_fields(&self) -> bool {
        matches!(self.names, CallNames::Any)
            || matches!(self.text.as_str(), "\"type\"" | "\"id\"" | "\"name\"")
            || matches!(self.text.as_str(), "\"arguments\"" | "\"parameters\"")
    }

    fn begin_value(&mut self, field: Field, c: char, parts: &mut Parts) -> CallStep {
        if self.begin(c) == Scan::Bad {
            return CallStep::Bad;
        }
        let mut field = field;
        if let (Field::Arguments, '{', Some(name)) = (field, c, &self.name) {
            field = Field::StreamedArguments;
            parts.call_start(name.clone());
            parts.call_arguments("{");
            self.is_started = true;
        }
        self.state = State::InValue(field);
        CallStep::Inside
    }

    fn step_in_value(&mut self, field: Field, c: char, parts: &mut Parts) -> CallStep {
        let was_in_string = self.scanner.is_in_string();
        let scan = self.scanner.push(c);
        match scan {
            Scan::Bad => return CallStep::Bad,
            Scan::EndedBefore => {}
            Scan::Inside | Scan::Ended => {
                let escape = if was_in_string { escaped(c) } else { None };
                let mut utf8 = [0; 4];
                let text = escape.as_deref().unwrap_or_else(|| c.encode_utf8(&mut utf8));
                match field {
                    Field::StreamedArguments => parts.call_arguments(text),
                    Field::Name | Field::Arguments => self.text.push_str(text),
                    Field::Other => {}
                }
            }
        }
        if scan == Scan::Inside {
            return CallStep::Inside;
        }
        self.state = State::AfterValue;
        if !self.end_value(field, parts) {
            return CallStep::Bad;
        }
        if scan == Scan::EndedBefore { self.step(c, parts) } else { CallStep::Inside }
    }

    /// Whether the value that ended is as it must be.
    fn end_value(&mut self, field: Field, parts: &mut Parts) -> bool {
        match field {
            Field::Other | Field::StreamedArguments => true,
            Field::Name => {
                let name = serde_json::from_str::<String>(&self.text).unwrap_or_default();
                if name.is_empty() || !self.is_known(&name) {
                    return false;
                }
                self.name = Some(name);
                self.start_if_complete(parts);
                true
            }
            Field::Arguments => {
                let Some(arguments) = whole_arguments(&self.text) else {
                    return false;
                };
                self.arguments = Some(arguments);
                self.start_if_complete(parts);
                true
            }
        }
    }

    fn is_known(&self, name: &str) -> bool {
        match &self.names {
            CallNames::Any => true,
            CallNames::OneOf(names) => names.iter().any(|one| one == name),
        }
    }

    fn start_if_complete(&mut self, parts: &mut Parts) {
        if let (Some(name), Some(arguments)) = (&self.name, &self.arguments) {
            parts.call_start(name.clone());
            parts.call_arguments(arguments);
            self.is_started = true;
        }
    }

    fn end(&mut self, parts: &mut Parts) -> CallStep {
        if !self.is_started {
            let Some(name) = self.name.clone() else {
                return CallStep::Bad;
            };
            parts.call_start(name);
            parts.call_arguments("{}");
            self.is_started = true;
        }
        CallStep::Ended
    }
}

/// The object that arguments of any kind stand for: an object, a string with one, or null.
fn whole_arguments(text: &str) -> Option<String> {
    match text.chars().next() {
        Some('{') => Some(text.to_owned()),
        Some('"') => {
            let inner: String = serde_json::from_str(text).ok()?;
            let is_object = serde_json::from_str::<Value>(&inner).is_ok_and(|v| v.is_object());
            is_object.then_some(inner)
        }
        Some('n') => Some("{}".to_owned()),
        _ => None,
    }
}
