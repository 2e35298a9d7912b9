//! What of a model kernels are measured on.

use std::{path::Path, time::Duration};

use super::{
    Chunk, LogitRows, Model, ModelConfig, ModelOptions, WeightFormats, Weights, attention_shape,
    stack::Stack,
    weights::{EMBEDDING, LM_HEAD},
};
use crate::{
    Result,
    gpu::Gpu,
    ops::{Tune, TuneMatrix, TuneShapes, ensure_form},
    quant::Format,
};

/// Keys that kernels are measured over, in models that see so many.
const KEYS: u32 = 1024;

/// Time that a first load may take longer.
const BUDGET: Duration = Duration::from_secs(8);

/// Weights of the blocks that forms of a step are measured on take about so much: past the caches of most devices.
const BLOCKS_BYTES: u64 = 128 << 20;

/// Whether products do what follows them, or a dispatch of its own does: [`Model::fuse`].
pub(super) const FORMS: [&str; 2] = ["fused", "separate"];

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

/// What [`FORMS`] of a step are known by: the first product of the feed-forward layer stands for the block.
pub(super) fn form_case(format: &Format, rows: u32, cols: u32) -> String {
    format!("block, {} {rows}x{cols}", format.name)
}

/// Makes `gpu` prefer the faster form of a step, by generating with the first blocks of such a model, their weights being zero: see
/// [`ensure_form`].
///
/// # Errors
/// As [`Model::forward`]; what there is no memory for is not measured.
pub fn ensure_form_tuned(
    gpu: &Gpu,
    config: &ModelConfig,
    options: &ModelOptions,
    formats: impl Into<WeightFormats>,
    tune: Tune,
    cache_dir: Option<&Path>,
) -> Result<()> {
    let formats = formats.into();
    let of_blocks = |num_hidden_layers| ModelConfig {
        num_hidden_layers,
        vocab_size: 1,
        tie_word_embeddings: true,
        ..config.clone()
    };
    let bytes = Weights::bytes(&of_blocks(1), &formats).unwrap_or(u64::MAX);
    let config = of_blocks((BLOCKS_BYTES / bytes).clamp(1, config.num_hidden_layers as u64) as usize);
    let options =
        ModelOptions { context: 64, cache_tokens: None, max_rows: 1, max_logit_rows: 1, ..*options };
    let [_, _, gate_up, _] = Stack::of_block(&config, 0);
    let first = &gate_up.runs(&formats)[0];
    let case = form_case(first.format, first.rows, first.cols);
    ensure_form(gpu, &case, &FORMS, tune, cache_dir, || {
        let model = |form: &str| {
            let weights = Weights::allocate(gpu, &config, &formats)?;
            let mut model = Model::new(gpu, config.clone(), weights, options)?;
            model.fuse = form == FORMS[0];
            let sequence = model.sequence();
            Ok((model, sequence))
        };
        let mut models = FORMS.into_iter().map(model).collect::<Result<Vec<_>>>()?;
        Ok(move |form: usize| {
            let (model, sequence) = &mut models[form];
            model.forward(gpu, &mut [Chunk { sequence, tokens: &[0], logits: LogitRows::None }], None)
        })
    })
}
