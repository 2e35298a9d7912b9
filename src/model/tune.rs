//! What of a model kernels are measured on.

use std::time::Duration;

use super::{
    ModelConfig, ModelOptions, WeightFormats, attention_shape,
    stack::Stack,
    weights::{EMBEDDING, LM_HEAD},
};
use crate::ops::{TuneMatrix, TuneShapes};

/// Keys that kernels are measured over, in models that see so many.
const KEYS: u32 = 1024;

/// Time that a first load may take longer.
const BUDGET: Duration = Duration::from_secs(8);

/// The shapes of the matrices as [`Layer`](super::Layer) stacks them, and of everything else.
pub fn tune_shapes(
    config: &ModelConfig,
    options: &ModelOptions,
    formats: impl Into<WeightFormats>,
) -> TuneShapes {
    let formats = formats.into();
    let attention = attention_shape(config, options.kv_format);
    let (hidden, vocab) = (config.hidden_size as u32, config.vocab_size as u32);
    let mut matrices: Vec<TuneMatrix> = Vec::new();
    let blocks = (0..config.num_hidden_layers).flat_map(|index| Stack::of_block(config, index));
    let runs = blocks.flat_map(|stack| stack.runs(&formats)).map(|run| (run.format, run.rows, run.cols));
    let lm_head = if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD };
    for (format, rows, cols) in runs.chain([(formats.of(lm_head), vocab, hidden)]) {
        let same =
            |matrix: &&mut TuneMatrix| matrix.format == format && (matrix.rows, matrix.cols) == (rows, cols);
        match matrices.iter_mut().find(same) {
            Some(same) => same.count += 1,
            None => matrices.push(TuneMatrix { format, rows, cols, count: 1 }),
        }
    }
    let window = config.widest_window().unwrap_or(u32::MAX);
    TuneShapes {
        matrices,
        adapters: Vec::new(),
        hidden,
        vocab,
        attention,
        keys: KEYS.min(window).min(options.context),
        rows: options.max_rows,
        budget: BUDGET,
    }
}
