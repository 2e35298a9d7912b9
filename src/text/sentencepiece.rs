//! SentencePiece's `tokenizer.model`: the parts of its protocol buffer that byte-pair models use.

use super::protobuf::{Value, fields};
use super::spm::{Kind, Piece, Prefix};
use crate::{Error, ErrorKind, Result};

/// What a file says.
pub(super) struct File {
    pub pieces: Vec<Piece>,
    pub byte_fallback: bool,
    pub prefix: Prefix,
    /// Texts of the start and end pieces.
    pub bos: String,
    pub eos: String,
    /// What the unknown piece is decoded to.
    pub unknown: String,
}

/// Reads a file.
///
/// Error ([`ErrorKind::Tokenizer`]) if it is damaged, or a model of a kind that no Mistral or Llama uses: other than
/// byte pairs, or with a normalizer.
pub(super) fn parse(bytes: &[u8]) -> Result<File> {
    let mut file = File {
        pieces: Vec::new(),
        byte_fallback: false,
        prefix: Prefix::First,
        bos: "<s>".into(),
        eos: "</s>".into(),
        unknown: " \u{2047} ".into(),
    };
    let mut is_bpe = false;
    // Its defaults where the file does not say: white space is tidied up.
    let mut tidies = true;
    for field in fields(bytes) {
        match field.map_err(failed)? {
            (1, Value::Bytes(piece)) => file.pieces.push(self::piece(piece)?),
            (2, Value::Bytes(trainer)) => is_bpe |= file.trainer(trainer)?,
            (3, Value::Bytes(normalizer)) => tidies = file.normalizer(normalizer)?,
            _ => {}
        }
    }
    if !is_bpe {
        return Err(Error::expected(
            ErrorKind::Tokenizer,
            "model type",
            "byte pairs (BPE)",
            "another (unigram?)",
        ));
    }
    if tidies {
        return Err(unsupported("remove_extra_whitespaces"));
    }
    Ok(file)
}

impl File {
    /// Reads a TrainerSpec; true for a model of byte pairs.
    fn trainer(&mut self, message: &[u8]) -> Result<bool> {
        let mut is_bpe = false;
        for field in fields(message) {
            match field.map_err(failed)? {
                (3, Value::Integer(kind)) => is_bpe = kind == 2,
                (24, Value::Integer(1)) => return Err(unsupported("treat_whitespace_as_suffix")),
                (35, Value::Integer(on)) => self.byte_fallback = on != 0,
                (44, Value::Bytes(surface)) => self.unknown = text(surface)?,
                (46, Value::Bytes(piece)) => self.bos = text(piece)?,
                (47, Value::Bytes(piece)) => self.eos = text(piece)?,
                _ => {}
            }
        }
        Ok(is_bpe)
    }

    /// Reads a NormalizerSpec; true if it tidies up white space.
    fn normalizer(&mut self, message: &[u8]) -> Result<bool> {
        let mut tidies = true;
        for field in fields(message) {
            match field.map_err(failed)? {
                (2, Value::Bytes([_, ..])) => return Err(unsupported("a normalizer (precompiled_charsmap)")),
                (3, Value::Integer(on)) => self.prefix = if on != 0 { Prefix::First } else { Prefix::Never },
                (4, Value::Integer(on)) => tidies = on != 0,
                (5, Value::Integer(0)) => return Err(unsupported("escape_whitespaces off")),
                _ => {}
            }
        }
        Ok(tidies)
    }
}

/// Reads a SentencePiece.
fn piece(message: &[u8]) -> Result<Piece> {
    let mut piece = (String::new(), 0.0, Kind::Normal);
    for field in fields(message) {
        match field.map_err(failed)? {
            (1, Value::Bytes(bytes)) => piece.0 = text(bytes)?,
            (2, Value::Four(score)) => piece.1 = f32::from_le_bytes(score),
            (3, Value::Integer(kind)) => {
                piece.2 = Kind::of(kind).ok_or_else(|| {
                    Error::expected(ErrorKind::Tokenizer, "piece type", "a number of 1 to 6", kind)
                })?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn text(bytes: &[u8]) -> Result<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Tokenizer, "SentencePiece model", &error).because(error)
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Tokenizer, "SentencePiece model", format_args!("{what}: not supported"))
}
