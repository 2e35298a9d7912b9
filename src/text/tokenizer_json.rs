//! The `tokenizer.json` format of Hugging Face's `tokenizers`.

use serde::Deserialize;
use std::collections::HashMap;
use tokenizers::tokenizer::{AddedVocabulary, Model, OffsetType, PreTokenizer};

use super::pieces::{Decoder, Pieces};
use crate::{Error, ErrorKind, Result};

/// A tokenizer of the `tokenizers` crate.
///
/// Normalizer, pre-tokenizer and model run as the file says. Its post-processor, truncation and padding do not run:
/// start tokens are added where [`Encode::bos`](super::Encode::bos) or a chat format asks for them and nowhere else.
pub(super) struct TokenizerJson {
    inner: tokenizers::Tokenizer,
    /// The added vocabulary without control tokens: what plain text is read with.
    plain: AddedVocabulary,
}

/// The part of the file that we interpret ourselves.
#[derive(Deserialize)]
struct DecoderOnly {
    decoder: Decoder,
}

impl TokenizerJson {
    /// Reads a file; also what its tokens stand for.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) if it is damaged or has a decoder of a kind that Mistral's files and their
    /// byte-level relatives do not use.
    pub fn parse(text: &[u8]) -> Result<(Self, Pieces)> {
        let damaged = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Tokenizer, "tokenizer", error);
        // First, since `tokenizers` panics at a decoder that it cannot read.
        let DecoderOnly { decoder } = serde_json::from_slice(text).map_err(|error| damaged(&error))?;
        let inner = tokenizers::Tokenizer::from_bytes(text).map_err(|error| damaged(&error))?;
        let pieces = Pieces::new(&decoder, inner.get_vocab(true))?;
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        Ok((Self { inner, plain }, pieces))
    }

    /// The control tokens.
    pub fn control(&self) -> HashMap<u32, String> {
        let added = self.inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
        added.map(|(id, token)| (id, token.content)).collect()
    }

    /// The ids of a text, in which control tokens count only if `special`; characters equal to `marker` leave no
    /// trace but that they interrupt such tokens.
    pub fn encode(&self, text: &str, special: bool, marker: Option<char>) -> Result<Vec<u32>> {
        let vocabulary = if special { self.inner.get_added_vocabulary() } else { &self.plain };
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

    /// The id of a token.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the file writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}
