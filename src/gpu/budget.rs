//! What this process has taken of the device's memory, and what it may take.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{Gpu, memory};
use crate::{Error, ErrorKind, Result};

/// From this size on the driver is asked for the memory it has left before an allocation, for many
/// drivers swap rather than refuse.
const LARGE: u64 = 16 << 20;

/// Bytes of all buffers of one device.
#[derive(Debug, Default)]
pub(super) struct Budget {
    in_use: AtomicU64,
    peak: AtomicU64,
    /// Bytes at most; `None`: what the driver gives.
    limit: Option<u64>,
}

/// Bytes taken out of a [`Budget`] until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.in_use.fetch_sub(self.bytes, Relaxed);
    }
}

impl Budget {
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { limit, ..Self::default() })
    }

    /// Takes `bytes` out, unless they are more than is left.
    fn take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let limit = self.limit.unwrap_or(u64::MAX);
        let add = |in_use: u64| in_use.checked_add(bytes).filter(|sum| *sum <= limit);
        let before = self.in_use.fetch_update(Relaxed, Relaxed, add).ok()?;
        self.peak.fetch_max(before + bytes, Relaxed);
        Some(Share { budget: self.clone(), bytes })
    }
}

impl Gpu {
    /// Bytes of all buffers that exist on the device now. What the driver keeps beside them (compiled
    /// kernels, copies of what is being written) is not counted.
    pub fn memory_in_use(&self) -> u64 {
        self.budget.in_use.load(Relaxed)
    }

    /// The most that [`Gpu::memory_in_use`] has been.
    pub fn peak_memory(&self) -> u64 {
        self.budget.peak.load(Relaxed)
    }

    /// Bytes that can still be allocated: what is left of [`GpuOptions::memory`](super::GpuOptions), or
    /// else what the driver would still give now; `None` where nothing tells.
    pub fn memory_left(&self) -> Option<u64> {
        match self.budget.limit {
            Some(limit) => Some(limit.saturating_sub(self.memory_in_use())),
            None => memory::of(&self.adapter).free,
        }
    }

    /// Takes `bytes` out of the budget for the buffer `label`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when there is less.
    pub(super) fn take_memory(&self, label: &str, bytes: u64) -> Result<Share> {
        let ask = self.budget.limit.is_none() && bytes >= LARGE;
        let refused = ask && self.memory_left().is_some_and(|left| bytes > left);
        let share = if refused { None } else { self.budget.take(bytes) };
        share.ok_or_else(|| {
            let (left, in_use) = (self.memory_left().unwrap_or_default(), self.memory_in_use());
            let expected = format!("at most {left} more bytes, with {in_use} in use");
            Error::expected(ErrorKind::OutOfMemory, label, expected, format!("{bytes} bytes"))
        })
    }
}
