//! The working memory of a forward pass, allocated once for the largest batch.

use super::{FEW_ROWS, ModelConfig, ModelOptions, batch::Tables};
use crate::{
    Error, ErrorKind, Result,
    gpu::{Buffer, Gpu},
    ops::{AttentionShape, Epilogue, PAGE, RouteShape, Routes, Row, WorkItem, count},
    quant::BLOCK,
    reference::rope_table,
    tensor::{F16Tensor, Q8Tensor, Rounded, Tensor},
};

/// cos and sin of every rotary angle, scaled as the model wants, computed in `f64` on the host: WGSL promises them only
/// within one turn.
#[derive(Debug)]
pub(super) struct RopeTable {
    /// `[positions, head_dim / 2]` pairs of `f32`: cos, sin.
    pub table: Buffer,
}

impl RopeTable {
    pub fn new(gpu: &Gpu, config: &ModelConfig, positions: u32) -> Result<Self> {
        let frequencies = config.rope_frequencies(positions);
        let (cos, sin) = rope_table(&frequencies, config.rope_attention_factor(), 0..positions);
        let pairs: Vec<[f32; 2]> = cos.into_iter().zip(sin).map(|(cos, sin)| [cos, sin]).collect();
        Ok(Self { table: gpu.upload("rope", &pairs)? })
    }
}

/// Activations that a product reads, in the form that its kernel wants.
#[derive(Debug)]
pub(super) struct ProductInput {
    pub f32: Tensor,
    pub rounded: Rounded,
}

impl ProductInput {
    /// Of `per_row` rows for each of the batch.
    fn new(gpu: &Gpu, label: &str, rows: u32, per_row: u32, cols: usize) -> Result<Self> {
        let f32 = Tensor::zeros(gpu, label, rows * per_row, cols as u32)?;
        Ok(Self { f32, rounded: rounded(gpu, label, rows, per_row, cols as u32)? })
    }
}

/// In 16 bits, only as many rows as kernels of few rows multiply.
fn rounded(gpu: &Gpu, label: &str, rows: u32, per_row: u32, cols: u32) -> Result<Rounded> {
    let few = rows.min(FEW_ROWS as u32);
    Ok(Rounded {
        q8: Q8Tensor::zeros(gpu, label, rows * per_row, cols)?,
        f16: F16Tensor::zeros(gpu, label, few * per_row, cols)?,
    })
}

fn rounded_bytes(rows: u32, per_row: u32, cols: usize) -> u64 {
    let few = rows.min(FEW_ROWS as u32);
    Q8Tensor::bytes((rows * per_row).into(), cols as u64)
        + F16Tensor::bytes((few * per_row).into(), cols as u64)
}

/// What a mixture of experts has beside the rows of a feed-forward layer.
#[derive(Debug)]
pub(super) struct ExpertActivations {
    /// `[rows, experts]`.
    pub logits: Tensor,
    /// Which rows go where.
    pub routes: Routes,
    /// Input of the experts, `[rows * chosen, hidden]`.
    pub x: ProductInput,
    /// Output of the experts, `[rows * chosen, hidden]`.
    pub y: Tensor,
}

impl ExpertActivations {
    fn new(gpu: &Gpu, shape: RouteShape, rows: u32, hidden: usize) -> Result<Self> {
        let pairs = rows * shape.chosen;
        Ok(Self {
            logits: Tensor::zeros(gpu, "expert logits", rows, shape.experts)?,
            routes: Routes::new(gpu, rows, shape)?,
            x: ProductInput::new(gpu, "expert x", rows, shape.chosen, hidden)?,
            y: Tensor::zeros(gpu, "expert y", pairs, hidden as u32)?,
        })
    }

    fn bytes(shape: RouteShape, rows: u32, hidden: usize) -> u64 {
        let pairs = u64::from(rows * shape.chosen);
        4 * u64::from(rows * shape.experts)
            + pairs * (12 + 8 * hidden as u64)
            + rounded_bytes(rows, shape.chosen, hidden)
    }
}

