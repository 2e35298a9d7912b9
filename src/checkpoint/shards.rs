//! Which files of a model folder hold its weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::files::read_text;
use super::{Checkpoint, Layout};
use crate::{Error, ErrorKind, Result};

/// `model.safetensors.index.json`, or `consolidated…`: which shard holds which tensor.
#[derive(serde::Deserialize)]
pub(super) struct Index {
    #[serde(skip)]
    path: PathBuf,
    weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the index of a layout, if the folder has one.
    pub fn read(dir: &Path, layout: Layout) -> Result<Option<Self>> {
        let path = dir.join(format!("{}.safetensors.index.json", layout.stem()));
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
            let found =
                checkpoint.get(&checkpoint.layout.rename(name)).and_then(|tensor| tensor.file.file_name());
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

/// The safetensors files of a folder without an index, sorted: those named as the layout names them. Others
/// that may lie there (adapters) are not shards.
///
/// # Errors
/// [`ErrorKind::Checkpoint`] where there are none, with advice where the weights are in pickle files.
pub(super) fn list(dir: &Path, layout: Layout) -> Result<Vec<PathBuf>> {
    let names = names(dir)?;
    let shards: Vec<_> =
        names.iter().filter(|name| layout.is_shard(name)).map(|name| dir.join(name)).collect();
    if !shards.is_empty() {
        return Ok(shards);
    }
    let pickle = |name: &&String| {
        [("consolidated", ".pth"), ("pytorch_model", ".bin")]
            .iter()
            .any(|(stem, end)| name.starts_with(stem) && name.ends_with(end))
    };
    if let Some(name) = names.iter().find(pickle) {
        let message = "a pickle file, which can run any code when it is opened, is not read; take the model's \
                       .safetensors files instead (the same repository, or a newer one, mostly has them)";
        return Err(Error::new(ErrorKind::Checkpoint, dir.join(name).display(), message));
    }
    let expected = "model.safetensors, model-*.safetensors shards, or consolidated*.safetensors";
    Err(Error::expected(ErrorKind::Checkpoint, dir.display(), expected, "none"))
}

/// The names of a folder's entries, sorted, as far as they are Unicode.
pub(super) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = dir.read_dir().map_err(|e| Error::io(dir, e))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    let names: Vec<_> = names.collect::<std::io::Result<_>>().map_err(|e| Error::io(dir, e))?;
    let mut names: Vec<_> = names.into_iter().flatten().collect();
    names.sort();
    Ok(names)
}
