//! In which layout weights lie in their files.

use std::path::Path;

use super::{consolidated, gguf, shards};
use crate::Result;

/// How files and tensors are named, and rows of q and k ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// As transformers writes it: `model*.safetensors` beside a `config.json`.
    #[default]
    HuggingFace,
    /// As Mistral writes it: `consolidated*.safetensors` beside a `params.json`.
    Mistral,
    /// One GGUF file, or the parts of a split one.
    Gguf,
}

/// Which rows of a head of q or k the rotary embedding turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotary {
    /// `i` and `i + head_dim / 2`.
    Halves,
    /// `2i` and `2i + 1`.
    Neighbours,
}

impl Layout {
    /// The layout of the weights in a folder: Mistral's where only these are there. Repositories on the hub
    /// often hold both, which is said.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind) where the folder cannot be read.
    pub fn of(dir: &Path) -> Result<Self> {
        let names = shards::names(dir)?;
        let has = |layout: Self| names.iter().any(|name| layout.is_shard(name));
        match (has(Self::HuggingFace), has(Self::Mistral)) {
            (false, true) => return Ok(Self::Mistral),
            (true, true) => tracing::warn!(
                "{}: has model*.safetensors and consolidated*.safetensors of the same model, took the former",
                dir.display()
            ),
            _ => {}
        }
        Ok(Self::HuggingFace)
    }

    /// What its files' names begin with.
    pub(super) fn stem(self) -> &'static str {
        match self {
            Self::HuggingFace => "model",
            Self::Mistral => "consolidated",
            Self::Gguf => unreachable!("no folder"),
        }
    }

    /// Whether a file of this name holds weights.
    pub(super) fn is_shard(self, name: &str) -> bool {
        name.starts_with(self.stem()) && name.ends_with(".safetensors")
    }

    /// The name that Hugging Face gives to the tensor that a file calls `name`.
    pub(super) fn rename(self, name: &str) -> String {
        match self {
            Self::HuggingFace => text_name(name),
            Self::Mistral => consolidated::NAMES.rename(name),
            Self::Gguf => gguf::NAMES.rename(name),
        }
    }

    /// Which rows of q and k turn together.
    pub(super) fn rotary(self) -> Rotary {
        match self {
            Self::HuggingFace => Rotary::Halves,
            // llama.cpp's converter has changed Hugging Face's order to this one.
            Self::Mistral | Self::Gguf => Rotary::Neighbours,
        }
    }
}

/// The name that a tensor of a language model has by itself, where it is part of a model that sees, too:
/// `language_model.model.norm.weight`, or by transformers' own names `model.language_model.norm.weight`.
fn text_name(name: &str) -> String {
    match name.strip_prefix("model.language_model.") {
        Some(rest) => format!("model.{rest}"),
        None => name.strip_prefix("language_model.").unwrap_or(name).to_owned(),
    }
}
