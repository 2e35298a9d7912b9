//! The sum at the end of a residual branch.

use super::{Operation, Variant, count};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    struct ResidualAddParams { cols: u32, stride: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static RESIDUAL_ADD: Operation<()> = Operation {
    name: "residual_add",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| KernelKey::new("residual_add").with::<ResidualAddParams>().constant("WORKGROUP", WORKGROUP),
    }],
};

/// `x += delta`.
pub struct ResidualAdd<'a> {
    /// `[rows, cols]`, updated in place.
    pub x: &'a Tensor,
    /// `[rows, cols]`.
    pub delta: &'a Tensor,
}

impl ResidualAdd<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let cols = self.x.cols;
        assert!(self.delta.cols == cols, "shapes differ");
        let (_, kernel) = RESIDUAL_ADD.choose(gpu, &())?;
        let params = gpu.uniform(&ResidualAddParams { cols, stride: self.x.stride() })?;
        let bindings = [("params", &params), ("x", &self.x.buffer), ("delta", &self.delta.buffer)];
        let slot = count::ROWS;
        let grid =
            [Extent::Count { slot, per: 1 }, Extent::Fixed(cols.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot, each: 12.0 * f64::from(cols) };
        recording.push(Step::new(gpu, "residual_add", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
