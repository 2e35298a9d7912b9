//! Fetching the files of a model.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use hf_hub::{
    Cache,
    api::sync::{ApiBuilder, ApiError, ApiRepo, Metadata},
};
use serde::Deserialize;

use super::{Hub, HubModel, failure::is_passing, is_plain, select};
use crate::{Error, ErrorKind, Result};

/// How often a connection that brings nothing is tried again, each time after twice as long.
const TRIES: u32 = 5;

/// What is being fetched.
#[derive(Debug, Clone, Copy)]
pub struct Fetched<'a> {
    /// The file.
    pub file: &'a str,
    /// Bytes of it that are here.
    pub done: u64,
    /// Bytes of it.
    pub total: u64,
}

/// The hub's answer about a repository.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// Fetches what is not yet in the cache of the model as it is now on the hub, and gives its folder, or its
    /// first GGUF file.
    ///
    /// # Errors
    /// [`ErrorKind::Hub`] with advice: a repository or file that is missing or gated, a full disk, a connection
    /// that stays broken. What has come by then is kept and not fetched again.
    pub fn pull(&self, model: &HubModel, progress: &mut dyn FnMut(Fetched<'_>)) -> Result<PathBuf> {
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.token.clone())
            .with_progress(false)
            .with_user_agent(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.failure(model, None, error))?;
        let current = api.repo(self.repo(model, "main"));
        let listing = persist(None, || self.listing(&current)).map_err(|e| self.failure(model, None, e))?;
        if !is_plain(&listing.sha) {
            return Err(Error::expected(
                ErrorKind::Hub,
                model,
                "a commit",
                format_args!("{:?}", listing.sha),
            ));
        }
        let names: Vec<_> = listing.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let selection = select(&names, model)?;
        let kept = cache.repo(self.repo(model, &listing.sha));
        let folder = kept.pointer_path(&listing.sha);
        let commit = api.repo(self.repo(model, &listing.sha));
        let mut get = |name: &String| match folder.join(name).exists() {
            true => Ok(()),
            false => self.get(&api, &commit, &kept, &folder, name, progress).map_err(|error| match error {
                Failure::Here(error) => error,
                Failure::Api(error) => self.failure(model, Some(name), error),
            }),
        };
        selection.companions.iter().try_for_each(&mut get)?;
        selection.weights(&folder)?.iter().try_for_each(&mut get)?;
        // Only now is it the one that `cached` finds.
        let main = cache.repo(self.repo(model, "main"));
        main.create_ref(&listing.sha).map_err(|e| Error::io(&self.cache, e))?;
        Ok(selection.path(&folder))
    }

    fn listing(&self, repository: &ApiRepo) -> std::result::Result<Listing, ApiError> {
        let mut response = repository.info_request().call().map_err(Box::new)?;
        Ok(response.body_mut().read_json().map_err(Box::new)?)
    }

    /// Fetches one file of a commit into the cache, or finds that its content is there from another.
    fn get(
        &self,
        api: &hf_hub::api::sync::Api,
        commit: &ApiRepo,
        kept: &hf_hub::CacheRepo,
        folder: &Path,
        name: &str,
        progress: &mut dyn FnMut(Fetched<'_>),
    ) -> std::result::Result<(), Failure> {
        let url = commit.url(name);
        let metadata = persist(None, || api.metadata(&url))?;
        if !is_plain(metadata.etag()) {
            return Err(ApiError::InvalidHeader("etag").into());
        }
        let blob = kept.blob_path(metadata.etag());
        let partial = blob.with_extension("part");
        let size = metadata.size() as u64;
        if length(&blob) == Some(size) {
            return link(&blob, &folder.join(name)).map_err(Failure::Here);
        }
        persist(Some(&partial), || {
            trim(&partial, size)?;
            let meter = Meter { file: name, done: 0, total: size, progress: &mut *progress };
            let path = commit.download_with_progress(name, meter)?;
            complete(&path, &blob, &partial, &metadata)
        })?;
        Ok(())
    }
}

enum Failure {
    Api(ApiError),
    Here(Error),
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Does `request` again while what fails may pass and `partial` grows, or else a few times more.
fn persist<T>(
    partial: Option<&Path>,
    mut request: impl FnMut() -> std::result::Result<T, ApiError>,
) -> std::result::Result<T, ApiError> {
    let here = || partial.and_then(length);
    let (mut before, mut tries) = (here(), 0);
    loop {
        match request() {
            Err(error) if is_passing(&error) => {
                let now = here();
                tries = if now > before { 0 } else { tries + 1 };
                if tries == TRIES {
                    return Err(error);
                }
                tracing::info!("{error}: trying again");
                before = now;
                thread::sleep(Duration::from_millis(200) * 2u32.pow(tries));
            }
            result => return result,
        }
    }
}

/// Makes a partial file one that can be gone on with: `hf-hub` asks for what comes after it, of which there must
/// be at least a byte.
fn trim(partial: &Path, size: u64) -> std::io::Result<()> {
    match length(partial) {
        Some(length) if length > size => fs::remove_file(partial),
        Some(length) if length == size => {
            OpenOptions::new().write(true).open(partial)?.set_len(size.saturating_sub(1))
        }
        _ => Ok(()),
    }
}

/// Looks whether all of a file has come. Of one that ends too early the rest is to be fetched; one that is too
/// long was not sent as asked.
fn complete(
    path: &Path,
    blob: &Path,
    partial: &Path,
    metadata: &Metadata,
) -> std::result::Result<(), ApiError> {
    let size = metadata.size() as u64;
    let found = length(blob).unwrap_or_default();
    if found == size {
        return Ok(());
    }
    fs::remove_file(path)?;
    if found < size {
        fs::rename(blob, partial)?
    } else {
        fs::remove_file(blob)?
    }
    let message = format!("{found} of {size} bytes came");
    Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message).into())
}

/// Puts content that the cache has into the folder of a commit: by a link as `hf-hub` does, where the system
/// has links for everyone.
fn link(blob: &Path, path: &Path) -> Result<()> {
    let folder = path.parent().expect("a file within a folder");
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(blob, path);
    #[cfg(not(unix))]
    let linked = fs::hard_link(blob, path);
    linked.map_err(|e| Error::io(path, e))
}

fn length(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|file| file.len())
}

/// Counts for [`Hub::pull`] what `hf-hub` reports.
struct Meter<'a> {
    file: &'a str,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Fetched<'_>),
}

impl hf_hub::api::Progress for Meter<'_> {
    fn init(&mut self, _: usize, _: &str) {
        self.done = 0;
    }

    fn update(&mut self, bytes: usize) {
        self.done += bytes as u64;
        (self.progress)(Fetched { file: self.file, done: self.done, total: self.total });
    }

    fn finish(&mut self) {}
}
