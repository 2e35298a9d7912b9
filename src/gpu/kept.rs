//! What was found out about a device, kept on disk for the next start.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{Gpu, SHADERS};

/// A file that holds for one adapter, driver, version of the crate and text of the shaders.
///
/// It begins with a line that names all of these; a file whose line says something else counts as
/// absent, and is replaced by the next write.
#[derive(Debug, Clone)]
pub struct Kept {
    /// `None` where the system has no directory for it.
    path: Option<PathBuf>,
    identity: String,
}

impl Kept {
    /// The file about `subject` of `gpu`, of those that have `kind` in their name; in `dir`, or else
    /// where the environment variable `MISTRAL_CACHE` says, or else in the user's cache directory.
    pub fn new(gpu: &Gpu, kind: &str, subject: &str, dir: Option<&Path>) -> Self {
        let device = gpu.description();
        let mut sources = DefaultHasher::new();
        for (name, text) in SHADERS {
            gpu.shaders().get(*name).map_or(*text, String::as_str).hash(&mut sources);
        }
        let identity = format!(
            "{} {}; {}, {}, {}; {}; {:?}; shaders {:x}; {kind} {subject}",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            device.name,
            device.backend,
            device.driver,
            gpu.capabilities(),
            gpu.limits(),
            sources.finish(),
        )
        .replace(char::is_control, " ");
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let dir = dir.map(PathBuf::from).or_else(cache_dir);
        let path = dir.map(|dir| dir.join(format!("{kind}-{:016x}", hasher.finish())));
        Self { path, identity }
    }

    /// What was kept, if anything.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path.as_ref()?).ok()?;
        let rest = bytes.strip_prefix(self.identity.as_bytes())?.strip_prefix(b"\n")?.len();
        Some(bytes.split_off(bytes.len() - rest))
    }

    /// What [`Kept::write_json`] has kept, if anything.
    pub fn read_json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.read()?).ok()
    }

    /// As [`Kept::write`].
    ///
    /// # Panics
    /// When JSON has nothing for `value`.
    pub fn write_json<T: Serialize + ?Sized>(&self, value: &T) {
        self.write(&serde_json::to_vec_pretty(value).expect("a value of JSON"));
    }

    /// Keeps `contents`. What cannot be kept is found anew the next time.
    pub fn write(&self, contents: &[u8]) {
        let Some(path) = &self.path else { return };
        if let Err(error) = replace(path, &[self.identity.as_bytes(), b"\n", contents].concat()) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
}

/// Writes a file of its own first, so that nobody ever reads half of one.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, contents)?;
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
