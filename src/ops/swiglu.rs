//! The gated activation of the feed-forward layer (Shazeer 2020, arXiv:2002.05202).

use super::{Operation, Variant, count};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    struct SwigluParams { cols: u32, stride: u32, out_stride: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static SWIGLU: Operation<()> = Operation {
    name: "swiglu",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| KernelKey::new("swiglu").with::<SwigluParams>().constant("WORKGROUP", WORKGROUP),
    }],
};

/// `out = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
pub struct Swiglu<'a> {
    /// `[rows, 2 * cols]`: gate and up of each column.
    pub gate_up: &'a Tensor,
    /// Result, `[rows, cols]`.
    pub out: &'a Tensor,
}

impl Swiglu<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let cols = self.out.cols;
        assert!(self.gate_up.cols == 2 * cols, "shapes differ");
        let (_, kernel) = SWIGLU.choose(gpu, &())?;
        let params = gpu.uniform(&SwigluParams {
            cols,
            stride: self.gate_up.stride(),
            out_stride: self.out.stride(),
        })?;
        let bindings = [("params", &params), ("gate_up", &self.gate_up.buffer), ("out", &self.out.buffer)];
        let slot = count::ROWS;
        let grid =
            [Extent::Count { slot, per: 1 }, Extent::Fixed(cols.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot, each: 12.0 * f64::from(cols) };
        recording.push(Step::new(gpu, "swiglu", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
