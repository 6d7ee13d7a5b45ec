//! Calls as Mistral writes them after `[TOOL_CALLS]`: an array of objects, or in newer models
//! `name[ARGS]{…}`, perhaps with `[CALL_ID]…` before the arguments, one mark for each call.

use super::call::{CallNames, CallReader, CallStep};
use super::mark::{Found, MarkFinder};
use super::parts::Parts;
use super::scan::{JsonScanner, Scan, escaped};

/// Says that calls follow.
pub(super) const MARK: &str = "[TOOL_CALLS]";
/// Stands between a name and its arguments.
pub(super) const ARGS: &str = "[ARGS]";
/// Stands between a name and its id.
pub(super) const CALL_ID: &str = "[CALL_ID]";

/// Longest name of a tool, marks and id included.
const MAX_NAME_BYTES: usize = 256;

#[derive(Debug)]
enum State {
    Text(MarkFinder),
    /// After the mark: an array, an object, or a name.
    Opened,
    /// In an array: the next call, or after one a comma or the end.
    InArray(Place),
    Call(Box<CallReader>),
    /// A name, what follows it up to its arguments.
    Name(String),
    Arguments(JsonScanner),
}

/// Where in an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    BeforeCall,
    AfterCall,
}

/// Reads an answer in which calls may stand anywhere.
#[derive(Debug)]
pub(super) struct MistralParser {
    state: State,
    /// The mark and what came after it, as long as it may prove to be text.
    raw: String,
    is_array: bool,
    has_calls: bool,
}

impl MistralParser {
    pub(super) fn new() -> Self {
        let state = State::Text(MarkFinder::new(MARK));
        Self { state, raw: String::new(), is_array: false, has_calls: false }
    }

    /// Takes the next character.
    pub(super) fn push(&mut self, c: char, parts: &mut Parts) {
        match &mut self.state {
            State::Text(finder) => match finder.push(c) {
                Found::Text(text) => parts.content(&text),
                Found::Mark(space) => {
                    self.raw = space + MARK;
                    self.is_array = false;
                    self.state = State::Opened;
                }
            },
            State::Opened => self.push_opened(c, parts),
            State::InArray(place) => {
                let place = *place;
                self.push_in_array(place, c, parts);
            }
            State::Call(reader) => match reader.push(c, parts) {
                CallStep::Inside => {}
                CallStep::Ended => self.end_call(),
                CallStep::Bad => {
                    let unused = reader.unused().to_owned();
                    if !unused.is_empty() {
                        parts.content(&self.raw);
                        parts.content(&unused);
                    }
                    self.give_up(c, parts);
                }
            },
            State::Name(text) => {
                text.push(c);
                self.raw.push(c);
                self.read_name(parts);
            }
            State::Arguments(scanner) => {
                let escape = if scanner.is_in_string() { escaped(c) } else { None };
                let scan = scanner.push(c);
                if matches!(scan, Scan::Bad | Scan::EndedBefore) {
                    return self.give_up(c, parts);
                }
                let mut utf8 = [0; 4];
                parts.call_arguments(escape.as_deref().unwrap_or(c.encode_utf8(&mut utf8)));
                if scan == Scan::Ended {
                    self.end_call();
                }
            }
        }
    }

    fn push_opened(&mut self, c: char, parts: &mut Parts) {
        self.raw.push(c);
        match c {
            c if c.is_whitespace() => {}
            '[' => {
                self.is_array = true;
                self.state = State::InArray(Place::BeforeCall);
            }
            '{' => self.begin_object(c, parts),
            c if is_name_char(c) => self.state = State::Name(c.to_string()),
            _ => self.refuse(c, parts),
        }
    }

    fn push_in_array(&mut self, place: Place, c: char, parts: &mut Parts) {
        self.raw.push(c);
        match (place, c) {
            (_, c) if c.is_whitespace() => {}
            (Place::BeforeCall, '{') => self.begin_object(c, parts),
            (Place::AfterCall, ',') => self.state = State::InArray(Place::BeforeCall),
            (Place::AfterCall, ']') => self.state = State::Text(MarkFinder::new(MARK)),
            _ => self.refuse(c, parts),
        }
    }

    fn begin_object(&mut self, c: char, parts: &mut Parts) {
        // The reader keeps this character itself.
        self.raw.pop();
        let mut reader = CallReader::new(CallNames::Any);
        reader.push(c, parts);
        self.state = State::Call(Box::new(reader));
    }

    /// Looks at the name that was read so far, and at what follows it.
    fn read_name(&mut self, parts: &mut Parts) {
        let State::Name(text) = &self.state else {
            return;
        };
        let is_complete = text.ends_with('{');
        let all = text.strip_suffix('{').unwrap_or(text);
        let len = all.find(|c| !is_name_char(c)).unwrap_or(all.len());
        let (name, rest) = all.split_at(len);
        let rest = rest.trim_start();
        let is_good = match (is_complete, rest.strip_prefix(CALL_ID)) {
            (true, None) => rest.is_empty() || rest.trim_end() == ARGS,
            (true, Some(id)) => id.trim_end().ends_with(ARGS),
            (false, None) => ARGS.starts_with(rest.trim_end()) || CALL_ID.starts_with(rest),
            (false, Some(_)) => true,
        };
        if !is_good || text.len() > MAX_NAME_BYTES {
            let raw = std::mem::take(&mut self.raw);
            return self.go_on_as_text(&raw, parts);
        }
        if is_complete {
            parts.call_start(name.to_owned());
            parts.call_arguments("{");
            let mut scanner = JsonScanner::new();
            scanner.push('{');
            self.state = State::Arguments(scanner);
        }
    }

    fn end_call(&mut self) {
        self.has_calls = true;
        self.raw.clear();
        self.state = if self.is_array {
            State::InArray(Place::AfterCall)
        } else {
            State::Text(MarkFinder::new(MARK))
        };
    }

    /// What stands here is no call. It came with `raw`, whose last character is `c`.
    fn refuse(&mut self, c: char, parts: &mut Parts) {
        self.raw.pop();
        let raw = std::mem::take(&mut self.raw);
        parts.content(&raw);
        self.give_up(c, parts);
    }

    /// Back to text, at `c`.
    fn give_up(&mut self, c: char, parts: &mut Parts) {
        self.raw.clear();
        self.state = State::Text(MarkFinder::new(MARK));
        self.push(c, parts);
    }

    /// All of `raw`, a mark that led to no call and what follows it, is text.
    fn go_on_as_text(&mut self, raw: &str, parts: &mut Parts) {
        let mark = raw.find(MARK).map_or(0, |at| at + MARK.len());
        parts.content(&raw[..mark]);
        self.state = State::Text(MarkFinder::new(MARK));
        for c in raw[mark..].chars() {
            self.push(c, parts);
        }
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, parts: &mut Parts) {
        match &mut self.state {
            State::Text(finder) => {
                let held = finder.take();
                if !(self.has_calls && held.trim().is_empty()) {
                    parts.content(&held);
                }
            }
            // After a call only the array's end is missing.
            State::InArray(_) if !self.raw.contains(MARK) => {}
            State::Opened | State::Name(_) | State::InArray(_) => parts.content(&self.raw),
            State::Call(reader) => {
                if !reader.unused().is_empty() {
                    parts.content(&self.raw);
                    parts.content(reader.unused());
                }
            }
            State::Arguments(_) => {}
        }
        self.raw.clear();
        self.state = State::Text(MarkFinder::new(MARK));
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}
