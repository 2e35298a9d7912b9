//! Trying kernels on a device that one of them may take down.

use std::{path::Path, sync::Arc};

use super::Operation;
use crate::{
    Error, ErrorKind, Result,
    gpu::{Gpu, Kept},
};

/// Does `work`, which tries kernels, on `gpu`; where the device is lost meanwhile, once more on the device opened anew. A
/// variant that loses the device both times is rejected from then on, as is kept in `cache_dir` (see [`Kept::new`]).
/// Returns the device that all of `work` was done on.
///
/// # Errors
/// As `work`; [`ErrorKind::DeviceLost`] when it is lost twice and not by one variant.
pub async fn try_kernels(
    gpu: Arc<Gpu>,
    cache_dir: Option<&Path>,
    mut work: impl AsyncFnMut(&Gpu) -> Result<()>,
) -> Result<Arc<Gpu>> {
    let kept = Kept::new(&gpu, "losing", "", cache_dir);
    let mut losing: Vec<String> = kept.read_json().unwrap_or_default();
    losing.iter().for_each(|name| gpu.reject(name.clone()));
    let (mut gpu, mut suspect) = (gpu, None);
    while let Err(error) = work(&gpu).await {
        if error.kind() != ErrorKind::DeviceLost {
            return Err(error);
        }
        let subject = error.subject().to_owned();
        suspect = match suspect {
            None => Some(subject),
            Some(same) if same == subject && subject.contains('/') => {
                gpu.reject(subject.clone());
                losing.push(subject);
                kept.write_json(&losing);
                None
            }
            Some(_) => return Err(error),
        };
        tracing::warn!("{error}: opening the device again");
        gpu = Arc::new(gpu.reopen().await?);
    }
    Ok(gpu)
}

impl<S> Operation<S> {
    /// Says of the loss of the device that `variant` was being tried.
    pub(super) fn tried(&self, variant: &str, error: Error) -> Error {
        match error.kind() {
            ErrorKind::DeviceLost => {
                let name = format!("{}/{variant}", self.name);
                Error::new(ErrorKind::DeviceLost, name, &error).because(error)
            }
            _ => error,
        }
    }
}