/// Activations and the tables of the current batch.
#[derive(Debug)]
pub(super) struct Activations {
    /// Residual stream, `[rows, hidden]`.
    pub x: Tensor,
    /// What the next norm adds to it, `[rows, hidden]`.
    pub delta: Tensor,
    /// `[rows, hidden]`.
    pub normed: ProductInput,
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`.
    pub qkv: Tensor,
    /// After RoPE, `[rows, heads * head_dim]`.
    pub q: Tensor,
    /// `[rows, heads * head_dim]`.
    pub attended: ProductInput,
    /// Of a mixture of experts.
    pub experts: Option<ExpertActivations>,
    /// `[rows, 2 * intermediate]`, or `[rows * chosen, 2 * intermediate]`.
    pub gate_up: Tensor,
    /// `[rows, intermediate]`, or `[rows * chosen, intermediate]`.
    pub intermediate: ProductInput,
    /// Input of the output projection, `[logit rows, hidden]`.
    pub final_norm: ProductInput,
    /// The input of a product in the order of its weight's columns, `[rows, …]`, where any has another.
    pub ordered: Option<Buffer>,
    /// Copies of `x` at the beginning of each block, when asked for: `[layers][rows, hidden]`.
    pub hidden_states: Vec<Tensor>,
    /// `[partials, heads, head_dim + 2]`, `f32`.
    pub partials: Buffer,
    /// `array<Row>`, by the class of layers.
    pub rows: Vec<Buffer>,
    /// `array<u32>`.
    pub logit_rows: Buffer,
    /// `array<u32>`.
    pub page_table: Buffer,
    /// `array<WorkItem>` of each segment.
    pub single_items: Vec<Buffer>,
    /// `array<WorkItem>` of each segment.
    pub tiled_items: Vec<Buffer>,
    /// The counts of [`count`] as `u32`.
    pub counts: Buffer,
}

/// Partial attention results that there is room for: a few for each row of a prefill, whose keys are
/// cut only where the segment changes, or the 33 splits of long contexts in a batch of 64 sequences.
fn partial_capacity(rows: u32) -> u32 {
    (4 * rows).max(33 * rows.min(64)).max(66)
}

/// Rows of the feed-forward layer for each of the batch.
fn per_row(config: &ModelConfig) -> u32 {
    config.experts.map_or(1, |shape| shape.chosen)
}

/// Columns of the activations that have a row for every token, in the order of [`Activations`].
fn widths(config: &ModelConfig) -> [usize; 8] {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let heads = config.num_attention_heads * config.head_dim;
    let qkv = heads + 2 * config.num_key_value_heads * config.head_dim;
    [hidden, hidden, hidden, qkv, heads, heads, 2 * intermediate, intermediate]
}

/// Bytes of the widest input of a product.
fn ordered_bytes(config: &ModelConfig, options: &ModelOptions) -> u64 {
    let heads = config.num_attention_heads * config.head_dim;
    let cols = config.hidden_size.max(config.intermediate_size).max(heads).next_multiple_of(BLOCK);
    4 * u64::from(options.max_rows.max(options.max_logit_rows)) * cols as u64
}

impl Activations {
    /// Bytes on the device, tables and the logits included.
    pub fn bytes(config: &ModelConfig, options: &ModelOptions, reordered: bool) -> u64 {
        let rows = u64::from(options.max_rows);
        let pairs = rows * u64::from(per_row(config));
        let [dense @ .., gate_up, intermediate] = widths(config);
        // Two rows more for the squares of unfinished norms.
        let floats = 2 * config.hidden_size as u64
            + rows * dense.iter().sum::<usize>() as u64
            + pairs * (gate_up + intermediate) as u64
            + u64::from(options.max_logit_rows) * (config.hidden_size + config.vocab_size) as u64
            + u64::from(options.context) * config.head_dim as u64;
        let shape = super::kv_cache::attention_shape(config, options.kv_format);
        let partial = 4 * shape.partial_floats() + 2 * size_of::<WorkItem>() as u64;
        let rounded = rounded_bytes(options.max_rows, 1, config.hidden_size)
            + rounded_bytes(options.max_rows, 1, config.num_attention_heads * config.head_dim)
            + rounded_bytes(options.max_rows, per_row(config), config.intermediate_size)
            + rounded_bytes(options.max_logit_rows, 1, config.hidden_size);
        let of_experts = |shape| ExpertActivations::bytes(shape, options.max_rows, config.hidden_size);
        let experts = config.experts.map_or(0, of_experts);
        let ordered = if reordered { ordered_bytes(config, options) } else { 0 };
        4 * floats + rounded + experts + ordered + u64::from(partial_capacity(options.max_rows)) * partial
    }

    pub fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        options: &ModelOptions,
        shape: AttentionShape,
        segments: usize,
        reordered: bool,
    ) -> Result<Self> {
        let rows = options.max_rows;
        let tensor = |label: &str, cols: usize| Tensor::zeros(gpu, label, rows, cols as u32);
        let input = |label: &str, cols: usize| ProductInput::new(gpu, label, rows, 1, cols);
        let (hidden, pairs) = (config.hidden_size, rows * per_row(config));
        let [x, delta, normed, qkv, q, attended, gate_up, intermediate] = widths(config);
        let partials = partial_capacity(rows);
        let partial_bytes = 4 * shape.partial_floats();
        let windows = config.windows();
        let pages = |window: &Option<u32>| options.tokens_within(*window).div_ceil(PAGE).max(1);
        let pages = windows.iter().map(pages).sum::<u32>() * rows.min(64);
        let items = |label| -> Result<Vec<Buffer>> {
            let bytes = u64::from(partials) * size_of::<WorkItem>() as u64;
            (0..segments).map(|_| gpu.allocate(label, bytes)).collect()
        };
        Ok(Self {
            x: tensor("x", x)?,
            delta: tensor("delta", delta)?,
            normed: ProductInput {
                f32: Epilogue::unfinished_norm(gpu, "normed", rows, normed as u32, FEW_ROWS as u32)?,
                rounded: rounded(gpu, "normed", rows, 1, normed as u32)?,
            },
            qkv: tensor("qkv", qkv)?,
            q: tensor("q", q)?,
            attended: input("attended", attended)?,
            experts: config
                .experts
                .map(|shape| ExpertActivations::new(gpu, shape, rows, hidden))
                .transpose()?,
            gate_up: Tensor::zeros(gpu, "gate_up", pairs, gate_up as u32)?,
            intermediate: ProductInput::new(gpu, "intermediate", rows, per_row(config), intermediate)?,
            final_norm: ProductInput::new(gpu, "final norm", options.max_logit_rows, 1, hidden)?,
            ordered: reordered
                .then(|| gpu.allocate("ordered", ordered_bytes(config, options)))
                .transpose()?,
            hidden_states: Vec::new(),
            partials: gpu.allocate("partials", u64::from(partials) * partial_bytes)?,
            rows: windows
                .iter()
                .map(|_| gpu.allocate("rows", u64::from(rows) * size_of::<Row>() as u64))
                .collect::<Result<_>>()?,
            logit_rows: gpu.allocate("logit rows", 4 * u64::from(options.max_logit_rows))?,
            page_table: gpu.allocate("page table", 4 * u64::from(pages))?,
            single_items: items("single items")?,
            tiled_items: items("tiled items")?,
            counts: gpu.allocate("counts", 4 * count::single_items(segments) as u64)?,
        })
    }

    /// Allocates the copies of hidden states, once.
    pub fn keep_hidden_states(
        &mut self,
        gpu: &Gpu,
        config: &ModelConfig,
        options: &ModelOptions,
    ) -> Result<()> {
        while self.hidden_states.len() < config.num_hidden_layers {
            let tensor = Tensor::zeros(gpu, "hidden states", options.max_rows, config.hidden_size as u32)?;
            self.hidden_states.push(tensor);
        }
        Ok(())
    }

    /// Writes the tables of a batch.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`] when the batch has more attention work than there is room for.
    pub fn write(&self, gpu: &Gpu, tables: &Tables) -> Result<()> {
        let partials = tables.partials.iter().copied().max().unwrap_or_default();
        if partials > partial_capacity(self.x.rows)
            || 4 * tables.page_table.len() as u64 > self.page_table.size()
        {
            let message = format!(
                "{} partial results over {} pages are more than there is room for; use smaller batches",
                partials,
                tables.page_table.len()
            );
            return Err(Error::new(ErrorKind::OutOfMemory, "attention", message));
        }
        for (buffer, rows) in self.rows.iter().zip(&tables.rows) {
            gpu.write(buffer, 0, rows);
        }
        gpu.write(&self.logit_rows, 0, &tables.logit_rows);
        gpu.write(&self.page_table, 0, &tables.page_table);
        for (buffer, items) in self.single_items.iter().zip(&tables.single_items) {
            gpu.write(buffer, 0, items);
        }
        for (buffer, items) in self.tiled_items.iter().zip(&tables.tiled_items) {
            gpu.write(buffer, 0, items);
        }
        let counts: Vec<u32> = tables.counts().into_iter().map(|count| count as u32).collect();
        gpu.write(&self.counts, 0, &counts);
        Ok(())
    }
}
