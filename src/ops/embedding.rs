//! Token embedding: rows of a weight matrix by token id.

use super::{Operation, Variant, Weight, count, weight::weight_key};
use crate::{
    Result,
    gpu::{Buffer, Cost, Extent, Gpu, Recording, Step},
    ops::{Row, SAMPLED},
    quant::Format,
    tensor::Tensor,
    uniform,
};

uniform! {
    struct EmbeddingParams { first_row: u32, rows: u32, blocks: u32, cols: u32 }
}

/// The table of variants.
pub static EMBEDDING: Operation<&Format> = Operation {
    name: "embedding",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |format| {
            weight_key("embedding", format)
                .with::<EmbeddingParams>()
                .with::<Row>()
                .constant("SAMPLED", SAMPLED)
                .constant("WORKGROUP", 64)
        },
    }],
};

/// `y[i] = weight[token i]` for every token of the batch, given by its id or by where it was sampled.
/// Tokens outside of the weight leave their row of `y` as it was.
pub struct Embedding<'a> {
    /// `[vocabulary, cols]`.
    pub weight: &'a Weight,
    /// `[rows]` of [`Row`].
    pub rows: &'a Buffer,
    /// `[slots]`: token ids.
    pub sampled: &'a Buffer,
    /// `[rows, cols]`.
    pub y: &'a Tensor,
}

impl Embedding<'_> {
    /// Appends one step for each part of the weight.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (weight, cols) = (self.weight, self.weight.cols);
        assert_eq!(self.y.cols, cols, "columns of embedding and output");
        let (_, kernel) = EMBEDDING.choose(gpu, &weight.format)?;
        for part in &weight.parts {
            let blocks = weight.blocks();
            let params = EmbeddingParams { first_row: part.first_row, rows: part.rows, blocks, cols };
            let params = gpu.uniform(&params)?;
            let mut bindings = vec![
                ("params", &params),
                ("rows", self.rows),
                ("sampled", self.sampled),
                ("y", &self.y.buffer),
            ];
            bindings.extend(part.bindings());
            let grid = [Extent::Count { slot: count::ROWS, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
            let cost = Cost { fixed: 0.0, slot: count::ROWS, each: 8.0 * f64::from(cols) };
            recording.push(Step::new(gpu, "embedding", kernel.clone(), &bindings, grid, cost)?);
        }
        Ok(())
    }
}
