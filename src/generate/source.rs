//! Where a model comes from, and all that is read from there.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    Error, ErrorKind, Result,
    checkpoint::Checkpoint,
    model::{GenerationConfig, ModelConfig, SYNTHETIC},
    text::{ChatFormat, Tokenizer},
};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A Hugging Face folder.
    Folder(PathBuf),
    /// Random weights of a known shape, made on the device: `synthetic:NAME`.
    Synthetic(String),
}

impl FromStr for ModelSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text.strip_prefix("synthetic:") {
            Some(name) => Self::Synthetic(name.to_owned()),
            None => Self::Folder(text.into()),
        })
    }
}

impl ModelSource {
    /// The model's configuration.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`]; [`ErrorKind::Argument`] for an unknown synthetic model.
    pub fn config(&self) -> Result<ModelConfig> {
        match self {
            Self::Folder(dir) => ModelConfig::from_dir(dir),
            Self::Synthetic(name) => ModelConfig::synthetic(name).ok_or_else(|| {
                let known: Vec<_> = SYNTHETIC.iter().map(|model| model.name).collect();
                let expected = format!("one of {}", known.join(", "));
                Error::expected(ErrorKind::Argument, "synthetic", expected, format_args!("`{name}`"))
            }),
        }
    }

    /// The model's weights, unless it is synthetic.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.folder().map(Checkpoint::open).transpose()
    }

    /// The model's tokenizer, if it has one.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match self {
            Self::Folder(file) if file.is_file() => Tokenizer::from_file(file).map(Some),
            Self::Folder(dir) => Tokenizer::from_dir(dir),
            Self::Synthetic(_) => Ok(None),
        }
    }

    /// How the model takes conversations, where anything tells.
    ///
    /// # Errors
    /// As [`ChatFormat::from_dir`].
    pub fn chat_format(&self, tokenizer: &Tokenizer) -> Result<Option<ChatFormat>> {
        match self {
            Self::Folder(dir) if dir.is_dir() => ChatFormat::from_dir(dir, tokenizer),
            _ => Ok(ChatFormat::of(None, tokenizer)),
        }
    }

    /// What the model's makers suggest for generation, where they do.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_dir`].
    pub fn generation_config(&self, vocab_size: usize) -> Result<GenerationConfig> {
        let config = self.folder().map(|dir| GenerationConfig::from_dir(dir, vocab_size));
        Ok(config.transpose()?.unwrap_or_default())
    }

    /// The model's folder, unless it is synthetic.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(dir) => Some(dir),
            Self::Synthetic(_) => None,
        }
    }
}
