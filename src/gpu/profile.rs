//! GPU time by label, from timestamps around one pass per step.

use std::collections::HashMap;

use super::{Buffer, Gpu, recording::Commands};
use crate::{Error, ErrorKind, Result};

/// Steps timed in one query set (the portable maximum is 4096 timestamps).
const CAPACITY: u32 = 2048;

/// Collects the time that steps took on the device, summed by label.
#[derive(Debug)]
pub struct Profile {
    pub(super) queries: wgpu::QuerySet,
    labels: Vec<&'static str>,
    resolved: Buffer,
    seconds: HashMap<&'static str, (f64, u64)>,
}

impl Profile {
    /// Prepares profiling on `gpu`.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when the device has no timestamps; as [`Gpu::allocate`].
    pub fn new(gpu: &Gpu) -> Result<Self> {
        if !gpu.capabilities().has(&[super::Capability::Timestamp]) {
            return Err(Error::expected(
                ErrorKind::Device,
                "profile",
                "timestamp queries",
                gpu.capabilities(),
            ));
        }
        let queries = gpu.guarded("profile", |device| {
            device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("profile"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * CAPACITY,
            })
        })?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = gpu.create_buffer("profile", u64::from(2 * CAPACITY) * 8, usage)?;
        Ok(Self { queries, labels: Vec::new(), resolved, seconds: HashMap::new() })
    }

    /// Indices of the two timestamps around the next step's pass.
    pub(super) fn next(&mut self, label: &'static str) -> Result<(u32, u32)> {
        let count = self.labels.len() as u32;
        if count == CAPACITY {
            let expected = format!("at most {CAPACITY} steps between two collections");
            return Err(Error::new(ErrorKind::Argument, "profile", expected));
        }
        self.labels.push(label);
        Ok((2 * count, 2 * count + 1))
    }

    /// Adds up the timestamps written since the last call.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn collect(&mut self, gpu: &Gpu) -> Result<()> {
        if self.labels.is_empty() {
            return Ok(());
        }
        let count = 2 * self.labels.len() as u32;
        gpu.unsubmitted().get_or_insert_with(|| Commands::new(&gpu.device)).encoder.resolve_query_set(
            &self.queries,
            0..count,
            &self.resolved.raw,
            0,
        );
        let ticks = gpu.download::<u64>(std::slice::from_ref(&self.resolved)).await?.remove(0);
        let period = f64::from(gpu.queue.get_timestamp_period()) * 1e-9;
        for (label, pair) in self.labels.drain(..).zip(ticks.chunks_exact(2)) {
            let entry = self.seconds.entry(label).or_default();
            entry.0 += pair[1].saturating_sub(pair[0]) as f64 * period;
            entry.1 += 1;
        }
        Ok(())
    }

    /// Label, seconds and number of dispatches, longest first.
    pub fn totals(&self) -> Vec<(&'static str, f64, u64)> {
        let mut totals: Vec<_> = self.seconds.iter().map(|(label, (s, n))| (*label, *s, *n)).collect();
        totals.sort_by(|a, b| b.1.total_cmp(&a.1));
        totals
    }
}
