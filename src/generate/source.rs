//! Where a model comes from, and all that is read from there.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, Layout, read_text},
    model::{GenerationConfig, ModelConfig, SYNTHETIC},
    text::{ChatFormat, ChatTemplate, GgufVocabulary, Tokenizer},
};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder in Hugging Face's layout, or in Mistral's where only that is there.
    Folder(PathBuf),
    /// A folder of which Mistral's layout is taken, by the name of a file of it: `DIR/consolidated.safetensors`.
    Consolidated(PathBuf),
    /// A GGUF file, or one part of a split one.
    Gguf(PathBuf),
    /// Random weights of a known shape, made on the device: `synthetic:NAME`.
    Synthetic(String),
}

impl FromStr for ModelSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text.strip_prefix("synthetic:") {
            Some(name) => Self::Synthetic(name.to_owned()),
            None if text.to_ascii_lowercase().ends_with(".gguf") => Self::Gguf(text.into()),
            None if is_consolidated(text) => Self::Consolidated(Path::new(".").join(text).with_file_name("")),
            None => Self::Folder(text.into()),
        })
    }
}

/// Whether a path is that of one of the files with Mistral's weights.
fn is_consolidated(path: &str) -> bool {
    let name = path.rsplit(['/', std::path::MAIN_SEPARATOR]).next().unwrap_or_default();
    name.starts_with("consolidated") && name.ends_with(".safetensors")
}

impl ModelSource {
    /// The model's configuration.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`] and [`ModelConfig::from_gguf`]; [`ErrorKind::Argument`] for an unknown synthetic model.
    pub fn config(&self) -> Result<ModelConfig> {
        match self {
            Self::Folder(dir) => ModelConfig::from_dir(dir),
            Self::Consolidated(dir) => {
                let path = dir.join("params.json");
                ModelConfig::from_params(&read_text(&path)?, &path.to_string_lossy())
            }
            Self::Gguf(file) => ModelConfig::from_gguf(&Checkpoint::open(file)?),
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
        match self {
            Self::Folder(path) | Self::Gguf(path) => Checkpoint::open(path).map(Some),
            Self::Consolidated(dir) => Checkpoint::open_layout(dir, Layout::Mistral).map(Some),
            Self::Synthetic(_) => Ok(None),
        }
    }

    /// The model's tokenizer, if it has one.
    ///
    /// # Errors
    /// As [`Tokenizer::from_dir`].
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        match self {
            Self::Folder(file) if file.is_file() => Tokenizer::from_file(file).map(Some),
            Self::Gguf(file) => {
                let vocabulary = GgufVocabulary::read(Checkpoint::open(file)?.metadata())?;
                vocabulary.map(|vocabulary| Tokenizer::from_gguf(&vocabulary)).transpose()
            }
            Self::Folder(dir) | Self::Consolidated(dir) => Tokenizer::from_dir(dir),
            Self::Synthetic(_) => Ok(None),
        }
    }

    /// How the model takes conversations, where anything tells.
    ///
    /// # Errors
    /// As [`ChatFormat::from_dir`].
    pub fn chat_format(&self, tokenizer: &Tokenizer) -> Result<Option<ChatFormat>> {
        match self {
            Self::Folder(dir) | Self::Consolidated(dir) if dir.is_dir() => {
                ChatFormat::from_dir(dir, tokenizer)
            }
            Self::Gguf(file) => {
                let checkpoint = Checkpoint::open(file)?;
                let template = checkpoint.metadata().text("tokenizer.chat_template")?.map(str::to_owned);
                let parse = |source| ChatTemplate::from_source(source, tokenizer);
                Ok(ChatFormat::of(template.map(parse).transpose()?, tokenizer))
            }
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

    /// The model's folder, if it has one.
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Folder(dir) | Self::Consolidated(dir) => Some(dir),
            Self::Gguf(_) | Self::Synthetic(_) => None,
        }
    }
}
