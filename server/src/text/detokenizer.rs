//! Token ids in, text out, one token at a time.
//!
//! Invariants: what `push` and `finish` return, joined, is what [`Tokenizer::decode`] makes of the
//! whole list, because that is how it is made. A character never comes in two parts. At most
//! three bytes, one token of a vocabulary that marks word ends, and the characters that a
//! final trim may still take are held back; broken bytes show as soon as they are broken.

use std::sync::Arc;

use folio_engine::types::TokenId;

use super::decoding::{Decoding, Piece, Place, Trim};
use super::tokenizer::Tokenizer;

/// Which tokens leave no trace in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// The special ones, such as the end of a turn.
    Special,
    /// None.
    Nothing,
}

/// The text of a growing list of tokens. One for each stream; each token costs the same.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip: Skip,
    /// Special tokens that are not skipped.
    shown: Arc<[TokenId]>,
    state: State,
}

impl Detokenizer {
    /// Starts at the beginning of a text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip: Skip) -> Self {
        let state = State::new(tokenizer.decoding());
        Self { tokenizer, skip, shown: Arc::new([]), state }
    }

    /// Shows these special tokens, such as the marks of a tool call, whatever is skipped.
    #[must_use]
    pub fn showing(mut self, tokens: &Arc<[TokenId]>) -> Self {
        self.shown = Arc::clone(tokens);
        self
    }

    /// Takes one more token and returns the text that became certain with it: often the token's
    /// own, empty while a character is incomplete or the token is skipped. An id outside the
    /// vocabulary (models may have more rows than tokens) has no text.
    pub fn push(&mut self, id: TokenId) -> String {
        let mut text = String::new();
        let skip = if self.shown.contains(&id) { Skip::Nothing } else { self.skip };
        push_token(&mut self.state, &self.tokenizer, id, skip, &mut text);
        text
    }

    /// Ends the text and returns what was held back. Then it is at a beginning again.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        let state = std::mem::replace(&mut self.state, State::new(self.tokenizer.decoding()));
        state.finish(self.tokenizer.decoding(), &mut text);
        text
    }
}

/// The text of a whole list of tokens.
pub(super) fn decode(tokenizer: &Tokenizer, ids: &[TokenId], skip: Skip) -> String {
    let mut text = String::new();
    let mut state = State::new(tokenizer.decoding());
    for &id in ids {
        push_token(&mut state, tokenizer, id, skip, &mut text);
    }
    state.finish(tokenizer.decoding(), &mut text);
    text
}

fn push_token(
    state: &mut State,
    tokenizer: &Tokenizer,
    id: TokenId,
    skip: Skip,
    text: &mut String,
) {
    if skip == Skip::Special && tokenizer.is_special(id) {
        return;
    }
    if let Some(spelling) = tokenizer.decoded_spelling(id) {
        state.push(tokenizer.decoding(), spelling, text);
    }
}

#[derive(Debug)]
struct State {
    is_first: bool,
    /// The last token, where its text depends on there being another.
    held: Option<String>,
    assembler: Assembler,
    trimmer: Trimmer,
}

impl State {
    fn new(decoding: &Decoding) -> Self {
        Self {
            is_first: true,
            held: None,
            assembler: Assembler::default(),
            trimmer: Trimmer::new(decoding.trim()),
        }
    }

    fn push(&mut self, decoding: &Decoding, spelling: String, text: &mut String) {
        let spelling =
            if decoding.looks_ahead() { self.held.replace(spelling) } else { Some(spelling) };
        if let Some(spelling) = spelling {
            let place = Place { is_first: self.is_first, is_last: false };
            self.add(decoding, spelling, place, text);
        }
    }

    fn finish(mut self, decoding: &Decoding, text: &mut String) {
        if let Some(spelling) = self.held.take() {
            let place = Place { is_first: self.is_first, is_last: true };
            self.add(decoding, spelling, place, text);
        }
        let mut rest = String::new();
        self.assembler.flush(&mut rest);
        self.trimmer.push(&rest, text);
    }

    fn add(&mut self, decoding: &Decoding, spelling: String, place: Place, text: &mut String) {
        self.is_first = false;
        let mut joined = String::new();
        self.assembler.push(decoding.piece(spelling, place), &mut joined);
        self.trimmer.push(&joined, text);
    }
}

/// Makes characters of bytes that come in any portions.
#[derive(Debug, Default)]
struct Assembler {
    /// The beginning of a character: fewer than four bytes.
    pending: Vec<u8>,
    broken: Broken,
}

/// How many replacement characters a broken sequence of bytes becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Broken {
    #[default]
    OneEach,
    OnePerByte,
}

impl Assembler {
    fn push(&mut self, piece: Piece, text: &mut String) {
        match piece {
            Piece::Text(piece) => {
                self.flush(text);
                text.push_str(&piece);
            }
            Piece::Bytes(bytes) => {
                self.broken = Broken::OneEach;
                self.pending.extend(bytes);
                self.take_characters(text);
            }
            Piece::Byte(byte) => {
                self.broken = Broken::OnePerByte;
                self.pending.push(byte);
                self.take_characters(text);
            }
        }
    }

    /// Moves to `text` all but the beginning of a character that may yet be completed.
    fn take_characters(&mut self, text: &mut String) {
        let mut num_taken = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            num_taken += chunk.valid().len();
            let invalid = chunk.invalid();
            let ends_here = num_taken + invalid.len() == self.pending.len();
            if ends_here && may_continue(invalid) {
                break;
            }
            push_replacements(self.broken, invalid, text);
            num_taken += invalid.len();
        }
        self.pending.drain(..num_taken);
    }

    /// Moves everything to `text`; a character that has only begun is broken.
    fn flush(&mut self, text: &mut String) {
        push_replacements(self.broken, &self.pending, text);
        self.pending.clear();
    }
}

/// Whether more bytes could make a character of these.
fn may_continue(bytes: &[u8]) -> bool {
    // `error_len` is `None` exactly when the input ended too early.
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

fn push_replacements(broken: Broken, invalid: &[u8], text: &mut String) {
    let num = match broken {
        Broken::OneEach => usize::from(!invalid.is_empty()),
        Broken::OnePerByte => invalid.len(),
    };
    text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, num));
}

/// Takes a character off the two ends of a text that comes in portions.
#[derive(Debug)]
struct Trimmer {
    trim: Trim,
    /// How many may still be taken off the start.
    num_at_start: usize,
    /// How many at the end so far are held back, for they would be taken if this were the end.
    num_held: usize,
}

impl Trimmer {
    fn new(trim: Trim) -> Self {
        Self { trim, num_at_start: trim.start, num_held: 0 }
    }

    fn push(&mut self, portion: &str, text: &mut String) {
        if self.num_at_start == 0 && self.trim.stop == 0 {
            text.push_str(portion);
            return;
        }
        for c in portion.chars() {
            self.push_char(c, text);
        }
    }

    fn push_char(&mut self, c: char, text: &mut String) {
        let is_content = c == self.trim.content;
        if is_content && self.num_at_start > 0 {
            self.num_at_start -= 1;
        } else if is_content && self.num_held < self.trim.stop {
            self.num_at_start = 0;
            self.num_held += 1;
        } else {
            self.num_at_start = 0;
            if !is_content {
                text.extend(std::iter::repeat_n(self.trim.content, self.num_held));
                self.num_held = 0;
            }
            text.push(c);
        }
    }
}
