//! What a forward pass must read and compute, whatever kernels it is made of.

use std::ops::AddAssign;

use super::Case;
use crate::{
    model::{EMBEDDING, Fit, KvCache, ModelConfig, ModelOptions, WeightFormats, matrix_bytes},
    ops::{PAGE, Roofline, RouteShape},
};

/// Bytes that have to be read from memory, or written, and operations of arithmetic, a multiply-add being two.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Bytes.
    pub bytes: f64,
    /// Operations.
    pub operations: f64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, more: Self) {
        self.bytes += more.bytes;
        self.operations += more.operations;
    }
}

/// The shape of a model and how its numbers are stored: what work depends on.
#[derive(Debug, Clone, Copy)]
pub struct Stored<'a> {
    /// Shape.
    pub config: &'a ModelConfig,
    /// Of matrices.
    pub formats: &'a WeightFormats,
    /// Of keys and values, and the rows of a batch.
    pub options: &'a ModelOptions,
}

/// One forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Texts in the batch.
    pub sequences: u32,
    /// New tokens of each.
    pub tokens: u32,
    /// Tokens of each before them.
    pub position: u32,
    /// Whether the logits of each one's last token are wanted.
    pub logits: bool,
}

/// The passes of a case: chunks of the prompt, or one for each generated token.
pub fn passes(case: Case, max_rows: u32) -> Vec<Pass> {
    let Case { n_prompt, n_gen, n_depth, n_sequences: sequences } = case;
    let chunks = (0..n_prompt).step_by(max_rows.max(1) as usize).map(|first| {
        let tokens = max_rows.min(n_prompt - first);
        Pass { sequences, tokens, position: n_depth + first, logits: first + tokens == n_prompt }
    });
    let steps =
        (0..n_gen).map(|index| Pass { sequences, tokens: 1, position: n_depth + index, logits: true });
    chunks.chain(steps).collect()
}

impl Pass {
    /// The work of each operation by its label in profiles, attention as `attention`.
    pub fn operations(&self, stored: &Stored) -> Vec<(&'static str, Work)> {
        let Stored { config, formats, .. } = *stored;
        let stored_bytes = matrix_bytes(config, formats);
        let layers = config.num_hidden_layers as f64;
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads * config.head_dim;
        let kv_heads = config.num_key_value_heads * config.head_dim;
        let rows = f64::from(self.sequences * self.tokens);
        // A product reads its whole matrix once; activations stay near the arithmetic.
        let product = |label: &'static str, outputs: usize, inputs: usize, rows: f64, count: f64| {
            let operations = 2.0 * outputs as f64 * inputs as f64 * rows;
            (label, Work { bytes: stored_bytes[label] as f64, operations: count * operations })
        };
        // With experts, every row goes through some, and no more are read than rows can choose.
        let experts = |label, outputs: usize, inputs: usize| {
            let Some(RouteShape { experts, chosen }) = config.experts else {
                return product(label, outputs, inputs, rows, layers);
            };
            let pairs = rows * f64::from(chosen);
            let (label, Work { bytes, operations }) = product(label, outputs, inputs, pairs, layers);
            (label, Work { bytes: bytes * (pairs / f64::from(experts)).min(1.0), operations })
        };
        let mut all = vec![
            product("qkv", heads + 2 * kv_heads, hidden, rows, layers),
            ("attention", self.attention(stored)),
            product("o", hidden, heads, rows, layers),
            experts("gate_up", 2 * intermediate, hidden),
            experts("down", hidden, intermediate),
        ];
        if self.logits {
            all.push(product("lm_head", config.vocab_size, hidden, f64::from(self.sequences), 1.0));
        }
        all
    }

    /// The work of what only moves activations about, by its label: no part of the limit, as kernels can be fused.
    pub fn activations(&self, stored: &Stored) -> Vec<(&'static str, Work)> {
        let Stored { config, formats, options } = *stored;
        let format = formats.of(EMBEDDING);
        let rows = f64::from(self.sequences * self.tokens);
        let layers = config.num_hidden_layers as f64;
        let heads = config.num_attention_heads * config.head_dim;
        let kv_heads = 2 * config.num_key_value_heads * config.head_dim;
        let token =
            KvCache::bytes(config, options.kv_format, |_| PAGE.into()) as f64 / f64::from(PAGE) / layers;
        let (codes, scales) = format.plane_bytes(1, config.hidden_size).unwrap_or_default();
        // `count` rows with bytes, and with so many values that take some operations each.
        let moved = |count: f64, bytes: f64, values: usize| Work {
            bytes: rows * count * bytes,
            operations: rows * count * 4.0 * values as f64,
        };
        let hidden = config.hidden_size;
        vec![
            ("embedding", moved(1.0, (codes + scales) as f64 + 4.0 * hidden as f64, hidden)),
            // Reads two and writes two.
            ("rms_norm", moved(2.0 * layers, 16.0 * hidden as f64, hidden)),
            ("rope_kv", moved(layers, 4.0 * (2 * heads + kv_heads) as f64 + token, heads + kv_heads)),
            ("swiglu", moved(layers, 12.0 * config.intermediate_size as f64, config.intermediate_size)),
        ]
    }

    /// Reading the keys and values that any of the new tokens sees, and writing theirs.
    fn attention(&self, stored: &Stored) -> Work {
        let Stored { config, options, .. } = *stored;
        let window = config.widest_window().unwrap_or(u32::MAX);
        let end = self.position + self.tokens;
        let seen = end - (self.position + 1).saturating_sub(window);
        let page = KvCache::bytes(config, options.kv_format, |_| PAGE.into()) as f64 / f64::from(PAGE);
        let visits: u64 = (self.position..end).map(|position| u64::from((position + 1).min(window))).sum();
        let heads = (config.num_attention_heads * config.head_dim * config.num_hidden_layers) as f64;
        Work {
            bytes: f64::from(self.sequences) * f64::from(seen + self.tokens) * page,
            operations: f64::from(self.sequences) * 4.0 * heads * visits as f64,
        }
    }

    /// All of it.
    pub fn work(&self, stored: &Stored) -> Work {
        let mut sum = Work::default();
        self.operations(stored).into_iter().for_each(|(_, work)| sum += work);
        sum
    }
}

/// The work of a whole case, and the seconds below which it cannot be on a device of this roofline where it makes
/// `dispatches`, one after the other.
pub fn least_seconds(case: Case, stored: &Stored, roofline: &Roofline, dispatches: f64) -> (Work, f64) {
    let (mut all, mut seconds) = (Work::default(), dispatches * roofline.dispatch_seconds);
    for pass in passes(case, stored.options.max_rows) {
        let work = pass.work(stored);
        seconds += roofline.seconds(work.bytes, work.operations, 0.0);
        all += work;
    }
    (all, seconds)
}

/// Whether the device's memory takes the model with the cache that `case` needs.
pub fn fits(case: Case, stored: &Stored, memory: Option<u64>) -> bool {
    let options = ModelOptions { cache_tokens: Some(case.cache_tokens(stored)), ..*stored.options };
    Fit::new(stored.config, &options, stored.formats, 0).fits(memory) != Some(false)
}
