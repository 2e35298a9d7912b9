//! Results of the self-test on disk.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{SelfTestRow, SelfTestShapes};
use crate::gpu::{Gpu, SHADERS};

/// The file of one device, driver, version of the crate and model shape.
pub(super) struct Kept {
    /// `None` where the system has no directory for it.
    path: Option<PathBuf>,
    identity: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    /// All that the results depend on.
    identity: String,
    rows: Vec<SelfTestRow>,
}

impl Kept {
    pub fn new(gpu: &Gpu, shapes: &SelfTestShapes, dir: Option<&Path>) -> Self {
        let device = gpu.description();
        let mut sources = DefaultHasher::new();
        for (name, text) in SHADERS {
            gpu.shaders().get(*name).map_or(*text, String::as_str).hash(&mut sources);
        }
        let identity = format!(
            "{} {}; {}, {}, {}; {}; {:?}; shaders {:x}; {}, {:?}",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            device.name,
            device.backend,
            device.driver,
            gpu.capabilities(),
            gpu.limits(),
            sources.finish(),
            shapes.weights.name,
            shapes.attention,
        );
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let dir = dir.map(PathBuf::from).or_else(cache_dir);
        let path = dir.map(|dir| dir.join(format!("self-test-{:016x}.json", hasher.finish())));
        Self { path, identity }
    }

    /// The results, if they were kept and the file is whole.
    pub fn read(&self) -> Option<Vec<SelfTestRow>> {
        let file: File = serde_json::from_slice(&fs::read(self.path.as_ref()?).ok()?).ok()?;
        (file.identity == self.identity && !file.rows.is_empty()).then_some(file.rows)
    }

    pub fn write(&self, rows: &[SelfTestRow]) {
        let Some(path) = &self.path else { return };
        let file = File { identity: self.identity.clone(), rows: rows.to_vec() };
        if let Err(error) = replace(path, &file) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

/// Writes a file of its own first, so that nobody ever reads half of one.
fn replace(path: &Path, file: &File) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, serde_json::to_vec_pretty(file)?)?;
    fs::rename(&temporary, path)
}

/// `MISTRAL_CACHE`, or this crate's part of the user's cache directory.
fn cache_dir() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || {
        cfg_select! {
            windows => { variable("LOCALAPPDATA") }
            target_vendor = "apple" => { Some(variable("HOME")?.join("Library/Caches")) }
            _ => {
                // Relative paths are to be ignored, says the XDG Base Directory Specification.
                let xdg = variable("XDG_CACHE_HOME").filter(|path| path.is_absolute());
                xdg.or_else(|| Some(variable("HOME")?.join(".cache")))
            }
        }
    };
    variable("MISTRAL_CACHE").or_else(|| Some(user()?.join("mistral-wgpu")))
}
