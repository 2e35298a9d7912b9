//! Between text and token ids: the tokenizer, the formats of conversations, and streaming both ways round.
//!
//! Tokenizers come in four kinds of files, each with the ids of the library it is made for: `tokenizer.json`,
//! SentencePiece's `tokenizer.model`, Mistral's `tekken.json`, and the vocabulary in a GGUF file. Of a folder that has
//! several, `tokenizer.json` is read, or else `tekken.json`, or else the `tokenizer.model` of the highest version.
//!
//! Conversations are encoded in Mistral's instruct formats, or with the model's own Jinja template where that writes
//! anything else; see [`ChatFormat::of`] for how they are told apart.

mod bpe;
mod byte_level;
mod chat_format;
mod chat_template;
mod files;
mod fim;
mod gguf_vocabulary;
mod instruct;
mod json;
mod message;
mod model;
mod pieces;
mod protobuf;
mod sentencepiece;
mod special_tokens;
mod spm;
mod stream;
mod tekken;
mod tokenizer;
mod tokenizer_json;
mod validate;

pub use chat_format::ChatFormat;
pub use chat_template::ChatTemplate;
pub use gguf_vocabulary::GgufVocabulary;
pub use instruct::Version;
pub use json::{Json, Refusal};
pub use message::{Function, FunctionCall, Message, Tool, ToolCall, ToolKind};
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
