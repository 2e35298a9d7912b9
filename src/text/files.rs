//! Which file of a folder is the tokenizer.

use std::path::{Path, PathBuf};

use super::Version;
use crate::{Error, Result};

/// What a tokenizer's file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// `tokenizer.model`, or `.model.v3` with the version of the instruct format.
    SentencePiece(Option<Version>),
    /// `tekken.json`, also `tekken_240718.json`.
    Tekken,
    /// `tokenizer.json`.
    Json,
}

/// What the name says that a file is.
pub(super) fn kind(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    if let Some((_, version)) = name.rsplit_once(".model.") {
        // `v7m1` is v7 for pictures too.
        let version = version.split_once('m').map_or(version, |(version, _)| version);
        return Some(Kind::SentencePiece(Some(version.parse().ok()?)));
    }
    match name.rsplit_once('.')?.1 {
        "model" => Some(Kind::SentencePiece(None)),
        "json" if name.contains("tekken") => Some(Kind::Tekken),
        "json" => Some(Kind::Json),
        _ => None,
    }
}

/// The tokenizer of a folder: `tokenizer.json` before `tekken.json` before `tokenizer.model.v7` before `.v3` before
/// `tokenizer.model`, whose version its name does not say.
///
/// Error ([`crate::ErrorKind::Io`]) if the folder cannot be read.
pub(super) fn find(dir: &Path) -> Result<Option<PathBuf>> {
    let mut found = None;
    for entry in dir.read_dir().map_err(|error| Error::io(dir, error))? {
        let path = entry.map_err(|error| Error::io(dir, error))?.path();
        // Other JSON files are not tokenizers.
        let kind = kind(&path).filter(|kind| *kind != Kind::Json || path.ends_with("tokenizer.json"));
        found = found.max(kind.map(|kind| (kind, path)));
    }
    Ok(found.map(|(_, path)| path))
}
