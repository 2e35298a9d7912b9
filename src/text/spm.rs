//! Byte-pair encoding as SentencePiece does it, and llama.cpp with SentencePiece's vocabularies.

use std::collections::HashMap;

use super::bpe::merge;
use super::model::{Cutter, Model, Part};
use crate::{Error, ErrorKind, Result};

/// What a space is written as in the vocabulary.
const SPACE: &str = "▁";

/// What a token is, as SentencePiece and GGUF number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind of this number.
    pub fn of(number: u64) -> Option<Self> {
        use Kind::*;
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        kinds.get(usize::try_from(number).ok()?.checked_sub(1)?).copied()
    }
}

/// Where a space is put before a text that is about to be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    Never,
    /// Before the whole text.
    First,
    /// Also after each token that stands for itself, as llama.cpp does.
    Each,
}

/// A piece of a vocabulary: its text, its score (the higher, the earlier it is merged), and what it is.
pub(super) type Piece = (String, f32, Kind);

/// The model.
pub(super) struct Spm {
    /// Pieces that text is made of: their ids, and when they are merged.
    pieces: HashMap<String, (u32, u32)>,
    /// Bytes of the longest of them.
    longest: usize,
    /// The token of each byte, for characters that are no pieces.
    bytes: Option<[u32; 256]>,
    /// The token for characters that are no pieces where there are none for bytes.
    unknown: Option<u32>,
    user_defined: Cutter,
    prefix: Prefix,
}

impl Spm {
    /// The model of a vocabulary; `byte_fallback` if characters that are no pieces are spelled in bytes.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) if a score is no number, a piece stands twice, a kind is not supported, or
    /// there is no token for a byte.
    pub fn new(vocabulary: &[Piece], byte_fallback: bool, prefix: Prefix) -> Result<Self> {
        let mut pieces = HashMap::new();
        let mut bytes = [None; 256];
        let mut unknown = None;
        let mut user_defined = Vec::new();
        for (id, (piece, score, kind)) in (0..).zip(vocabulary) {
            let failed =
                |message: &str| Error::new(ErrorKind::Tokenizer, format_args!("piece {piece:?}"), message);
            match kind {
                Kind::Control => {}
                Kind::Unknown => unknown = Some(id),
                Kind::Byte => match byte(piece) {
                    Some(byte) => bytes[usize::from(byte)] = Some(id),
                    None => return Err(failed("a byte, but not written as <0xHH>")),
                },
                Kind::Unused => return Err(failed("unused pieces are not supported")),
                Kind::Normal | Kind::UserDefined => {
                    let order = order(*score).ok_or_else(|| failed("its score is not a number"))?;
                    if pieces.insert(piece.clone(), (id, order)).is_some() {
                        return Err(failed("stands twice in the vocabulary"));
                    }
                    if *kind == Kind::UserDefined {
                        user_defined.push((piece.clone(), id));
                    }
                }
            }
        }
        let all: Option<Vec<u32>> = bytes.into_iter().collect();
        let bytes = all.and_then(|bytes| bytes.try_into().ok()).filter(|_| byte_fallback);
        if byte_fallback && bytes.is_none() {
            return Err(Error::expected(
                ErrorKind::Tokenizer,
                "vocabulary",
                "a token for each byte",
                "fewer",
            ));
        }
        let longest = pieces.keys().map(String::len).max().unwrap_or(0);
        Ok(Self { pieces, longest, bytes, unknown, user_defined: Cutter::new(user_defined), prefix })
    }

    /// Appends the ids of a text without spaces and user-defined pieces.
    fn merge(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        let parts = merge(ends, |left, right| {
            let piece = Some(left.start..right.end).filter(|range| range.len() <= self.longest)?;
            self.pieces.get(&text[piece]).map(|(_, order)| *order)
        });
        let mut after_unknown = false;
        for part in parts {
            let part = &text[part];
            let known = self.pieces.get(part);
            match (known, &self.bytes, self.unknown) {
                (Some((id, _)), ..) => ids.push(*id),
                (None, Some(bytes), _) => ids.extend(part.bytes().map(|byte| bytes[usize::from(byte)])),
                // A run of unknown characters is one token.
                (None, None, Some(unknown)) => ids.extend(Some(unknown).filter(|_| !after_unknown)),
                (None, None, None) => {
                    return Err(Error::new(
                        ErrorKind::Tokenizer,
                        "text",
                        format_args!("no token for {part:?}"),
                    ));
                }
            }
            after_unknown = known.is_none();
        }
        Ok(())
    }
}

impl Model for Spm {
    fn encode(&self, text: &str, begins: bool, ids: &mut Vec<u32>) -> Result<()> {
        let mut first = match self.prefix {
            Prefix::Never => false,
            Prefix::First => begins,
            Prefix::Each => true,
        };
        let prefixed =
            |text: &str, prefix| [if prefix { SPACE } else { "" }, &text.replace(' ', SPACE)].concat();
        if self.prefix != Prefix::Each {
            // SentencePiece writes spaces its way before it looks for user-defined pieces.
            let text = prefixed(text, first && !text.is_empty());
            for part in self.user_defined.cut(&text) {
                match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(text) => self.merge(text, ids)?,
                }
            }
            return Ok(());
        }
        for part in self.user_defined.cut(text) {
            match part {
                Part::Token(id) => ids.push(id),
                Part::Text(text) => self.merge(&prefixed(text, first), ids)?,
            }
            first = matches!(part, Part::Token(_));
        }
        Ok(())
    }
}

/// The bytes that a piece stands for in the middle of a text.
pub(super) fn bytes((piece, _, kind): &Piece) -> Vec<u8> {
    match kind {
        Kind::Byte => byte(piece).into_iter().collect(),
        Kind::Normal => piece.replace(SPACE, " ").into(),
        _ => piece.clone().into(),
    }
}

/// The byte of a token `<0xHH>`.
fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    Some(digits).filter(|digits| digits.len() == 2).and_then(|digits| u8::from_str_radix(digits, 16).ok())
}

/// A number that is smaller the higher the score; `None` for what is no number.
fn order(score: f32) -> Option<u32> {
    // Both zeros alike.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (!score.is_nan()).then_some(!ascending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn higher_scores_come_first() {
        let scores = [f32::INFINITY, 2.0, 1e-40, 0.0, -0.5, -3.0, f32::NEG_INFINITY];
        assert!(scores.map(|score| order(score).unwrap()).is_sorted_by(|a, b| a < b));
        assert_eq!((order(-0.0), order(f32::NAN)), (order(0.0), None));
    }
}
