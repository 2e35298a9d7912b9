//! Byte-pair encoding of bytes: a regular expression cuts a text into words, and the bytes of each are merged.

use std::collections::HashMap;

use fancy_regex::{Regex, RegexBuilder};

use super::bpe::merge;
use super::model::Model;
use crate::{Error, ErrorKind, Result};

/// Steps that one search of the expression may take; published ones take a few for each character.
const STEPS: usize = 50_000_000;

/// Bytes of the longest expression; published ones have some 300.
const LONGEST_PATTERN: usize = 4096;

/// When two neighbours are merged.
pub(super) enum Ranks {
    /// If their bytes together are a token: the token of the lowest id first (tiktoken).
    Ids,
    /// If they stand in this list, by their ids: the lowest rank first (GPT-2).
    Pairs(HashMap<(u32, u32), u32>),
}

/// The model.
pub(super) struct ByteLevel {
    pattern: Regex,
    ids: HashMap<Vec<u8>, u32>,
    /// Bytes of the longest token.
    longest: usize,
    /// The token of each byte.
    bytes: [u32; 256],
    ranks: Ranks,
    /// A word that is a token is not merged together.
    whole_words: bool,
}

impl ByteLevel {
    /// The model of the tokens that text is made of; `pattern` finds words, and what lies between two is a word too.
    ///
    /// Error ([`ErrorKind::Tokenizer`]) if the pattern is no regular expression or there is no token for a byte.
    pub fn new(pattern: &str, ids: HashMap<Vec<u8>, u32>, ranks: Ranks, whole_words: bool) -> Result<Self> {
        let failed = |message: &dyn std::fmt::Display| Error::new(ErrorKind::Tokenizer, "pattern", message);
        if pattern.len() > LONGEST_PATTERN {
            return Err(failed(&"too long"));
        }
        let pattern = RegexBuilder::new(pattern).backtrack_limit(STEPS).build();
        let pattern = pattern.map_err(|error| failed(&error).because(error))?;
        let bytes: Option<Vec<u32>> = (0..=255).map(|byte: u8| ids.get(&[byte][..]).copied()).collect();
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            Error::expected(ErrorKind::Tokenizer, "vocabulary", "a token for each byte", "fewer")
        })?;
        let longest = ids.keys().map(Vec::len).max().unwrap_or(0);
        Ok(Self { pattern, ids, longest, bytes, ranks, whole_words })
    }

    fn word(&self, word: &[u8], ids: &mut Vec<u32>) {
        if let Some(&id) = self.ids.get(word).filter(|_| self.whole_words) {
            return ids.push(id);
        }
        let parts = merge(1..=word.len(), |left, right| {
            let token = Some(left.start..right.end).filter(|range| range.len() <= self.longest)?;
            match &self.ranks {
                Ranks::Ids => self.ids.get(&word[token]).copied(),
                Ranks::Pairs(pairs) => {
                    pairs.get(&(*self.ids.get(&word[left])?, *self.ids.get(&word[right])?)).copied()
                }
            }
        });
        for part in parts {
            match self.ids.get(&word[part.clone()]) {
                Some(id) => ids.push(*id),
                None => ids.extend(word[part].iter().map(|byte| self.bytes[usize::from(*byte)])),
            }
        }
    }
}

impl Model for ByteLevel {
    fn encode(&self, text: &str, _begins: bool, ids: &mut Vec<u32>) -> Result<()> {
        let mut end = 0;
        for found in self.pattern.find_iter(text) {
            let found =
                found.map_err(|error| Error::new(ErrorKind::Tokenizer, "text", &error).because(error))?;
            self.word(&text.as_bytes()[end..found.start()], ids);
            self.word(found.as_str().as_bytes(), ids);
            end = found.end();
        }
        self.word(&text.as_bytes()[end..], ids);
        Ok(())
    }
}
