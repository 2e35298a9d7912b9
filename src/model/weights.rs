//! The weights of a model on the device: streamed from a checkpoint, or random.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{
    ModelConfig, WeightFormats,
    tensors::{EXPERTS, ROUTER, biased, is_router},
};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, DType, Rotary, TensorView},
    gpu::{Buffer, Gpu},
    ops::{RouteShape, Weight},
    quant::{F32, Format},
};

/// Name of the matrix with a row for each token.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output projection, where that is not the embedding.
pub(super) const LM_HEAD: &str = "lm_head.weight";

/// One transformer block. Matrices that read the same input are stacked into one, or one for each of their formats.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, `f32`.
    pub input_norm: Buffer,
    /// q, k and v: `[(heads + 2 * kv_heads) * head_dim, hidden]`, in the order of [`Rows::Qkv`].
    pub qkv: Vec<Weight>,
    /// `[hidden, heads * head_dim]`.
    pub o: Vec<Weight>,
    /// `[hidden]`, `f32`.
    pub post_attention_norm: Buffer,
    /// What gives the experts' logits, `[experts, hidden]`, `f32`.
    pub router: Option<Weight>,
    /// gate and up: `[2 * intermediate, hidden]`, in the order of [`Rows::GateUp`]; of each expert, if there are any.
    pub gate_up: Vec<Weight>,
    /// `[hidden, intermediate]`; of each expert.
    pub down: Vec<Weight>,
}

/// All weights.
#[derive(Debug)]
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embed_tokens: Weight,
    /// The blocks.
    pub layers: Vec<Layer>,
    /// `[hidden]`, `f32`.
    pub norm: Buffer,
    /// `[vocab, hidden]`; `None` when it is the embedding.
    lm_head: Option<Weight>,
}

/// What loading a model is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Trying kernel variants, for so many operations.
    Tuning(u64),
    /// Reading a checkpoint of so many bytes.
    Weights(u64),
}

/// Told how much of a stage is done.
pub type Progress<'a> = &'a mut dyn FnMut(Stage, u64);

/// Values converted at once: 16 MiB of `f32`.
const STAGING_VALUES: usize = 4 << 20;

/// Bytes handed to the driver before waiting for it, so that its staging memory stays bounded.
const STAGING_BYTES: u64 = 64 << 20;

