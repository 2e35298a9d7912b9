//! Which tensors of a checkpoint are one matrix on the device, and in which order their rows lie there.

use std::sync::Arc;

use super::{
    ModelConfig, WeightFormats,
    tensors::{EXPERTS, biased},
};
use crate::{
    Result,
    checkpoint::Rotary,
    gpu::Gpu,
    ops::{RouteShape, Weight},
    quant::{F32, Format},
};

/// Tensors of a block whose matrices read the same input, and how their rows are stored.
pub(super) struct Stack {
    pub label: &'static str,
    /// Names, and numbers of rows.
    pub tensors: Vec<(String, usize)>,
    cols: usize,
    pub order: Rows,
    /// Whether each tensor has a bias beside it.
    biased: bool,
    /// Matrices, one for each expert.
    experts: u32,
}

/// A matrix of a [`Stack`]: rows in one format, their columns in one order.
pub(super) struct Run {
    pub format: &'static Format,
    order: Option<Arc<[u32]>>,
    pub rows: u32,
    pub cols: u32,
    pub experts: u32,
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

    /// The matrices that it consists of: one, unless its tensors are in different formats or orders of columns.
    pub fn runs(&self, formats: &WeightFormats) -> Vec<Run> {
        let stored = |name: &str| (formats.of(name), formats.order(name));
        // Whether every tensor is stored like that which comes `step` later.
        let alike = |step| {
            let later = self.tensors.iter().skip(step);
            self.tensors.iter().zip(later).all(|((a, _), (b, _))| stored(a) == stored(b))
        };
        if let Rows::Experts { parts, rows } = self.order {
            let run = |part: usize, parts: usize, format| Run {
                format,
                order: None,
                rows: (rows / parts) as u32,
                cols: self.cols as u32,
                experts: self.experts,
                first_output: part as u32,
                output_step: parts as u32,
            };
            let own = |part: usize| formats.of(&self.tensors[part].0);
            return match alike(1) {
                true => vec![run(0, 1, own(0))],
                // Matrices begin at even rows.
                false if alike(parts) && (rows / parts).is_multiple_of(2) => {
                    (0..parts).map(|part| run(part, parts, own(part))).collect()
                }
                // Experts in different formats, which nobody writes, are brought to one that loses nothing of theirs.
                false => vec![run(0, 1, &F32)],
            };
        }
        // Tensors whose rows alternate begin one after the other.
        let (apart, output_step) = match self.order {
            Rows::GateUp if !alike(1) => (true, self.tensors.len() as u32),
            _ => (false, 1),
        };
        let mut runs: Vec<Run> = Vec::new();
        let mut first_output = 0;
        for (name, rows) in &self.tensors {
            let ((format, order), rows, cols) = (stored(name), *rows as u32, self.cols as u32);
            match runs.last_mut() {
                Some(last) if (last.format, last.order.as_ref()) == (format, order) && !apart => {
                    last.rows += rows;
                }
                _ => {
                    let order = order.cloned();
                    runs.push(Run { format, order, rows, cols, experts: 1, first_output, output_step });
                }
            }
            first_output += if apart { 1 } else { rows };
        }
        runs
    }

    /// Room for the matrices, zeroed, with their bias if they have one.
    ///
    /// # Errors
    /// As [`Weight::allocate`].
    pub fn allocate(&self, gpu: &Gpu, formats: &WeightFormats) -> Result<Vec<Weight>> {
        let outputs: usize = self.tensors.iter().map(|(_, rows)| rows).sum();
        let bias = self.biased.then(|| gpu.allocate("bias", 4 * outputs as u64)).transpose()?;
        let weight = |run: Run| {
            let weight =
                Weight::allocate_experts(gpu, self.label, run.format, run.experts, run.rows, run.cols)?;
            let order = run.order.map(|order| gpu.upload("order", &order)).transpose()?;
            Ok(Weight { bias: bias.clone(), order, ..weight.at(run.first_output, run.output_step) })
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
pub(super) fn rotary_span(config: &ModelConfig, rotary: Rotary) -> usize {
    match rotary {
        Rotary::Halves => config.head_dim,
        Rotary::Neighbours => 2,
    }
}
