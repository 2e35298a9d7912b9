//! Activations in blocks of 8-bit codes, for integer products.

use super::{Operation, RowCount, Variant};
use crate::{
    Result,
    gpu::{Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, Q8Tensor, Tensor},
    uniform,
};

uniform! {
    struct QuantizeParams { stride: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static QUANTIZE: Operation<()> = Operation {
    name: "quantize",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| KernelKey::new("quantize").with::<QuantizeParams>().constant("WORKGROUP", WORKGROUP),
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
        let stride = self.x.stride();
        let params = gpu.uniform(&QuantizeParams { stride })?;
        let mut bindings = vec![("params", &params), ("x", &self.x.buffer)];
        bindings.extend(Activation::Q8(self.q8).outputs());
        let cost = self.rows.cost(5.25 * f64::from(stride));
        let grid = [self.rows.extent(), Extent::Fixed(stride.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        recording.push(Step::new(gpu, "quantize", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