impl Weights {
    /// Room for a model, zeroed: [`fill`](Self::fill) or [`fill_random`](Self::fill_random) follows.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    pub fn allocate(gpu: &Gpu, config: &ModelConfig, formats: impl Into<WeightFormats>) -> Result<Self> {
        let formats = formats.into();
        let norm = || gpu.allocate("norm", 4 * config.hidden_size as u64);
        let layer = |index| -> Result<Layer> {
            let [qkv, o, gate_up, down] =
                Stack::of_block(config, index).map(|stack| stack.allocate(gpu, &formats));
            let router = config
                .experts
                .map(|shape| Weight::allocate(gpu, "router", &F32, shape.experts, config.hidden_size as u32));
            Ok(Layer {
                router: router.transpose()?,
                input_norm: norm()?,
                qkv: qkv?,
                o: o?,
                post_attention_norm: norm()?,
                gate_up: gate_up?,
                down: down?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        let single = |name| {
            let (format, rows, cols) = (formats.of(name), config.vocab_size, config.hidden_size);
            Weight::allocate(gpu, name, format, rows as u32, cols as u32)
        };
        let embed_tokens = single(EMBEDDING)?;
        let lm_head = (!config.tie_word_embeddings).then(|| single(LM_HEAD)).transpose()?;
        Ok(Self { embed_tokens, layers, norm: norm()?, lm_head })
    }

    /// The weights of `checkpoint`, which [`check`](super::check) has accepted, with matrices in `formats`.
    ///
    /// # Errors
    /// As [`Weights::allocate`] and [`Weights::fill`].
    pub fn load(
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        formats: impl Into<WeightFormats>,
        progress: Progress,
    ) -> Result<Self> {
        let weights = Self::allocate(gpu, config, formats)?;
        weights.fill(gpu, checkpoint, config, progress)?;
        Ok(weights)
    }

    /// Encodes and uploads `checkpoint`, which [`check`](super::check) has accepted.
    ///
    /// Host memory stays bounded: tensors are read from the mapped file in pieces of
    /// some 16 MiB and given back to the system.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] for a weight that is not a finite number; as [`Gpu::flush`].
    pub fn fill(
        &self,
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        progress: Progress,
    ) -> Result<()> {
        let total = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
        let span = rotary_span(config, checkpoint.rotary());
        let mut loader = Loader { gpu, checkpoint, progress, done: 0, total, unflushed: 0, span };
        for (index, layer) in self.layers.iter().enumerate() {
            let name = |suffix: &str| format!("model.layers.{index}.{suffix}.weight");
            loader.norm(&layer.input_norm, &name("input_layernorm"))?;
            loader.norm(&layer.post_attention_norm, &name("post_attention_layernorm"))?;
            let weights = [&layer.qkv, &layer.o, &layer.gate_up, &layer.down];
            for (stack, weights) in Stack::of_block(config, index).into_iter().zip(weights) {
                loader.stack(weights, stack)?;
            }
            if let Some(router) = &layer.router {
                loader.matrix(router, &(vec![name(ROUTER)], Rows::Same))?;
            }
        }
        let single = |name: &str| (vec![name.to_owned()], Rows::Same);
        loader.matrix(&self.embed_tokens, &single(EMBEDDING))?;
        loader.norm(&self.norm, "model.norm.weight")?;
        if let Some(lm_head) = &self.lm_head {
            loader.matrix(lm_head, &single(LM_HEAD))?;
        }
        gpu.flush()
    }

    /// Random weights made on the device, for benchmarks and memory checks at true size.
    ///
    /// # Errors
    /// As [`Weights::allocate`] and [`Weights::fill_random`].
    pub fn random(
        gpu: &Gpu,
        config: &ModelConfig,
        formats: impl Into<WeightFormats>,
        seed: u32,
    ) -> Result<Self> {
        let weights = Self::allocate(gpu, config, formats)?;
        weights.fill_random(gpu, seed)?;
        Ok(weights)
    }

    /// Makes random matrices on the device, and norms of ones.
    ///
    /// # Errors
    /// As [`Weight::fill_random`].
    pub fn fill_random(&self, gpu: &Gpu, seed: u32) -> Result<()> {
        let matrices =
            self.layers.iter().flat_map(|Layer { qkv, o, gate_up, down, .. }| [qkv, o, gate_up, down]);
        let matrices = matrices.flatten().chain([&self.embed_tokens]).chain(&self.lm_head);
        let matrices = matrices.chain(self.layers.iter().flat_map(|layer| &layer.router));
        for (seed, weight) in (seed.wrapping_add(1)..).zip(matrices) {
            weight.fill_random(gpu, seed, 1.0 / (weight.cols as f32).sqrt())?;
            gpu.flush()?;
        }
        let norms = self.layers.iter().flat_map(|layer| [&layer.input_norm, &layer.post_attention_norm]);
        for norm in norms.chain([&self.norm]) {
            gpu.write(norm, 0, &vec![1.0f32; norm.size() as usize / 4]);
        }
        Ok(())
    }

    /// The output projection, `[vocab, hidden]`.
    pub fn lm_head(&self) -> &Weight {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Bytes that the matrices of a model take on the device when stored in `formats`; `None` when
    /// that cannot be counted in 64 bits.
    pub fn bytes(config: &ModelConfig, formats: impl Into<WeightFormats>) -> Option<u64> {
        let formats = formats.into();
        super::expected_tensors(config).iter().try_fold(0u64, |sum, (name, shape)| {
            let bytes = match shape[..] {
                [rows, cols] => {
                    let format = if is_router(name) { &F32 } else { formats.of(name) };
                    let (codes, scales) = format.plane_bytes(rows, cols)?;
                    codes.checked_add(scales)?
                }
                _ => 4 * shape.iter().map(|size| *size as u64).product::<u64>(),
            };
            sum.checked_add(bytes)
        })
    }
}

/// Bytes on the device of all matrices by their label, that of the output projection too.
pub fn matrix_bytes(config: &ModelConfig, formats: &WeightFormats) -> BTreeMap<&'static str, u64> {
    let mut bytes = BTreeMap::new();
    let mut add = |label, format: &Format, rows: usize, cols: usize| {
        let (codes, scales) = format.plane_bytes(rows, cols).unwrap_or_default();
        *bytes.entry(label).or_default() += codes + scales;
    };
    for stack in (0..config.num_hidden_layers).flat_map(|index| Stack::of_block(config, index)) {
        let runs = stack.runs(formats).into_iter();
        runs.for_each(|run| {
            add(stack.label, run.format, (run.experts * run.rows) as usize, run.cols as usize)
        });
    }
    let lm_head = if config.tie_word_embeddings { EMBEDDING } else { LM_HEAD };
    add("lm_head", formats.of(lm_head), config.vocab_size, config.hidden_size);
    bytes
}

/// Tensors of a block whose matrices read the same input, and how their rows are stored.
pub(super) struct Stack {
    label: &'static str,
    /// Names, and numbers of rows.
    tensors: Vec<(String, usize)>,
    cols: usize,
    order: Rows,
    /// Whether each tensor has a bias beside it.
    biased: bool,
    /// Matrices, one for each expert.
    experts: u32,
}

/// A matrix of a [`Stack`]: rows in one format.
pub(super) struct Run {
    pub format: &'static Format,
    pub rows: u32,
    pub cols: u32,
    experts: u32,
    first_output: u32,
    output_step: u32,
}

impl Stack {
    /// The stacks of block `index`: q, k and v; o; gate and up; down.
    pub fn of_block(config: &ModelConfig, index: usize) -> [Self; 4] {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let stack = |label, parts: &[(&str, usize)], cols, order| {
            let named =
                |(part, rows): &(&str, usize)| (format!("model.layers.{index}.{part}_proj.weight"), *rows);
            let tensors: Vec<_> = parts.iter().map(named).collect();
            let biased = biased(&tensors[0].0, config);
            Self { label, tensors, cols, order, biased, experts: 1 }
        };
        let of_experts = |experts: u32, label, parts: &[&str], rows, cols| {
            let name = move |expert: u32, part: &str| {
                format!("model.layers.{index}.{EXPERTS}.{expert}.{part}.weight")
            };
            let named = |expert| parts.iter().map(move |part| (name(expert, part), rows));
            let order = Rows::Experts { parts: parts.len(), rows: parts.len() * rows };
            let tensors = (0..experts).flat_map(named).collect();
            Self { label, tensors, cols, order, biased: false, experts }
        };
        let qkv = [("self_attn.q", heads), ("self_attn.k", kv), ("self_attn.v", kv)];
        let gate_up = [("mlp.gate", intermediate), ("mlp.up", intermediate)];
        let (gate_up, down) = match config.experts {
            None => (
                stack("gate_up", &gate_up, hidden, Rows::GateUp),
                stack("down", &[("mlp.down", hidden)], intermediate, Rows::Same),
            ),
            Some(RouteShape { experts, .. }) => (
                of_experts(experts, "gate_up", &["w1", "w3"], intermediate, hidden),
                of_experts(experts, "down", &["w2"], hidden, intermediate),
            ),
        };
        [
            stack("qkv", &qkv, hidden, Rows::qkv(config, Rotary::Neighbours)),
            stack("o", &[("self_attn.o", hidden)], heads, Rows::Same),
            gate_up,
            down,
        ]
    }

    /// The matrices that it consists of: one, unless its tensors are in different formats.
    pub fn runs(&self, formats: &WeightFormats) -> Vec<Run> {
        let alike = self.tensors.iter().all(|(name, _)| formats.of(name) == formats.of(&self.tensors[0].0));
        if let Rows::Experts { rows, .. } = self.order {
            // Experts in different formats, which nobody writes, are brought to one that loses nothing of theirs.
            let format = if alike { formats.of(&self.tensors[0].0) } else { &F32 };
            let (rows, cols, experts) = (rows as u32, self.cols as u32, self.experts);
            return vec![Run { format, rows, cols, experts, first_output: 0, output_step: 1 }];
        }
        // Tensors whose rows alternate begin one after the other.
        let (apart, output_step) = match self.order {
            Rows::GateUp if !alike => (true, self.tensors.len() as u32),
            _ => (false, 1),
        };
        let mut runs: Vec<Run> = Vec::new();
        let mut first_output = 0;
        for (name, rows) in &self.tensors {
            let (format, rows, cols) = (formats.of(name), *rows as u32, self.cols as u32);
            match runs.last_mut() {
                Some(last) if last.format == format && !apart => last.rows += rows,
                _ => runs.push(Run { format, rows, cols, experts: 1, first_output, output_step }),
            }
            first_output += if apart { 1 } else { rows };
        }
        runs
    }

    fn allocate(&self, gpu: &Gpu, formats: &WeightFormats) -> Result<Vec<Weight>> {
        let outputs: usize = self.tensors.iter().map(|(_, rows)| rows).sum();
        let bias = self.biased.then(|| gpu.allocate("bias", 4 * outputs as u64)).transpose()?;
        let weight = |run: Run| {
            let weight =
                Weight::allocate_experts(gpu, self.label, run.format, run.experts, run.rows, run.cols)?;
            Ok(Weight { bias: bias.clone(), ..weight.at(run.first_output, run.output_step) })
        };
        self.runs(formats).into_iter().map(weight).collect()
    }
}

/// How the rows of a matrix on the device are those of one or more tensors of the checkpoint. What is
/// combined later lies side by side, so that it is computed by the same workgroup.
#[derive(Debug, Clone, Copy)]
pub enum Rows {
    /// Those of the one tensor.
    Same,
    /// Heads of q, k and v. The rotated ones, of q and k, have the dimensions that turn together side by
    /// side, where Hugging Face has them half a head apart: `2i` is `i`, `2i + 1` is `i + span / 2`.
    /// Scores are the same, for q and k agree.
    Qkv {
        /// Rows of q, and of k.
        parts: [usize; 2],
        /// Rows within which order changes: those of a head, or 2 where neighbours turn together already.
        span: usize,
    },
    /// Gate and up in turns.
    GateUp,
    /// Matrices of `rows` rows, one for each expert, each of the rows of as many tensors as there are `parts` in
    /// turns.
    Experts {
        /// Tensors of an expert.
        parts: usize,
        /// Their rows.
        rows: usize,
    },
}

impl Rows {
    /// [`Rows::Qkv`] of a model from a checkpoint with `rotary` rows.
    pub fn qkv(config: &ModelConfig, rotary: Rotary) -> Self {
        let heads = [config.num_attention_heads, config.num_key_value_heads];
        let span = rotary_span(config, rotary);
        Self::Qkv { parts: heads.map(|heads| heads * config.head_dim), span }
    }

    /// Number of the tensor that row `row` comes from, and the row there.
    pub fn source(self, row: usize) -> (usize, usize) {
        match self {
            Self::Same => (0, row),
            Self::GateUp => (row % 2, row / 2),
            Self::Experts { parts, rows } => (row / rows * parts + row % parts, row % rows / parts),
            Self::Qkv { parts: [q, k], span } => {
                let dim = row % span;
                let turned = row - dim + dim / 2 + dim % 2 * (span / 2);
                match row {
                    _ if row < q => (0, turned),
                    _ if row < q + k => (1, turned - q),
                    _ => (2, row - q - k),
                }
            }
        }
    }
}

/// Rows of q and k within which a checkpoint's order differs from the device's.
fn rotary_span(config: &ModelConfig, rotary: Rotary) -> usize {
    match rotary {
        Rotary::Halves => config.head_dim,
        Rotary::Neighbours => 2,
    }
}

struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    progress: Progress<'a>,
    done: u64,
    total: u64,
    unflushed: u64,
    /// As of [`Rows::Qkv`].
    span: usize,
}

impl<'a> Loader<'a> {
    /// The weight of a norm.
    fn norm(&mut self, buffer: &Buffer, name: &str) -> Result<()> {
        self.vectors(buffer, &[name.to_owned()], Rows::Same)
    }

