//! Follows a JSON value character by character, to know where it ends and whether it is one.
//!
//! Strict but for one thing: control characters may stand in strings as they are, because models
//! write line breaks there. Neighbours: `call` and `mistral`, which pass the text on.

/// Deepest nesting: what readers of JSON usually take.
const MAX_DEPTH: usize = 127;

/// What a character did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// It belongs to the value, which goes on.
    Inside,
    /// It ended the value.
    Ended,
    /// The value, a number, had ended before it.
    EndedBefore,
    /// It cannot stand here: this is not JSON.
    Bad,
}

/// What a scanner expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// After `[`.
    ValueOrEnd,
    /// After `{`.
    KeyOrEnd,
    Key,
    Colon,
    AfterValue,
    String(Place, Escape),
    Number,
    /// The rest of a literal.
    Literal(&'static str),
    Ended,
}

/// Whether a string is a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Key,
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    /// Hexadecimal digits that are still to come.
    Hex(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Follows one value.
#[derive(Debug)]
pub(super) struct JsonScanner {
    state: State,
    stack: Vec<Container>,
    /// The number that is being read.
    number: String,
}

impl JsonScanner {
    /// Expects the value's first character, or white space before it.
    pub(super) fn new() -> Self {
        Self { state: State::Value, stack: Vec::new(), number: String::new() }
    }

    /// Whether the next character is inside of a string.
    pub(super) fn is_in_string(&self) -> bool {
        matches!(self.state, State::String(..))
    }

    /// Takes the next character. Nothing may follow the value's end.
    pub(super) fn push(&mut self, c: char) -> Scan {
        let is_number = matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
        if self.state == State::Number {
            if is_number {
                self.number.push(c);
                return Scan::Inside;
            }
            if !is_json_number(&self.number) {
                return Scan::Bad;
            }
            if self.end_value() == Scan::Ended {
                return Scan::EndedBefore;
            }
        }
        match self.state {
            State::String(place, escape) => self.push_in_string(place, escape, c),
            State::Literal(rest) => self.push_in_literal(rest, c),
            _ if matches!(c, ' ' | '\t' | '\n' | '\r') && self.state != State::Ended => {
                Scan::Inside
            }
            State::Value | State::ValueOrEnd => self.begin_value(c),
            State::KeyOrEnd | State::Key => match c {
                '"' => self.go_on(State::String(Place::Key, Escape::None)),
                '}' if self.state == State::KeyOrEnd => self.close(Container::Object),
                _ => Scan::Bad,
            },
            State::Colon if c == ':' => self.go_on(State::Value),
            State::AfterValue => self.push_after_value(c),
            State::Colon | State::Number | State::Ended => Scan::Bad,
        }
    }

    fn go_on(&mut self, state: State) -> Scan {
        self.state = state;
        Scan::Inside
    }

    fn begin_value(&mut self, c: char) -> Scan {
        match c {
            '{' => self.open(Container::Object),
            '[' => self.open(Container::Array),
            ']' if self.state == State::ValueOrEnd => self.close(Container::Array),
            '"' => self.go_on(State::String(Place::Value, Escape::None)),
            't' => self.go_on(State::Literal("rue")),
            'f' => self.go_on(State::Literal("alse")),
            'n' => self.go_on(State::Literal("ull")),
            '-' | '0'..='9' => {
                self.number.clear();
                self.number.push(c);
                self.go_on(State::Number)
            }
            _ => Scan::Bad,
        }
    }

    fn open(&mut self, container: Container) -> Scan {
        if self.stack.len() >= MAX_DEPTH {
            return Scan::Bad;
        }
        self.stack.push(container);
        self.go_on(match container {
            Container::Object => State::KeyOrEnd,
            Container::Array => State::ValueOrEnd,
        })
    }

    fn close(&mut self, container: Container) -> Scan {
        if self.stack.pop() != Some(container) {
            return Scan::Bad;
        }
        self.end_value()
    }

    /// A value ended: the outermost one or another.
    fn end_value(&mut self) -> Scan {
        if self.stack.is_empty() {
            self.state = State::Ended;
            return Scan::Ended;
        }
        self.go_on(State::AfterValue)
    }

    fn push_after_value(&mut self, c: char) -> Scan {
        match (c, self.stack.last()) {
            (',', Some(Container::Object)) => self.go_on(State::Key),
            (',', Some(Container::Array)) => self.go_on(State::Value),
            ('}', _) => self.close(Container::Object),
            (']', _) => self.close(Container::Array),
            _ => Scan::Bad,
        }
    }

    fn push_in_string(&mut self, place: Place, escape: Escape, c: char) -> Scan {
        let escape = match (escape, c) {
            (Escape::None, '"') => {
                return match place {
                    Place::Key => self.go_on(State::Colon),
                    Place::Value => self.end_value(),
                };
            }
            (Escape::None, '\\') => Escape::Backslash,
            (Escape::Backslash, 'u') => Escape::Hex(4),
            (Escape::None, _)
            | (Escape::Backslash, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => Escape::None,
            (Escape::Hex(1), c) if c.is_ascii_hexdigit() => Escape::None,
            (Escape::Hex(left), c) if c.is_ascii_hexdigit() => Escape::Hex(left - 1),
            (Escape::Backslash | Escape::Hex(_), _) => return Scan::Bad,
        };
        self.go_on(State::String(place, escape))
    }

    fn push_in_literal(&mut self, rest: &'static str, c: char) -> Scan {
        match rest.strip_prefix(c) {
            Some("") => self.end_value(),
            Some(rest) => self.go_on(State::Literal(rest)),
            None => Scan::Bad,
        }
    }
}

fn is_json_number(text: &str) -> bool {
    serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// `c` as it may stand in a string of JSON, which control characters may not.
pub(super) fn escaped(c: char) -> Option<String> {
    match c {
        '\n' => Some("\\n".to_owned()),
        '\r' => Some("\\r".to_owned()),
        '\t' => Some("\\t".to_owned()),
        c if c < ' ' => Some(format!("\\u{:04x}", u32::from(c))),
        _ => None,
    }
}
