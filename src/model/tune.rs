//! What of a model kernels are measured on.

use std::time::Duration;

use super::{ModelConfig, ModelOptions, attention_shape};
use crate::{
    ops::{TuneMatrix, TuneShapes},
    quant::Format,
};

/// Keys that kernels are measured over, in models that see so many.
const KEYS: u32 = 1024;

/// Time that a first load may take longer.
const BUDGET: Duration = Duration::from_secs(8);

/// The shapes of the matrices as [`Layer`](super::Layer) stacks them, and of everything else.
pub fn tune_shapes(config: &ModelConfig, options: &ModelOptions, format: &'static Format) -> TuneShapes {
    let attention = attention_shape(config, options.kv_format);
    let (hidden, intermediate) = (config.hidden_size as u32, config.intermediate_size as u32);
    let (layers, vocab) = (config.num_hidden_layers as u32, config.vocab_size as u32);
    let heads = attention.heads * attention.head_dim;
    let qkv = heads + 2 * attention.kv_heads * attention.head_dim;
    let mut matrices: Vec<TuneMatrix> = Vec::new();
    for (rows, cols, count) in [
        (qkv, hidden, layers),
        (hidden, heads, layers),
        (2 * intermediate, hidden, layers),
        (hidden, intermediate, layers),
        (vocab, hidden, 1),
    ] {
        match matrices.iter_mut().find(|matrix| (matrix.rows, matrix.cols) == (rows, cols)) {
            Some(same) => same.count += count,
            None => matrices.push(TuneMatrix { rows, cols, count }),
        }
    }
    let window = config.widest_window().unwrap_or(u32::MAX);
    TuneShapes {
        weights: format,
        matrices,
        hidden,
        vocab,
        attention,
        keys: KEYS.min(window).min(options.context),
        rows: options.max_rows,
        budget: BUDGET,
    }
}
