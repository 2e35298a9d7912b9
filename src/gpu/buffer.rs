//! Memory on the device.

use std::sync::{Arc, PoisonError};

use futures::channel::oneshot;

use super::{Gpu, budget::Share, host::thread_time, pace::Submission, recording::Commands};
use crate::{Error, ErrorKind, Result};

/// A byte range of a device buffer; cloning shares the memory.
#[derive(Debug, Clone)]
pub struct Buffer {
    pub(super) raw: wgpu::Buffer,
    pub(super) offset: u64,
    size: u64,
    _share: Arc<Share>,
}

impl Buffer {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part of `size` bytes that begins `offset` bytes into this one. To be bound by a kernel,
    /// `offset` must be a multiple of 256.
    ///
    /// # Panics
    /// When the part does not lie inside.
    pub fn slice(&self, offset: u64, size: u64) -> Self {
        assert!(
            offset + size <= self.size,
            "{offset}+{size} lies outside of a buffer of {} bytes",
            self.size
        );
        Self { offset: self.offset + offset, size, ..self.clone() }
    }

    /// The whole buffer that this is a part of.
    pub(super) fn whole(&self) -> Self {
        Self { offset: 0, size: self.raw.size(), ..self.clone() }
    }

    pub(super) fn binding(&self) -> wgpu::BindingResource<'_> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: &self.raw,
            offset: self.offset,
            size: std::num::NonZero::new(self.size),
        })
    }
}

impl Gpu {
    /// Allocates `size` bytes (rounded up to a multiple of 4), zeroed.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the device refuses, or the size is beyond its limits or what
    /// [`Gpu::memory_left`] tells.
    pub fn allocate(&self, label: &str, size: u64) -> Result<Buffer> {
        let size = size.max(4).next_multiple_of(4);
        let limit = self.limits().buffer;
        if size > limit {
            let expected = format!("at most {limit} bytes in one buffer");
            return Err(Error::expected(ErrorKind::OutOfMemory, label, expected, format!("{size} bytes")));
        }
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::UNIFORM
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST;
        self.create_buffer(label, size, usage)
    }

    /// Creates a buffer for `usage`, zeroed.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub(super) fn create_buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        let share = Arc::new(self.take_memory(label, size)?);
        let raw = self.guarded(label, |device| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        })?;
        Ok(Buffer { raw, offset: 0, size, _share: share })
    }

    /// Allocates a buffer that holds `contents`.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn upload<T: bytemuck::NoUninit>(&self, label: &str, contents: &[T]) -> Result<Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(contents);
        let buffer = self.allocate(label, bytes.len() as u64)?;
        self.write(&buffer, 0, bytes);
        Ok(buffer)
    }

    /// Writes `contents`, a multiple of 4 bytes, at `offset`, after all that was replayed so far.
    pub fn write<T: bytemuck::NoUninit>(&self, buffer: &Buffer, offset: u64, contents: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(contents);
        assert!(offset + bytes.len() as u64 <= buffer.size, "write past the end of a buffer");
        if !bytes.is_empty() {
            self.submit_encoded();
            let start = thread_time();
            self.queue.write_buffer(&buffer.raw, buffer.offset + offset, bytes);
            self.count(0, (thread_time() - start).as_nanos() as u64);
        }
    }

    /// Reads the buffers back, in order, after everything replayed so far.
    ///
    /// The future waits for the device inside its first poll; a server awaits it on a thread that
    /// may block.
    ///
    /// # Errors
    /// Whatever went wrong on the device since the last check: [`ErrorKind::OutOfMemory`],
    /// [`ErrorKind::DeviceLost`], [`ErrorKind::Device`].
    pub async fn download<T: bytemuck::AnyBitPattern>(&self, buffers: &[Buffer]) -> Result<Vec<Vec<T>>> {
        self.receive(self.fetch(buffers)?).await
    }

    /// Has the device copy the buffers as they are after everything replayed so far, for
    /// [`receive`](Self::receive). More work may be given before that.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn fetch(&self, buffers: &[Buffer]) -> Result<Download> {
        let sizes: Vec<u64> = buffers.iter().map(|buffer| buffer.size).collect();
        let total: u64 = sizes.iter().sum();
        if total == 0 {
            return Ok(Download { sizes, pending: None });
        }
        let start = thread_time();
        let staging = self.staging(total)?;
        // Held until all is submitted: another thread's download may not overtake what is taken here.
        let mut unsubmitted = self.unsubmitted();
        let commands = unsubmitted.get_or_insert_with(|| Commands::new(&self.device));
        let mut end = 0;
        for buffer in buffers {
            commands.copy(buffer, &staging.slice(end, buffer.size));
            end += buffer.size;
        }
        let submission = self.submit(unsubmitted.take());
        drop(unsubmitted);
        self.count(0, (thread_time() - start).as_nanos() as u64);
        let (send, mapped) = oneshot::channel();
        staging.raw.map_async(wgpu::MapMode::Read, ..total, move |result| drop(send.send(result)));
        Ok(Download { sizes, pending: Some(Pending { staging, mapped, submission }) })
    }

    /// Waits for a download, and not for what was submitted after it.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn receive<T: bytemuck::AnyBitPattern>(&self, download: Download) -> Result<Vec<Vec<T>>> {
        let Download { sizes, pending } = download;
        let Some(Pending { staging, mut mapped, submission }) = pending else {
            return Ok(sizes.iter().map(|_| Vec::new()).collect());
        };
        let mut result = None;
        let waited = self.wait_for(Some(&submission), |_| {
            result = mapped.try_recv().unwrap_or_default();
            result.is_some()
        });
        self.pace().finished(&submission, matches!(waited, Ok(true)));
        self.check()?;
        waited?;
        // Another thread's poll may have taken the callback, and be about to call it.
        let result = match result {
            Some(result) => Ok(result),
            None => mapped.await,
        };
        if !matches!(result, Ok(Ok(()))) {
            // A loss may be told after what it made fail.
            let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
            self.check()?;
            return Err(Error::new(ErrorKind::Device, "download", format!("mapping failed: {result:?}")));
        }
        let mut contents = Vec::with_capacity(sizes.len());
        {
            let bytes = staging
                .raw
                .get_mapped_range(..sizes.iter().sum::<u64>())
                .map_err(|error| Error::new(ErrorKind::Device, "download", &error).because(error))?;
            let mut rest = &bytes[..];
            for size in sizes {
                let (part, after) = rest.split_at(size as usize);
                contents.push(part.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect());
                rest = after;
            }
        }
        staging.raw.unmap();
        let mut kept = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.size() <= STAGING_BYTES && kept.len() < STAGING_BUFFERS {
            kept.push(staging);
        }
        Ok(contents)
    }

    /// Host memory of at least `size` bytes, used before if there is some.
    fn staging(&self, size: u64) -> Result<Buffer> {
        {
            let mut kept = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(index) = kept.iter().position(|buffer| buffer.size() >= size) {
                return Ok(kept.swap_remove(index));
            }
        }
        let size = if size <= STAGING_BYTES { size.next_power_of_two() } else { size };
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        self.create_buffer("download", size, usage)
    }
}

/// Downloads of up to this size use memory again,
const STAGING_BYTES: u64 = 1 << 20;
/// of which so many pieces are kept.
const STAGING_BUFFERS: usize = 8;

/// Buffers on their way to the host.
#[derive(Debug)]
#[must_use]
pub struct Download {
    sizes: Vec<u64>,
    /// `None` when there is nothing to wait for.
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    staging: Buffer,
    mapped: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
    submission: Submission,
}
