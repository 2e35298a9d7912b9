//! Between text and token ids: the tokenizer, the model's chat template, and streaming both ways round.

mod chat_template;
mod pieces;
mod special_tokens;
mod stream;
mod tokenizer;

pub use chat_template::{ChatTemplate, Message};
pub use stream::{StopStrings, StreamDecoder};
pub use tokenizer::{Encode, Tokenizer};

use crate::{Error, ErrorKind, Result};
use std::{fs, path::Path};

/// The text of an optional file: `None` if it does not exist.
fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// An optional JSON file as the part of it that `T` describes.
fn read_optional_json<T: serde::de::DeserializeOwned>(path: &Path, kind: ErrorKind) -> Result<Option<T>> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|error| Error::new(kind, path.display(), &error).because(error))
    };
    read_optional(path)?.map(parse).transpose()
}
