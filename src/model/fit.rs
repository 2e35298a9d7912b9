//! What a model will take of the device's memory, before anything is allocated.

use super::{KvCache, ModelConfig, ModelOptions, WeightFormats, Weights, activations::Activations};
use crate::{Error, ErrorKind, ops::PAGE};

/// Bytes on the device, by what they are for. A count beyond 64 bits stands at the maximum.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// How matrices are stored.
    pub formats: WeightFormats,
    /// Weights.
    pub weights: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations, tables and logits.
    pub scratch: u64,
    /// Adapters.
    pub adapters: u64,
}

impl Fit {
    /// Adds up `config` with matrices in `formats` and [`adapter_bytes`](super::adapter_bytes) of `adapters`.
    pub fn new(
        config: &ModelConfig,
        options: &ModelOptions,
        formats: impl Into<WeightFormats>,
        adapters: u64,
    ) -> Self {
        let formats = formats.into();
        Self {
            weights: Weights::bytes(config, &formats).unwrap_or(u64::MAX),
            kv_cache: KvCache::bytes(config, options.kv_format, |window| {
                options.tokens_within(window).into()
            }),
            scratch: Activations::bytes(config, options, formats.reordered()),
            formats,
            adapters,
        }
    }

    /// Everything.
    pub fn total(&self) -> u64 {
        [self.kv_cache, self.scratch, self.adapters].into_iter().fold(self.weights, u64::saturating_add)
    }

    /// Whether it fits into `memory` bytes with a tenth to spare for the driver; `None` when that is unknown.
    pub fn fits(&self, memory: Option<u64>) -> Option<bool> {
        memory.map(|memory| self.total() <= memory / 10 * 9)
    }

    /// The longest context in tokens at which matrices in `formats` and so many bytes of `adapters` fit into `memory`
    /// bytes, at most the model's own; `None` when they fit with none.
    pub fn longest_context(
        config: &ModelConfig,
        options: &ModelOptions,
        formats: &WeightFormats,
        adapters: u64,
        memory: u64,
    ) -> Option<u32> {
        let fits = |pages: u32| {
            let context = pages * PAGE;
            // A cache for several texts shrinks with them.
            let share = |tokens: u32| u64::from(tokens) * u64::from(context) / u64::from(options.context);
            let cache_tokens = options.cache_tokens.map(|tokens| share(tokens).max(1) as u32);
            let options = ModelOptions { context, cache_tokens, ..*options };
            Self::new(config, &options, formats, adapters).fits(Some(memory)) == Some(true)
        };
        let (mut longest, mut too_long) = (0, config.max_position_embeddings as u32 / PAGE + 1);
        while too_long - longest > 1 {
            let middle = longest + (too_long - longest) / 2;
            *if fits(middle) { &mut longest } else { &mut too_long } = middle;
        }
        (longest > 0).then_some(longest * PAGE)
    }

    /// The error of a model that does not fit into `memory` bytes: what was asked, and what of `choices`,
    /// the most exact first, would fit.
    pub fn shortage(
        &self,
        config: &ModelConfig,
        options: &ModelOptions,
        choices: &[WeightFormats],
        memory: u64,
    ) -> Error {
        let longest = |formats| {
            Some((formats, Self::longest_context(config, options, formats, self.adapters, memory)?))
        };
        let named = |(formats, context): (&WeightFormats, u32)| match formats {
            WeightFormats::Uniform(format) => {
                format!("--weights {} with --context up to {context}", format.name)
            }
            WeightFormats::Own(_) => format!("its own formats with --context up to {context}"),
        };
        let as_long = choices.iter().filter_map(longest);
        let as_long = as_long.clone().find(|(_, context)| *context >= options.context);
        let advice: Vec<_> = match (longest(&self.formats), as_long) {
            (same, Some(other)) => same.into_iter().chain([other]).map(named).collect(),
            (Some(same), None) => vec![named(same)],
            (None, None) => choices.iter().filter_map(longest).take(1).map(named).collect(),
        };
        let advice = if advice.is_empty() { "nothing smaller fits".into() } else { advice.join(", or ") };
        let [total, weights, kv_cache, scratch, memory] =
            [self.total(), self.weights, self.kv_cache, self.scratch, memory].map(size);
        let adapters = match self.adapters {
            0 => String::new(),
            bytes => format!(", adapters {}", size(bytes)),
        };
        let (format, context, kv) = (self.formats.name(), options.context, options.kv_format.name());
        let message = format!(
            "{format} weights, a context of {context} tokens and a KV cache in {kv} take {total} (weights \
             {weights}, KV cache {kv_cache}, scratch {scratch}{adapters}) of the {memory} that are left; what fits: {advice}"
        );
        Error::new(ErrorKind::OutOfMemory, "model", message)
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{:.1} GiB", bytes as f64 / 0x4000_0000 as f64),
    }
}
