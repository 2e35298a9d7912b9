//! What a model will take of the device's memory, before anything is allocated.

use super::{KvCache, ModelConfig, ModelOptions, Weights, activations::Activations};
use crate::quant::Format;

/// Bytes on the device, by what they are for. A count beyond 64 bits stands at the maximum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// How matrices are stored.
    pub format: &'static Format,
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations, tables and logits.
    pub scratch: u64,
}

impl Fit {
    /// Adds up `config` with matrices in `format`.
    pub fn new(config: &ModelConfig, options: &ModelOptions, format: &'static Format) -> Self {
        Self {
            format,
            weights: Weights::bytes(config, format).unwrap_or(u64::MAX),
            kv_cache: KvCache::bytes(config, options.kv_format, options.cache_tokens(config).into()),
            scratch: Activations::bytes(config, options),
        }
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv_cache).saturating_add(self.scratch)
    }

    /// Whether it fits into `memory` bytes with a tenth to spare for the driver; `None` when that is unknown.
    pub fn fits(&self, memory: Option<u64>) -> Option<bool> {
        memory.map(|memory| self.total() <= memory / 10 * 9)
    }
}
