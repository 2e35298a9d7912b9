//! Text to token ids and back, from the files of a Hugging Face model folder.

use super::pieces::{Decoder, Pieces};
use super::special_tokens;
use crate::{Error, ErrorKind, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use tokenizers::tokenizer::{AddedVocabulary, Model, OffsetType, PreTokenizer};

/// How [`Tokenizer::encode`] reads a text; the default is plain text without a start token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Encode {
    /// Control tokens written out in the text (`</s>`, `[INST]`) become those tokens; otherwise they are spelled.
    pub special: bool,
    /// The ids begin with the model's start token, if it has one: exactly once, even where the text yields it too.
    pub bos: bool,
}

/// A tokenizer in the `tokenizer.json` format of Hugging Face's `tokenizers`.
///
/// Normalizer, pre-tokenizer and model run as the file says. Its post-processor, truncation and padding do not
/// run: start tokens are added where [`Encode::bos`] or a chat template asks for them and nowhere else.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added vocabulary without control tokens: what plain text is read with.
    plain: AddedVocabulary,
    pieces: Pieces,
    control: HashMap<u32, String>,
    bos: Option<u32>,
    eos: Option<u32>,
}

/// The part of `tokenizer.json` that we interpret ourselves.
#[derive(Deserialize)]
struct DecoderOnly {
    decoder: Decoder,
}

impl Tokenizer {
    /// Reads `tokenizer.json`, and the names of the start and end tokens from `tokenizer_config.json` or
    /// `special_tokens_map.json` (`<s>` and `</s>` where neither says).
    ///
    /// Errors: [`ErrorKind::Io`] if a file cannot be read, [`ErrorKind::Tokenizer`] if one is damaged, has a decoder
    /// of a kind that Mistral's files and their byte-level relatives do not use, or names a start or end token that
    /// does not exist.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let damaged = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Tokenizer, path.display(), error);
        let text = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
        // First, since `tokenizers` panics at a decoder that it cannot read.
        let DecoderOnly { decoder } = serde_json::from_slice(&text).map_err(|error| damaged(&error))?;
        let inner = tokenizers::Tokenizer::from_bytes(&text).map_err(|error| damaged(&error))?;

        let pieces = Pieces::new(&decoder, inner.get_vocab(true))?;
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let added = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
        let control = added.map(|(id, token)| (id, token.content)).collect();

        let named = special_tokens::read(dir)?;
        let find = |name: &str, usual: &str| match named.get(name) {
            Some(Some(token)) => inner.token_to_id(token).map(Some).ok_or_else(|| {
                let expected = format_args!("{name} {token:?} in the vocabulary");
                Error::expected(ErrorKind::Tokenizer, path.display(), expected, "no such token")
            }),
            Some(None) => Ok(None),
            None => Ok(inner.token_to_id(usual)),
        };
        let (bos, eos) = (find("bos_token", "<s>")?, find("eos_token", "</s>")?);
        Ok(Self { plain, pieces, control, bos, eos, inner })
    }

    /// The ids of `text`. Error ([`ErrorKind::Tokenizer`]) if the file's own rules cannot encode it.
    pub fn encode(&self, text: &str, options: Encode) -> Result<Vec<u32>> {
        let vocabulary = if options.special { self.inner.get_added_vocabulary() } else { &self.plain };
        let mut ids = self.ids(text, vocabulary, None)?;
        if options.bos && self.bos.is_some() && ids.first().copied() != self.bos {
            ids.splice(0..0, self.bos);
        }
        Ok(ids)
    }

    /// The ids of a text in which control tokens count unless `marker` interrupts them; markers leave no trace.
    pub(super) fn encode_marked(&self, text: &str, marker: char) -> Result<Vec<u32>> {
        self.ids(text, self.inner.get_added_vocabulary(), Some(marker))
    }

    fn ids(&self, text: &str, vocabulary: &AddedVocabulary, marker: Option<char>) -> Result<Vec<u32>> {
        let encode = || {
            let mut pieces = vocabulary.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(marker) = marker {
                pieces.normalize(|piece| {
                    piece.filter(|c| c != marker);
                    Ok(())
                })?;
            }
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| self.inner.get_model().tokenize(piece.get()))?;
            pieces.into_encoding(None, 0, OffsetType::None)
        };
        let encoding = encode().map_err(|error| Error::new(ErrorKind::Tokenizer, "text", error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, without the space that encoding puts before the first word; `skip_special` leaves
    /// control tokens out. A byte that is not part of a UTF-8 character becomes U+FFFD.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for an id outside the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let mut assembler = self.pieces.assembler();
        let mut text = String::new();
        for &id in ids {
            let bytes = self.token_bytes(id)?;
            if !(skip_special && self.is_special(id)) {
                text += &assembler.push(bytes);
            }
        }
        Ok(text + &assembler.finish())
    }

    /// The bytes that a token adds in the middle of a text: not always whole characters.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Result<&[u8]> {
        self.pieces.get(id).ok_or_else(|| {
            let expected = format_args!("an id of the {} in the vocabulary", self.vocab_size());
            Error::expected(ErrorKind::Tokenizer, "token id", expected, id)
        })
    }

    /// An empty text, ready for its first token.
    pub(super) fn assembler(&self) -> super::pieces::Assembler {
        self.pieces.assembler()
    }

    /// One more than the largest token id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.pieces.vocab_size()
    }

    /// The id of a token as the vocabulary writes it (`▁the`, `<0x0A>`, `</s>`).
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The start-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether `id` is a control token, which plain text never contains.
    pub fn is_special(&self, id: u32) -> bool {
        self.control.contains_key(&id)
    }

    /// The control tokens as they are written.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        self.control.values().map(String::as_str)
    }
}
