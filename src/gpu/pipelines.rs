//! What the driver made of the kernels, kept on disk for the next start.

use std::{
    hash::{DefaultHasher, Hasher},
    path::Path,
};

use super::{Capability, Gpu, Kept};
use crate::Result;

/// The driver's cache of compiled pipelines, and the file that it is kept in.
#[derive(Debug)]
pub(super) struct Pipelines {
    cache: wgpu::PipelineCache,
    kept: Kept,
    /// Of the data in the file.
    checksum: Option<u64>,
}

impl Pipelines {
    pub fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }
}

fn checksum(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

/// The data of a file: 8 bytes of checksum, then what the driver wants back.
fn parse(contents: &[u8]) -> Option<(u64, &[u8])> {
    let (expected, data) = contents.split_first_chunk()?;
    let expected = u64::from_le_bytes(*expected);
    (expected == checksum(data)).then_some((expected, data))
}

impl Gpu {
    /// Lets kernels that are compiled from now on profit from those kept in `dir` (see [`Kept::new`]) at an
    /// earlier start, where the driver has such a cache: Vulkan's.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device) when the driver refuses to have one.
    pub fn load_pipelines(&self, dir: Option<&Path>) -> Result<()> {
        if !self.capabilities().has(&[Capability::PipelineCache]) || self.pipelines.get().is_some() {
            return Ok(());
        }
        let kept = Kept::new(self, "pipelines", "", dir);
        let contents = kept.read();
        let known = contents.as_deref().and_then(parse);
        let descriptor = wgpu::PipelineCacheDescriptor {
            label: Some("pipelines"),
            data: known.map(|(_, data)| data),
            fallback: true,
        };
        let cache = self.guarded("pipelines", |device| {
            // SAFETY: the data is what `get_data` returned for this adapter, driver and version of the crate: the
            // file names them in its first line, and a checksum shows that it is whole. It lies in the user's
            // own directory, whose contents are trusted as this program is. wgpu and the driver compare their own headers as well.
            unsafe { device.create_pipeline_cache(&descriptor) }
        })?;
        let checksum = known.map(|(checksum, _)| checksum);
        // Another thread may have been quicker: its cache is as good.
        let _ = self.pipelines.set(Pipelines { cache, kept, checksum });
        Ok(())
    }

    /// Keeps what was compiled since [`Gpu::load_pipelines`] for the next start, if the driver tells.
    pub fn keep_pipelines(&self) {
        let Some(pipelines) = self.pipelines.get() else { return };
        let Some(data) = pipelines.cache.get_data() else { return };
        let checksum = checksum(&data);
        if pipelines.checksum != Some(checksum) {
            pipelines.kept.write(&[&checksum.to_le_bytes(), &data[..]].concat());
        }
    }
}
