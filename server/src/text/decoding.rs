//! What a tokenizer's decoder does, as the steps that a stream can take one token at a time.
//!
//! A decoder of tokenizer.json is defined over the whole list of tokens. Every decoder that
//! models for text use is a chain of per-token maps, one rule that joins tokens into text, and at
//! most one trim of the joined text: in that form each token costs the same however many came
//! before. A decoder that is not of that form is refused when the model loads.
//! Neighbours: `tokenizer` builds it, `detokenizer` runs it.

use tokenizers::decoders::wordpiece;
use tokenizers::normalizers::replace::Replace;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::{Decoder, DecoderWrapper};

/// The steps from vocabulary spellings to text.
#[derive(Debug)]
pub(super) struct Decoding {
    maps: Vec<TokenMap>,
    joining: Joining,
    trim: Trim,
}

/// Where a token stands among those that make the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// No token came before it.
    pub(super) is_first: bool,
    /// No token comes after it.
    pub(super) is_last: bool,
}

impl Place {
    /// Somewhere in the middle.
    pub(super) const INSIDE: Self = Self { is_first: false, is_last: false };
}

/// A change to one token's spelling.
#[derive(Debug)]
enum TokenMap {
    /// Tokens are words: a space before each but the first (a tokenizer without a decoder).
    Words,
    /// A pattern replaced wherever it occurs in the token.
    Replace(Replace),
    /// Characters taken off the token's ends.
    Trim(Trim),
    /// A mark for a space; in the first token dropped where encoding had put one in front.
    Metaspace { mark: char, drops_first: bool },
    /// A prefix marks the tokens that continue a word.
    WordPiece { prefix: String, cleans_up: bool },
    /// A suffix marks the tokens that end a word.
    Suffix(String),
}

/// How the tokens' spellings become one text.
#[derive(Debug)]
enum Joining {
    /// They are text.
    Text,
    /// They are text, but for those that spell one byte as `<0xE3>`.
    ByteFallback,
    /// Each character stands for a byte.
    ByteLevel(ByteAlphabet),
}

/// How many of one character are taken off each end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trim {
    pub(super) content: char,
    pub(super) start: usize,
    pub(super) stop: usize,
}

impl Trim {
    const NOTHING: Self = Self { content: ' ', start: 0, stop: 0 };
}

/// What one token adds to the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Whole characters.
    Text(String),
    /// Bytes of a byte-level vocabulary; characters may begin and end in other tokens. What is
    /// no UTF-8 becomes one replacement character for each maximal broken sequence.
    Bytes(Vec<u8>),
    /// One byte out of a vocabulary of text. What is no UTF-8 becomes one replacement
    /// character for each byte.
    Byte(u8),
}

impl Decoding {
    /// The steps that equal `decoder`; the error names the part that cannot be streamed.
    pub(super) fn new(decoder: Option<&DecoderWrapper>) -> Result<Self, String> {
        let mut decoding = Self { maps: Vec::new(), joining: Joining::Text, trim: Trim::NOTHING };
        match decoder {
            None => decoding.maps.push(TokenMap::Words),
            Some(DecoderWrapper::Sequence(sequence)) => {
                let mut is_fused = false;
                for stage in sequence.get_decoders() {
                    decoding.add(stage, &mut is_fused)?;
                }
            }
            Some(stage) => decoding.add(stage, &mut false)?,
        }
        Ok(decoding)
    }

    fn add(&mut self, stage: &DecoderWrapper, is_fused: &mut bool) -> Result<(), String> {
        use DecoderWrapper as Stage;
        if *is_fused {
            return self.add_after_fuse(stage);
        }
        if matches!(self.joining, Joining::ByteFallback) && !matches!(stage, Stage::Fuse(_)) {
            return Err(format!("decoder {} after ByteFallback is not supported", name(stage)));
        }
        let map = match stage {
            Stage::Replace(replace) => TokenMap::Replace(replace.clone()),
            Stage::Strip(s) => {
                TokenMap::Trim(Trim { content: s.content, start: s.start, stop: s.stop })
            }
            Stage::Metaspace(metaspace) => TokenMap::Metaspace {
                mark: metaspace.get_replacement(),
                drops_first: metaspace.get_prepend_scheme() != PrependScheme::Never,
            },
            Stage::WordPiece(pieces) => {
                TokenMap::WordPiece { prefix: pieces.prefix.clone(), cleans_up: pieces.cleanup }
            }
            Stage::BPE(bpe) => TokenMap::Suffix(bpe.suffix.clone()),
            Stage::Fuse(_) => {
                *is_fused = true;
                return Ok(());
            }
            Stage::ByteFallback(_) => {
                self.joining = Joining::ByteFallback;
                return Ok(());
            }
            Stage::ByteLevel(_) => {
                self.joining = Joining::ByteLevel(ByteAlphabet::new());
                *is_fused = true;
                return Ok(());
            }
            Stage::CTC(_) | Stage::Sequence(_) => {
                return Err(format!("decoder {} is not supported", name(stage)));
            }
        };
        self.maps.push(map);
        Ok(())
    }

