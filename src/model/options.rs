//! How much memory a model works with.

use super::{ModelConfig, activations::Activations};
use crate::ops::{KvFormat, PAGE};

/// How large a model's working memory is.
#[derive(Debug, Clone, Copy)]
pub struct ModelOptions {
    /// Longest sequence, in tokens.
    pub context: u32,
    /// Tokens that the KV cache holds over all sequences; `None`: one sequence of `context`
    /// tokens, or of as many as the window lets it keep.
    pub cache_tokens: Option<u32>,
    /// Tokens in a batch at most.
    pub max_rows: u32,
    /// Tokens in a batch whose logits can be asked for at most.
    pub max_logit_rows: u32,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Largest piece of the KV cache bound at once, in bytes; the device's limit if that is less.
    pub segment_bytes: u64,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            context: 4096,
            cache_tokens: None,
            max_rows: 256,
            max_logit_rows: 64,
            kv_format: KvFormat::F16,
            segment_bytes: 128 << 20,
        }
    }
}

impl ModelOptions {
    /// With batches of 512 tokens where their activations take no more than a 32nd of `memory` bytes: for fewer, a large GPU has
    /// not workgroups enough, and every batch reads all weights.
    pub fn with_batches_for(self, config: &ModelConfig, memory: Option<u64>) -> Self {
        let large = Self { max_rows: 512, ..self };
        let is_little = |memory| Activations::bytes(config, &large, false) <= memory / 32;
        if memory.is_some_and(is_little) { large } else { self }
    }

    /// Tokens that the KV cache of `config` gets room for in the layers that keep the most.
    pub fn cache_tokens(&self, config: &ModelConfig) -> u32 {
        self.tokens_within(config.widest_window())
    }

    /// Tokens that it gets room for in layers with such a window.
    pub(super) fn tokens_within(&self, window: Option<u32>) -> u32 {
        // A chunk needs its own keys and the window before them; forks need a page or two to go on.
        let kept = |window: u32| window.saturating_add(self.max_rows);
        let longest = self.context.min(window.map_or(u32::MAX, kept)).saturating_add(4 * PAGE);
        self.cache_tokens.unwrap_or(longest)
    }
}
