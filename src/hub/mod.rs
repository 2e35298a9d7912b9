//! Models from the [Hugging Face hub](https://huggingface.co): which files of a repository make a model, and
//! fetching them into the cache that Hugging Face's own tools use.
//!
//! Files are fetched by the `hf-hub` crate, whose partial files this module makes the most of: a broken
//! connection goes on where it was, in this run or the next. All files of a model are of one commit.
//!
//! It is version 0.5 with its synchronous client: 1.0 begins a broken file anew (it creates the partial file each
//! time) and needs tokio and Xet's client. What 0.5 does not do is done here: trying again without appending twice,
//! content that another commit has, files that are complete or too long. It shows the token to the hosts that the
//! hub redirects to when it asks for a file's size.

mod failure;
mod fetch;
mod select;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use hf_hub::{Cache, Repo, RepoType};

use crate::{Error, ErrorKind, Result};
pub use fetch::Fetched;
pub use select::{Selection, select};

/// A model on the hub: `OWNER/REPO`, or `OWNER/REPO:CHOICE` with a file or the name of a quantization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `OWNER/REPO`.
    pub repository: String,
    /// A file of it, or what the names of GGUF files say of their quantization, such as `Q4_K_M`.
    pub choice: Option<String>,
}

impl FromStr for HubModel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (repository, choice) = match text.split_once(':') {
            Some((repository, choice)) => (repository, Some(choice.to_owned())),
            None => (text, None),
        };
        let named = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.len() <= 96 && part.chars().all(known) && !part.starts_with('.')
        };
        let valid = repository.split_once('/').is_some_and(|(owner, name)| named(owner) && named(name));
        if !valid || choice.as_ref().is_some_and(String::is_empty) {
            let expected = "OWNER/REPO or OWNER/REPO:FILE-OR-QUANTIZATION";
            return Err(Error::expected(ErrorKind::Argument, "hf", expected, format_args!("`{text}`")));
        }
        Ok(Self { repository: repository.to_owned(), choice })
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.repository)?;
        self.choice.iter().try_for_each(|choice| write!(f, ":{choice}"))
    }
}

/// The hub's address, the key to it, and the folder where what comes from there is kept.
#[derive(Clone)]
pub struct Hub {
    /// `https://huggingface.co`, or that of another that speaks its protocol.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The user's access token.
    pub token: Option<String>,
}

impl Hub {
    /// As Hugging Face's own tools find them: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the token
    /// that `hf auth login` left.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] without a home directory to keep a cache in.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let home = set("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(env::home_dir()?.join(".cache/huggingface")));
        let cache = set("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("hub")));
        let missing = || Error::new(ErrorKind::Io, "HF_HOME", "not set, and there is no home directory");
        let cache = cache.ok_or_else(missing)?;
        let token = || std::fs::read_to_string(home?.join("token")).ok();
        Ok(Self {
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            cache: std::path::absolute(&cache).map_err(|e| Error::io(&cache, e))?,
            token: set("HF_TOKEN").or_else(token).map(|token| token.trim().to_owned()),
        })
    }

    /// The model's folder, or its first GGUF file, if all of it is in the cache.
    pub fn cached(&self, model: &HubModel) -> Option<PathBuf> {
        let cache = Cache::new(self.cache.clone());
        let name = Repo::model(model.repository.clone()).folder_name();
        let commit = std::fs::read_to_string(self.cache.join(name).join("refs/main")).ok()?;
        let repository = cache.repo(Repo::model(model.repository.clone()));
        let folder = repository.pointer_path(Some(commit.trim()).filter(|commit| is_plain(commit))?);
        let mut names = Vec::new();
        list(&folder, "", &mut names);
        let selection = select(&names, model).ok()?;
        let weights = selection.weights(&folder).ok()?;
        weights.iter().all(|name| names.contains(name)).then(|| selection.path(&folder))
    }

    fn repo(&self, model: &HubModel, revision: &str) -> Repo {
        Repo::with_revision(model.repository.clone(), RepoType::Model, revision.to_owned())
    }
}

/// The names of the files in a folder and the folders in it, by slashes.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        // A link to a file that is no more is not listed.
        match entry.path() {
            path if path.is_file() => names.push(format!("{prefix}{name}")),
            path if path.is_dir() && prefix.is_empty() => list(&path, &format!("{name}/"), names),
            _ => {}
        }
    }
}

/// Whether a name that a server gives is no more than a name, wherever it becomes part of a path.
fn is_plain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.+ ()[]".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.chars().all(known)
}