    /// After all tokens have become one, only a trim can still be done in a stream.
    fn add_after_fuse(&mut self, stage: &DecoderWrapper) -> Result<(), String> {
        match stage {
            DecoderWrapper::Fuse(_) => Ok(()),
            DecoderWrapper::Strip(s) if self.trim.start == 0 && self.trim.stop == 0 => {
                self.trim = Trim { content: s.content, start: s.start, stop: s.stop };
                Ok(())
            }
            _ => Err(format!("decoder {} after Fuse is not supported", name(stage))),
        }
    }

    /// The trim of the joined text.
    pub(super) fn trim(&self) -> Trim {
        self.trim
    }

    /// Whether a token's text depends on there being another one after it.
    pub(super) fn looks_ahead(&self) -> bool {
        self.maps.iter().any(|map| matches!(map, TokenMap::Suffix(_)))
    }

    /// What the token spelled `spelling` adds at `place`.
    pub(super) fn piece(&self, spelling: String, place: Place) -> Piece {
        let text = self.maps.iter().fold(spelling, |text, map| map.apply(text, place));
        match &self.joining {
            Joining::Text => Piece::Text(text),
            Joining::ByteFallback => match fallback_byte(&text) {
                Some(byte) => Piece::Byte(byte),
                None => Piece::Text(text),
            },
            Joining::ByteLevel(alphabet) => Piece::Bytes(alphabet.bytes(text)),
        }
    }
}

impl TokenMap {
    fn apply(&self, text: String, place: Place) -> String {
        match self {
            Self::Words if place.is_first => text,
            Self::Words => format!(" {text}"),
            // The pattern was compiled at load; should it fail on a text (a backtracking limit),
            // the text as it stands is the best there is.
            Self::Replace(replace) => match replace.decode_chain(vec![text.clone()]) {
                Ok(tokens) => tokens.concat(),
                Err(_) => text,
            },
            Self::Trim(trim) => trim.apply(&text).to_owned(),
            Self::Metaspace { mark, drops_first: true } if place.is_first => {
                text.replace(*mark, "")
            }
            Self::Metaspace { mark, .. } => text.replace(*mark, " "),
            Self::WordPiece { prefix, cleans_up } => {
                let text = match text.strip_prefix(prefix.as_str()) {
                    _ if place.is_first => text,
                    Some(rest) => rest.to_owned(),
                    None => format!(" {text}"),
                };
                if *cleans_up { wordpiece::cleanup(&text) } else { text }
            }
            Self::Suffix(suffix) => text.replace(suffix, if place.is_last { "" } else { " " }),
        }
    }
}

impl Trim {
    fn apply(self, text: &str) -> &str {
        let mut text = text;
        for _ in 0..self.start {
            text = text.strip_prefix(self.content).unwrap_or(text);
        }
        for _ in 0..self.stop {
            text = text.strip_suffix(self.content).unwrap_or(text);
        }
        text
    }
}

/// The byte that `<0xE3>` spells.
fn fallback_byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The characters that stand for bytes in byte-level vocabularies: printable Latin-1 for
/// itself, every other byte by a character from U+0100 on, in order.
#[derive(Debug)]
struct ByteAlphabet {
    /// Byte of each character by its code point; `None` where the character stands for none.
    bytes: Vec<Option<u8>>,
}

impl ByteAlphabet {
    fn new() -> Self {
        let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let (itself, moved): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(is_itself);
        let mut bytes = vec![None; 0x100];
        for byte in itself {
            bytes[usize::from(byte)] = Some(byte);
        }
        bytes.extend(moved.into_iter().map(Some));
        Self { bytes }
    }

    /// The bytes that `text` spells; a text with any other character is itself.
    fn bytes(&self, text: String) -> Vec<u8> {
        let byte = |c: char| self.bytes.get(c as usize).copied().flatten();
        match text.chars().map(byte).collect::<Option<Vec<u8>>>() {
            Some(bytes) => bytes,
            None => text.into_bytes(),
        }
    }
}

fn name(stage: &DecoderWrapper) -> &'static str {
    match stage {
        DecoderWrapper::BPE(_) => "BPEDecoder",
        DecoderWrapper::ByteLevel(_) => "ByteLevel",
        DecoderWrapper::WordPiece(_) => "WordPiece",
        DecoderWrapper::Metaspace(_) => "Metaspace",
        DecoderWrapper::CTC(_) => "CTC",
        DecoderWrapper::Sequence(_) => "Sequence",
        DecoderWrapper::Replace(_) => "Replace",
        DecoderWrapper::Fuse(_) => "Fuse",
        DecoderWrapper::Strip(_) => "Strip",
        DecoderWrapper::ByteFallback(_) => "ByteFallback",
    }
}
