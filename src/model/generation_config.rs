//! `generation_config.json`: how the makers of a model suggest to sample from it.

use std::path::Path;

use super::keys::Keys;
use crate::Result;
use crate::checkpoint::read_text;

/// What a model's makers suggest for generation, by transformers' names; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// The token that starts a text.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text.
    pub eos_token_ids: Option<Vec<u32>>,
    /// Whether to sample rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// How many of the likeliest tokens to sample from; 0 for all.
    pub top_k: Option<u32>,
    /// Sample from the fewest likeliest tokens whose probabilities reach this sum.
    pub top_p: Option<f32>,
    /// Sample from tokens at least this fraction as likely as the likeliest.
    pub min_p: Option<f32>,
    /// Divides positive and multiplies negative logits of tokens that occurred (arXiv 1909.05858, section
    /// 4.1).
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a model folder; a folder without one says nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind) where the file is there but cannot be read; otherwise those of
    /// [`from_json`](Self::from_json).
    pub fn from_dir(dir: &Path, vocab_size: usize) -> Result<Self> {
        let path = dir.join("generation_config.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::from_json(&read_text(&path)?, &path.to_string_lossy(), vocab_size)
    }

    /// Reads the text of a `generation_config.json`; `subject` names it in errors. Other keys are passed
    /// over.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind) naming the key, for an impossible value or a token id that is
    /// not below `vocab_size`.
    pub fn from_json(json: &str, subject: &str, vocab_size: usize) -> Result<Self> {
        let keys = Keys::parse(json, subject)?;
        let number = |key, range| Ok(keys.number(key, range)?.map(|x| x as f32));
        Ok(Self {
            bos_token_id: keys.token("bos_token_id", vocab_size)?,
            eos_token_ids: keys.tokens("eos_token_id", vocab_size)?,
            do_sample: keys.boolean("do_sample")?,
            temperature: number("temperature", 0.0..=1e6)?,
            top_k: keys.integer("top_k", 0..=u32::MAX.into())?.map(|k| k as u32),
            top_p: number("top_p", 0.0..=1.0)?,
            min_p: number("min_p", 0.0..=1.0)?,
            repetition_penalty: number("repetition_penalty", 1e-3..=1e3)?,
        })
    }
}
