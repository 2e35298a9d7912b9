//! From tokens to bytes: what each token stands for, and bytes put together to text.
//!
//! The `decoder` of a `tokenizer.json` is resolved once into a table of bytes, so that decoding any sequence is
//! concatenation. Bytes that are no UTF-8 become U+FFFD: one each, as in SentencePiece, where characters are spelled
//! in byte tokens (valid characters beside them stay; the `tokenizers` crate gives up the whole run, which only shows
//! once it has ended), and one for each beginning of a character where all tokens are bytes.

use crate::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};

/// The decoders of the `tokenizer.json` format that Mistral's files and their relatives use.
#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum Decoder {
    Sequence { decoders: Vec<Decoder> },
    Replace { pattern: Pattern, content: String },
    ByteFallback,
    Fuse,
    Strip { content: char, start: usize, stop: usize },
    ByteLevel,
    Metaspace { replacement: char, prepend_scheme: String },
}

/// What `Decoder::Replace` looks for.
#[derive(Deserialize)]
pub(super) enum Pattern {
    String(String),
}

/// The bytes of every token, and how they become a text.
pub(super) struct Pieces {
    bytes: HashMap<u32, Vec<u8>>,
    style: Style,
}

/// How bytes become a text.
#[derive(Debug, Clone, Default)]
pub(super) struct Style {
    /// How many spaces the start of a text loses.
    pub strip: usize,
    /// Tokens that lose none.
    pub unstripped: HashSet<u32>,
    /// U+FFFD for each byte that is no part of a character, or else for each run that begins one.
    pub each_byte: bool,
    /// A control token ends a character, whole or not.
    pub control_ends: bool,
}

impl Pieces {
    /// Resolves `decoder` over the vocabulary. Error if the decoder strips in a way no prefix space explains.
    pub fn new(decoder: &Decoder, vocabulary: HashMap<String, u32>) -> Result<Self> {
        let style = Style {
            strip: leading_spaces(decoder)?,
            each_byte: !matches!(decoder, Decoder::ByteLevel),
            ..Style::default()
        };
        let bytes = vocabulary.into_iter().map(|(token, id)| (id, token_bytes(decoder, token.into())));
        Ok(Self { bytes: bytes.collect(), style })
    }

    /// Tokens that stand for these bytes, by id.
    pub fn of(bytes: impl Iterator<Item = Vec<u8>>, style: Style) -> Self {
        Self { bytes: (0..).zip(bytes).collect(), style }
    }

    /// The bytes that `id` adds in the middle of a text.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(&id).map(Vec::as_slice)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.bytes.keys().max().map_or(0, |&id| id as usize + 1)
    }

    /// An empty text, ready for its first token.
    pub fn assembler(&self) -> Assembler {
        Assembler { pending: Vec::new(), strip: self.style.strip, each_byte: self.style.each_byte }
    }

    /// Adds a token to a text and returns what is now certain, empty if nothing is; a control token that is not
    /// `shown` adds nothing. `None` for an id outside the vocabulary.
    pub fn push(&self, text: &mut Assembler, id: u32, is_control: bool, shown: bool) -> Option<String> {
        let bytes = self.get(id)?;
        let broken = if is_control && self.style.control_ends { text.finish() } else { String::new() };
        if is_control && !shown {
            return Some(broken);
        }
        if self.style.unstripped.contains(&id) {
            text.strip = 0;
        }
        Some(broken + &text.push(bytes))
    }
}

fn leading_spaces(decoder: &Decoder) -> Result<usize> {
    match decoder {
        Decoder::Sequence { decoders } => decoders.iter().map(leading_spaces).sum(),
        Decoder::Strip { content: ' ', start, stop: 0 } => Ok(*start),
        Decoder::Strip { content, start, stop } => Err(Error::expected(
            ErrorKind::Tokenizer,
            "tokenizer.json: decoder Strip",
            "leading spaces only",
            format_args!("{start} leading and {stop} trailing {content:?}"),
        )),
        Decoder::Metaspace { prepend_scheme, .. } => Ok(usize::from(prepend_scheme != "never")),
        _ => Ok(0),
    }
}

fn token_bytes(decoder: &Decoder, token: Vec<u8>) -> Vec<u8> {
    let replace = |from: &str, to: &str| match std::str::from_utf8(&token) {
        Ok(text) if !from.is_empty() => text.replace(from, to).into(),
        _ => token.clone(),
    };
    match decoder {
        Decoder::Sequence { decoders } => {
            decoders.iter().fold(token, |token, decoder| token_bytes(decoder, token))
        }
        Decoder::Replace { pattern: Pattern::String(from), content } => replace(from, content),
        Decoder::Metaspace { replacement, .. } => replace(replacement.encode_utf8(&mut [0; 4]), " "),
        Decoder::ByteFallback => fallback_byte(&token).map_or(token, |byte| vec![byte]),
        Decoder::ByteLevel => std::str::from_utf8(&token)
            .ok()
            .and_then(|text| text.chars().map(byte_level).collect())
            .unwrap_or(token),
        Decoder::Fuse | Decoder::Strip { .. } => token,
    }
}

/// The byte of a token `<0xHH>`.
fn fallback_byte(token: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(token).ok()?.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's printable stand-ins for bytes, backwards: printable Latin-1 stands for itself, the other 68 bytes are
/// numbered from U+0100 (U+0120 'Ġ' is the 33rd of them, the space).
pub(super) fn byte_level(stand_in: char) -> Option<u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(stand_in) {
        code @ 0..=0xff => Some(code as u8).filter(printable),
        code => (0..=0xff).filter(|byte| !printable(byte)).nth(code as usize - 0x100),
    }
}

/// Text in the making: takes bytes, gives characters as soon as they are complete.
pub(super) struct Assembler {
    pending: Vec<u8>,
    strip: usize,
    each_byte: bool,
}

impl Assembler {
    /// Adds the bytes of one token and returns the text that is now certain, empty if none is.
    fn push(&mut self, bytes: &[u8]) -> String {
        let spaces = bytes.iter().take(self.strip).take_while(|&&byte| byte == b' ').count();
        self.strip = if spaces == bytes.len() { self.strip - spaces } else { 0 };
        self.pending.extend_from_slice(&bytes[spaces..]);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let unfinished = used + chunk.invalid().len() == self.pending.len()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if !unfinished {
                text.extend(replacements(chunk.invalid(), self.each_byte));
                used += chunk.invalid().len();
            }
        }
        self.pending.drain(..used);
        text
    }

    /// The end: U+FFFD for the bytes of a character that never became complete.
    pub fn finish(&mut self) -> String {
        let pending = std::mem::take(&mut self.pending);
        replacements(&pending, self.each_byte).collect()
    }
}

/// What bytes that are no character become.
fn replacements(bytes: &[u8], each_byte: bool) -> impl Iterator<Item = char> {
    let count = if each_byte { bytes.len() } else { bytes.len().min(1) };
    std::iter::repeat_n(char::REPLACEMENT_CHARACTER, count)
}
