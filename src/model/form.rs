//! The choice among forms of a step of few rows, which differ in how it is cut into dispatches.

use std::path::Path;

use super::{
    Chunk, FEW_ROWS, LogitRows, Model, ModelConfig, ModelOptions, WeightFormats, Weights, stack::Stack,
};
use crate::{
    Result,
    gpu::Gpu,
    ops::{Tune, ensure_form, few_read, timed},
    quant::Format,
    tensor::ActivationFormat,
};

/// Weights of the blocks that forms are measured on take about so much: past the caches of most devices.
const BLOCKS_BYTES: u64 = 128 << 20;

/// How long a step should take at least, of as many blocks as the model has at most: what surrounds it hardly matters then.
const STEP_SECONDS: f64 = 10e-3;

/// Forms of a step, best first where they are as fast.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// Products do what surrounds them where they can, and round no activations, so that they can do more.
    Floats,
    /// Products do what surrounds them where they can, each the fastest by itself.
    Fused,
    /// Products do nothing else.
    Separate,
}

impl Form {
    const ALL: [Self; 3] = [Self::Floats, Self::Fused, Self::Separate];

    fn name(self) -> &'static str {
        match self {
            Self::Floats => "floats",
            Self::Fused => "fused",
            Self::Separate => "separate",
        }
    }

    /// What was measured fastest for a model with these weights.
    pub fn of(gpu: &Gpu, weights: &Weights) -> Self {
        let gate_up = &weights.layers[0].gate_up[0];
        let preferred = gpu.preferred(&case(gate_up.format, gate_up.rows, gate_up.cols));
        let measured = Self::ALL.into_iter().find(|form| preferred.as_deref() == Some(form.name()));
        measured.unwrap_or(Self::Fused)
    }
}

/// What the choice is known by: the first product of the feed-forward layer stands for the block.
fn case(format: &Format, rows: u32, cols: u32) -> String {
    format!("block, {} {rows}x{cols}", format.name)
}

/// Makes `gpu` prefer the fastest form of a step, by generating with blocks of such a model, their weights being zero: see
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
    let blocks = (BLOCKS_BYTES / bytes).clamp(1, config.num_hidden_layers as u64) as usize;
    let (context, max_rows) = (FEW_ROWS as u32, FEW_ROWS as u32);
    let options = ModelOptions { context, cache_tokens: None, max_rows, max_logit_rows: 1, ..*options };
    let stacks = Stack::of_block(config, 0).map(|stack| stack.runs(&formats));
    let first = &stacks[2][0];
    let case = case(first.format, first.rows, first.cols);
    let read = stacks.iter().flatten().map(|run| few_read(gpu, run.format, run.rows, run.cols));
    let round = read.collect::<Result<Vec<_>>>()?.iter().any(|read| *read != ActivationFormat::F32);
    let forms = if round { &Form::ALL } else { &Form::ALL[1..] };
    let names: Vec<_> = forms.iter().map(|form| form.name()).collect();
    ensure_form(gpu, &case, &names, tune, cache_dir, || {
        let weights = Weights::allocate(gpu, &of_blocks(blocks), &formats)?;
        let model = |form, blocks| {
            let mut repeated = weights.clone();
            repeated.layers = weights.layers.iter().cycle().take(blocks).cloned().collect();
            let mut model = Model::new(gpu, of_blocks(blocks), repeated, options)?;
            model.form = form;
            Ok(model)
        };
        let mut step = stepper(gpu, model(Form::Fused, blocks)?);
        timed(gpu, || step(1))?; // The first time, drivers compile.
        let enough = STEP_SECONDS / timed(gpu, || step(1))? * blocks as f64;
        let blocks = (enough as usize).clamp(blocks, config.num_hidden_layers);
        let models = forms.iter().map(|form| model(*form, blocks)).collect::<Result<Vec<_>>>()?;
        let mut steps: Vec<_> = models.into_iter().map(|model| stepper(gpu, model)).collect();
        Ok(move |form: usize, rows| steps[form](rows))
    })
}

/// What hands a step of so many rows to the device, the first of a text.
fn stepper(gpu: &Gpu, mut model: Model) -> impl FnMut(u32) -> Result<()> {
    let mut sequence = model.sequence();
    move |rows| {
        sequence.truncate(0)?;
        let tokens = &[0; FEW_ROWS][..rows as usize];
        let mut chunks = [Chunk { sequence: &mut sequence, tokens, logits: LogitRows::None }];
        model.forward(gpu, &mut chunks, None)
    }
}