    /// The vectors of `names` as one, as `f32`.
    fn vectors(&mut self, buffer: &Buffer, names: &[String], order: Rows) -> Result<()> {
        let tensors = self.tensors(names)?;
        let mut parts = Vec::new();
        for tensor in &tensors {
            let mut values = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut values);
            check_finite(tensor, &values)?;
            parts.push(values);
        }
        let rows = 0..parts.iter().map(Vec::len).sum();
        let values: Vec<f32> =
            rows.map(|row| order.source(row)).map(|(part, row)| parts[part][row]).collect();
        self.gpu.write(buffer, 0, &values);
        self.advance(&tensors, tensors.iter().map(|tensor| tensor.bytes.len()).sum(), 0)
    }

    fn tensors(&self, names: &[String]) -> Result<Vec<TensorView<'a>>> {
        names.iter().map(|name| self.checkpoint.tensor(name)).collect()
    }

    /// The tensors of a stack, in the checkpoint's order of rows.
    fn stack(&mut self, weights: &[Weight], stack: Stack) -> Result<()> {
        let order = match stack.order {
            Rows::Qkv { parts, .. } => Rows::Qkv { parts, span: self.span },
            other => other,
        };
        if let Some(bias) = &weights[0].bias {
            let names: Vec<_> =
                stack.tensors.iter().map(|(name, _)| name.replace(".weight", ".bias")).collect();
            self.vectors(bias, &names, order)?;
        }
        let source = (stack.tensors.into_iter().map(|(name, _)| name).collect(), order);
        weights.iter().try_for_each(|weight| self.matrix(weight, &source))
    }

    /// The rows of a weight from the tensors that have them. Blocks of the format in which they are stored are
    /// taken as they are.
    fn matrix(&mut self, weight: &Weight, (names, order): &(Vec<String>, Rows)) -> Result<()> {
        let tensors = self.tensors(names)?;
        let (format, cols) = (weight.format, weight.cols as usize);
        // An even number of rows, as `Weight::write_rows` wants them to begin.
        let step = (STAGING_VALUES as u32 / weight.cols).max(2) & !1;
        let blocks = format.blocks(cols);
        let (row_codes, row_scales) = (blocks * format.code_words, blocks * format.scale_halves);
        let all = weight.experts * weight.rows;
        for first in (0..all).step_by(step as usize) {
            let rows = first..all.min(first + step);
            let sources: Vec<_> = rows
                .map(|row| order.source((weight.first_output + weight.output_step * row) as usize))
                .map(|(tensor, row)| (&tensors[tensor], row))
                .collect();
            let mut codes = vec![0; sources.len() * row_codes];
            // As many as rows even where there are none.
            let mut scales = vec![0; sources.len() * row_scales.max(1)];
            let rows =
                codes.par_chunks_exact_mut(row_codes).zip(scales.par_chunks_exact_mut(row_scales.max(1)));
            rows.zip(&sources).try_for_each(|((codes, scales), (tensor, row))| {
                let mut values = vec![0.0; cols];
                tensor.to_f32(row * cols, &mut values);
                check_finite(tensor, &values)?;
                match tensor.dtype {
                    DType::Blocks(own) if own == format => tensor.unpack_row(*row, codes, scales),
                    _ => format.encode_rows(&values, cols, codes, &mut scales[..row_scales]),
                }
                Ok(())
            })?;
            scales.truncate(sources.len() * row_scales);
            weight.write_rows(self.gpu, first, &codes, &scales);
            let read = sources.iter().map(|(tensor, _)| tensor.row_bytes()).sum();
            self.advance(&[], read, 4 * codes.len() + 2 * scales.len())?;
        }
        self.advance(&tensors, 0, 0)
    }

    /// Counts bytes read and bytes handed to the driver, and gives `finished` tensors back.
    fn advance(&mut self, finished: &[TensorView], read: usize, written: usize) -> Result<()> {
        for tensor in finished {
            self.checkpoint.release(tensor.name);
        }
        self.done += read as u64;
        (self.progress)(Stage::Weights(self.total), self.done);
        self.unflushed += written as u64;
        if self.unflushed > STAGING_BYTES {
            self.unflushed = 0;
            self.gpu.flush()?;
        }
        Ok(())
    }
}

fn check_finite(tensor: &TensorView, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => {
            let error = Error::expected(ErrorKind::Checkpoint, tensor.name, "finite weights", value);
            Err(error.within(tensor.file.display()))
        }
    }
}
