//! The weights of a model on the device: streamed from a checkpoint, or random.

use super::ModelConfig;
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, Rotary, TensorView},
    gpu::{Buffer, Gpu},
    ops::Weight,
    quant::Format,
};

/// One transformer block. Matrices that read the same input are stacked into one.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, `f32`.
    pub input_norm: Buffer,
    /// q, k and v: `[(heads + 2 * kv_heads) * head_dim, hidden]`, in the order of [`Rows::Qkv`].
    pub qkv: Weight,
    /// `[hidden, heads * head_dim]`.
    pub o: Weight,
    /// `[hidden]`, `f32`.
    pub post_attention_norm: Buffer,
    /// gate and up: `[2 * intermediate, hidden]`, in the order of [`Rows::GateUp`].
    pub gate_up: Weight,
    /// `[hidden, intermediate]`.
    pub down: Weight,
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
    pub fn allocate(gpu: &Gpu, config: &ModelConfig, format: &'static Format) -> Result<Self> {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let heads = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let matrix = |label: &str, rows: usize, cols: usize| {
            Weight::allocate(gpu, label, format, rows as u32, cols as u32)
        };
        let norm = || gpu.allocate("norm", 4 * hidden as u64);
        let layer = |_| -> Result<Layer> {
            Ok(Layer {
                input_norm: norm()?,
                qkv: matrix("qkv", heads + 2 * kv, hidden)?,
                o: matrix("o", hidden, heads)?,
                post_attention_norm: norm()?,
                gate_up: matrix("gate_up", 2 * intermediate, hidden)?,
                down: matrix("down", hidden, intermediate)?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        let embed_tokens = matrix("embed_tokens", config.vocab_size, hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(matrix("lm_head", config.vocab_size, hidden)?),
        };
        Ok(Self { embed_tokens, layers, norm: norm()?, lm_head })
    }

    /// The weights of `checkpoint`, which [`check`](super::check) has accepted, with matrices in `format`.
    ///
    /// # Errors
    /// As [`Weights::allocate`] and [`Weights::fill`].
    pub fn load(
        gpu: &Gpu,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        format: &'static Format,
        progress: Progress,
    ) -> Result<Self> {
        let weights = Self::allocate(gpu, config, format)?;
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
        let mut loader = Loader { gpu, checkpoint, progress, done: 0, total, unflushed: 0 };
        let qkv = Rows::qkv(config, checkpoint.rotary());
        for (index, layer) in self.layers.iter().enumerate() {
            let name = |suffix: &str| format!("model.layers.{index}.{suffix}.weight");
            let attention = ["q", "k", "v"].map(|part| name(&format!("self_attn.{part}_proj")));
            let gate_up = ["gate", "up"].map(|part| name(&format!("mlp.{part}_proj")));
            loader.vector(&layer.input_norm, &name("input_layernorm"))?;
            loader.matrix(&layer.qkv, &attention, qkv)?;
            loader.matrix(&layer.o, &[name("self_attn.o_proj")], Rows::Same)?;
            loader.vector(&layer.post_attention_norm, &name("post_attention_layernorm"))?;
            loader.matrix(&layer.gate_up, &gate_up, Rows::GateUp)?;
            loader.matrix(&layer.down, &[name("mlp.down_proj")], Rows::Same)?;
        }
        loader.matrix(&self.embed_tokens, &["model.embed_tokens.weight".to_owned()], Rows::Same)?;
        loader.vector(&self.norm, "model.norm.weight")?;
        if let Some(lm_head) = &self.lm_head {
            loader.matrix(lm_head, &["lm_head.weight".to_owned()], Rows::Same)?;
        }
        gpu.flush()
    }

    /// Random weights made on the device, for benchmarks and memory checks at true size.
    ///
    /// # Errors
    /// As [`Weights::allocate`] and [`Weights::fill_random`].
    pub fn random(gpu: &Gpu, config: &ModelConfig, format: &'static Format, seed: u32) -> Result<Self> {
        let weights = Self::allocate(gpu, config, format)?;
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
        for (seed, weight) in
            (seed.wrapping_add(1)..).zip(matrices.chain([&self.embed_tokens]).chain(&self.lm_head))
        {
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

    /// Bytes that the matrices of a model take on the device when stored as `format`; `None` when
    /// that cannot be counted in 64 bits.
    pub fn bytes(config: &ModelConfig, format: &Format) -> Option<u64> {
        super::expected_tensors(config).iter().try_fold(0u64, |sum, (_, shape)| {
            let bytes = match shape[..] {
                [rows, cols] => {
                    let (codes, scales) = format.plane_bytes(rows, cols)?;
                    codes.checked_add(scales)?
                }
                _ => 4 * shape.iter().map(|size| *size as u64).product::<u64>(),
            };
            sum.checked_add(bytes)
        })
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
}

impl Rows {
    /// [`Rows::Qkv`] of a model from a checkpoint with `rotary` rows.
    pub fn qkv(config: &ModelConfig, rotary: Rotary) -> Self {
        let heads = [config.num_attention_heads, config.num_key_value_heads];
        let span = match rotary {
            Rotary::Halves => config.head_dim,
            Rotary::Neighbours => 2,
        };
        Self::Qkv { parts: heads.map(|heads| heads * config.head_dim), span }
    }

    /// Number of the tensor that row `row` comes from, and the row there.
    pub fn source(self, row: usize) -> (usize, usize) {
        match self {
            Self::Same => (0, row),
            Self::GateUp => (row % 2, row / 2),
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

struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    progress: Progress<'a>,
    done: u64,
    total: u64,
    unflushed: u64,
}

impl Loader<'_> {
    /// A vector, as `f32`.
    fn vector(&mut self, buffer: &Buffer, name: &str) -> Result<()> {
        let tensor = self.checkpoint.tensor(name)?;
        let mut values = vec![0.0; tensor.elements()];
        tensor.to_f32(0, &mut values);
        check_finite(&tensor, &values)?;
        self.gpu.write(buffer, 0, &values);
        self.advance(&[tensor], tensor.bytes.len(), 0)
    }

    /// The matrices of `names`, all of as many columns, as one.
    fn matrix(&mut self, weight: &Weight, names: &[String], order: Rows) -> Result<()> {
        let tensors = names.iter().map(|name| self.checkpoint.tensor(name)).collect::<Result<Vec<_>>>()?;
        let cols = tensors[0].shape[1];
        let rows: usize = tensors.iter().map(|tensor| tensor.shape[0]).sum();
        let format = weight.format;
        // An even number of rows, as `Weight::write_rows` wants them to begin.
        let step = (STAGING_VALUES / cols).max(2) & !1;
        let blocks = format.blocks(cols);
        let mut values = Vec::new();
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            values.resize(count * cols, 0.0);
            let mut read = 0;
            for (row, values) in (first..).zip(values.chunks_exact_mut(cols)) {
                let (tensor, row) = order.source(row);
                tensors[tensor].to_f32(row * cols, values);
                check_finite(&tensors[tensor], values)?;
                read += cols * tensors[tensor].dtype.size();
            }
            let mut codes = vec![0; count * blocks * format.code_words];
            let mut scales = vec![0; count * blocks * format.scale_halves];
            format.encode_rows(&values, cols, &mut codes, &mut scales);
            weight.write_rows(self.gpu, first as u32, &codes, &scales);
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
