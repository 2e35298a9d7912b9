//! The vocabulary in a GGUF file's metadata, and what llama.cpp makes of it.

use std::collections::HashMap;

use super::byte_level::Ranks;
use super::pieces::byte_level;
use super::spm::{Kind, Piece};
use crate::checkpoint::Metadata;
use crate::{Error, ErrorKind, Result};

/// What a GGUF file says about its tokenizer: its keys `tokenizer.ggml.*`.
#[derive(Debug, Clone, Default)]
pub struct GgufVocabulary {
    /// `model`: `llama` for SentencePiece's algorithm, `gpt2` for byte-level byte pairs.
    pub model: String,
    /// `pre`: how `gpt2` cuts texts into words.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores` of the tokens, which `llama` merges by.
    pub scores: Vec<f32>,
    /// `token_type` of the tokens: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; none: all normal.
    pub token_types: Vec<i32>,
    /// `merges`, which `gpt2` merges by, each of two tokens with a space between.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `add_bos_token`: whether texts begin with the start token.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`: whether a space is put before texts, `llama` only.
    pub add_space_prefix: Option<bool>,
}

/// The expressions that llama.cpp cuts texts with, by the values of `pre` that name them; whether it looks for whole
/// words in the vocabulary first, and whether texts begin with the start token unless the file says otherwise.
///
/// That of `tekken` differs from tekken.json's: llama.cpp takes letters outside ASCII for both upper and lower case,
/// and marks for no letters. The model's ids are those that llama.cpp gives.
const WORDS: [(&[&str], &str, bool, bool); 3] = [
    (
        &["tekken"],
        r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))+((?=[\p{L}])([^A-Z]))*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        true,
        true,
    ),
    (
        &["llama-bpe", "llama3", "llama-v3"],
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        true,
        true,
    ),
    (&["gpt-2"], r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)", false, false),
];

/// How byte-level texts are cut and merged.
pub(super) struct Words {
    pub pattern: &'static str,
    pub whole: bool,
    pub add_bos: bool,
}

impl GgufVocabulary {
    /// Reads `tokenizer.ggml.*` of a file's metadata; `None` if the file has no vocabulary.
    ///
    /// Error ([`ErrorKind::Config`]) for values of another type, and ([`ErrorKind::Tokenizer`]) for a start or end token
    /// that is not in the vocabulary.
    pub fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let model = match metadata.text(&key("model"))? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model.to_owned(),
        };
        let tokens = metadata.texts(&key("tokens"))?.unwrap_or_default();
        // A file may say that there is no such token by an id of -1, or of 2³² - 1.
        let token = |name: &str| match metadata.number(&key(name))? {
            Some(id) if (0.0..tokens.len() as f64).contains(&id) => Ok(Some(id as u32)),
            None => Ok(None),
            Some(id) if id == -1.0 || id == f64::from(u32::MAX) => Ok(None),
            Some(id) => {
                let expected = format_args!("a token id below {}", tokens.len());
                Err(Error::expected(ErrorKind::Tokenizer, key(name), expected, id))
            }
        };
        Ok(Some(Self {
            model,
            pre: metadata.text(&key("pre"))?.map(str::to_owned),
            scores: metadata.numbers(&key("scores"))?.unwrap_or_default(),
            token_types: metadata.integers(&key("token_type"))?.unwrap_or_default(),
            merges: metadata.texts(&key("merges"))?.unwrap_or_default(),
            bos: token("bos_token_id")?,
            eos: token("eos_token_id")?,
            add_bos: metadata.boolean(&key("add_bos_token"))?,
            add_space_prefix: metadata.boolean(&key("add_space_prefix"))?,
            tokens,
        }))
    }

    /// The tokens with their scores and kinds.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for lists of different lengths or a type that does not exist.
    pub(super) fn pieces(&self) -> Result<Vec<Piece>> {
        let count = self.tokens.len();
        for (key, length) in [("scores", self.scores.len()), ("token_type", self.token_types.len())] {
            if length != 0 && length != count {
                return Err(Error::expected(
                    ErrorKind::Tokenizer,
                    key,
                    format_args!("{count} of them"),
                    length,
                ));
            }
        }
        let kind = |id: usize| match self.token_types.get(id) {
            None => Ok(Kind::Normal),
            Some(&number) => u64::try_from(number).ok().and_then(Kind::of).ok_or_else(|| {
                Error::expected(ErrorKind::Tokenizer, "token_type", "a number of 1 to 6", number)
            }),
        };
        let score = |id: usize| self.scores.get(id).copied().unwrap_or(0.0);
        self.tokens.iter().enumerate().map(|(id, token)| Ok((token.clone(), score(id), kind(id)?))).collect()
    }

    /// How `gpt2` cuts and merges.
    ///
    /// Error ([`ErrorKind::Tokenizer`]), naming it, for a `pre` that no Mistral uses.
    pub(super) fn words(&self) -> Result<Words> {
        let pre = self.pre.as_deref().unwrap_or("none");
        let row = WORDS.iter().find(|(names, ..)| names.contains(&pre));
        let &(_, pattern, whole, add_bos) = row.ok_or_else(|| {
            let names: Vec<&str> = WORDS.iter().flat_map(|(names, ..)| names.iter().copied()).collect();
            let expected = format_args!("one of {}", names.join(", "));
            Error::expected(ErrorKind::Tokenizer, "tokenizer.ggml.pre", expected, pre)
        })?;
        Ok(Words { pattern, whole, add_bos })
    }

    /// The merges, as the ids of their tokens.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) for one that is not of two tokens.
    pub(super) fn ranks(&self, ids: &HashMap<Vec<u8>, u32>) -> Result<Ranks> {
        let parse = |(rank, merge): (u32, &String)| {
            // A space within a token is written otherwise, so there is one; llama.cpp looks from the second character.
            let (left, right) = merge.split_once(' ')?;
            let id = |token: &str| ids.get(&stand_ins(token)?).copied();
            Some(((id(left)?, id(right)?), rank))
        };
        let pairs = (0..).zip(&self.merges).map(|pair| {
            parse(pair).ok_or_else(|| {
                Error::expected(ErrorKind::Tokenizer, "merges", "two tokens", format_args!("{:?}", pair.1))
            })
        });
        // The first of two alike counts.
        let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
        Ok(Ranks::Pairs(pairs.into_iter().rev().collect()))
    }
}

/// The bytes that a byte-level token stands for; `None` if a character of it stands for none.
pub(super) fn stand_ins(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_level).collect()
}
