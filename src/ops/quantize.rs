//! Activations in blocks of 8-bit codes, for integer products.

use super::{Operation, RowCount, Variant, weight::QUADS};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Q8Tensor, Tensor},
    uniform,
};

uniform! {
    struct QuantizeParams { blocks: u32 }
}

const WORKGROUP: u32 = 64;

/// The table of variants.
pub static QUANTIZE: Operation<()> = Operation {
    name: "quantize",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| {
            KernelKey::new("quantize")
                .with::<QuantizeParams>()
                .constant("WORKGROUP", WORKGROUP)
                .constant("QUADS", QUADS)
        },
    }],
};

/// `q8 = x`, each value rounded to a 127th of the largest magnitude in its block of 32.
pub struct Quantize<'a> {
    /// `[rows, cols]`.
    pub x: &'a Tensor,
    /// `[rows, cols]`.
    pub q8: &'a Q8Tensor,
    /// How many rows.
    pub rows: RowCount,
}

impl Quantize<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        assert!(self.x.cols == self.q8.cols && self.x.rows <= self.q8.rows, "shapes differ");
        let (_, kernel) = QUANTIZE.choose(gpu, &())?;
        let blocks = self.x.stride() / (4 * QUADS);
        let params = gpu.uniform(&QuantizeParams { blocks })?;
        let bindings = [
            ("params", &params),
            ("x", &self.x.buffer),
            ("codes", &self.q8.codes),
            ("scales", &self.q8.scales),
        ];
        let row_bytes = 5.25 * f64::from(self.x.stride());
        let (rows, cost) = match self.rows {
            RowCount::Few(rows) => {
                (Extent::Fixed(rows), Cost { fixed: f64::from(rows) * row_bytes, ..Cost::default() })
            }
            RowCount::Many { slot, .. } => {
                (Extent::Count { slot, per: 1 }, Cost { fixed: 0.0, slot, each: row_bytes })
            }
        };
        let grid = [rows, Extent::Fixed(blocks.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        recording.push(Step::new(gpu, "quantize", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
