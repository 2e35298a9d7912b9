//! Which files of a model folder hold its weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::Checkpoint;
use super::files::read_text;
use crate::{Error, ErrorKind, Result};

/// `model.safetensors.index.json`: which shard holds which tensor.
#[derive(serde::Deserialize)]
pub(super) struct Index {
    #[serde(skip)]
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the folder's index, if it has one.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join("model.safetensors.index.json");
        if !path.exists() {
            return Ok(None);
        }
        let index: Self = serde_json::from_str(&read_text(&path)?).map_err(|e| {
            Error::expected(ErrorKind::Checkpoint, path.display(), "a weight_map of names to files", &e)
                .because(e)
        })?;
        Ok(Some(Self { path, ..index }))
    }

    /// The paths of the shards it names, each a file of the index's own folder.
    pub fn shards(&self) -> Result<Vec<PathBuf>> {
        let names: BTreeSet<_> = self.weight_map.values().collect();
        names.into_iter().map(|name| self.shard(name)).collect()
    }

    fn shard(&self, name: &str) -> Result<PathBuf> {
        let refuse = |expected, found: &str| {
            Err(Error::expected(ErrorKind::Checkpoint, self.path.display(), expected, found))
        };
        let mut components = Path::new(name).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        // On Windows "C:x" and "a\b" are paths; refused everywhere, so that a folder means the same
        // everywhere.
        if !plain || name.contains(['/', '\\', ':']) {
            return refuse("shards in the folder itself", &format!("{name:?}"));
        }
        let path = self.path.with_file_name(name);
        if !path.exists() {
            return refuse("shards that exist", &format!("no file {name:?}"));
        }
        Ok(path)
    }

    /// Checks that each tensor is in the shard that the index promises.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        for (name, shard) in &self.weight_map {
            let found = checkpoint.get(name).and_then(|tensor| tensor.file.file_name());
            if found != Some(shard.as_ref()) {
                let found = found.map_or("no such tensor".into(), |file| format!("it in {file:?}"));
                let expected = format_args!("the tensor in {shard:?}");
                let error = Error::expected(ErrorKind::Checkpoint, name, expected, found);
                return Err(error.within(self.path.display()));
            }
        }
        Ok(())
    }
}

/// The safetensors files of a folder without an index, sorted: those named as transformers names them,
/// `model*`. Others that may lie there (`consolidated*` with Mistral's own tensor names, adapters) are not
/// shards.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut shards = Vec::new();
    for file in dir.read_dir().map_err(|e| Error::io(dir, e))? {
        let file = file.map_err(|e| Error::io(dir, e))?;
        let name = file.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("model") && name.ends_with(".safetensors")) {
            shards.push(file.path());
        }
    }
    if shards.is_empty() {
        let expected = "model.safetensors, or model-*.safetensors shards";
        return Err(Error::expected(ErrorKind::Checkpoint, dir.display(), expected, "none"));
    }
    shards.sort();
    Ok(shards)
}
