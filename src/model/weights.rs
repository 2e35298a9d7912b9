//! The weights of a model on the device: streamed from a checkpoint, or random.

use std::collections::BTreeMap;

use super::{
    ModelConfig, WeightFormats,
    loader::{Loader, Progress},
    stack::{Rows, Stack},
    tensors::{ROUTER, is_router},
};
use crate::{
    Result,
    checkpoint::Checkpoint,
    gpu::Gpu,
    ops::Weight,
    quant::{F32, Format},
    tensor::Tensor,
};

/// Name of the matrix with a row for each token.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output projection, where that is not the embedding.
pub(super) const LM_HEAD: &str = "lm_head.weight";

/// One transformer block. Matrices that read the same input are stacked into one, or one for each of their formats.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `[1, hidden]`.
    pub input_norm: Tensor,
    /// q, k and v: `[(heads + 2 * kv_heads) * head_dim, hidden]`, in the order of [`Rows::Qkv`].
    pub qkv: Vec<Weight>,
    /// `[hidden, heads * head_dim]`.
    pub o: Vec<Weight>,
    /// `[1, hidden]`.
    pub post_attention_norm: Tensor,
    /// What gives the experts' logits, `[experts, hidden]`, `f32`.
    pub router: Option<Weight>,
    /// gate and up: `[2 * intermediate, hidden]`, in the order of [`Rows::GateUp`]; of each expert, if there are any.
    pub gate_up: Vec<Weight>,
    /// `[hidden, intermediate]`; of each expert.
    pub down: Vec<Weight>,
}

/// All weights; cloning shares their memory.
#[derive(Debug, Clone)]
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embed_tokens: Weight,
    /// The blocks.
    pub layers: Vec<Layer>,
    /// `[1, hidden]`.
    pub norm: Tensor,
    /// `[vocab, hidden]`; `None` when it is the embedding.
    lm_head: Option<Weight>,
}

impl Weights {
    /// Room for a model, zeroed: [`fill`](Self::fill) or [`fill_random`](Self::fill_random) follows.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    pub fn allocate(gpu: &Gpu, config: &ModelConfig, formats: impl Into<WeightFormats>) -> Result<Self> {
        let formats = formats.into();
        let norm = || Tensor::zeros(gpu, "norm", 1, config.hidden_size as u32);
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
    /// [`ErrorKind::Checkpoint`](crate::ErrorKind::Checkpoint) for a weight that is not a finite number; as [`Gpu::flush`].
    pub fn fill(
        &self,
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        progress: Progress,
    ) -> Result<()> {
        let mut loader = Loader::new(gpu, checkpoint, config, progress);
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
            gpu.write(&norm.buffer, 0, &vec![1.0f32; norm.cols as usize]);
        }
        Ok(())
    }

    /// Whether any matrix has its columns in another order than its input.
    pub(super) fn reordered(&self) -> bool {
        let matrices =
            self.layers.iter().flat_map(|Layer { qkv, o, gate_up, down, .. }| [qkv, o, gate_up, down]);
        matrices.flatten().chain(&self.lm_head).any(|weight| weight.order.is_some())
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
