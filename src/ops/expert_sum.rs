//! What the experts of a row make together.

use super::{ExpertChoice, Operation, Routes, Variant, count};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::Tensor,
    uniform,
};

uniform! {
    struct ExpertSumParams { cols: u32, stride: u32, chosen: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static EXPERT_SUM: Operation<()> = Operation {
    name: "expert_sum",
    variants: &[Variant {
        name: "baseline",
        fits: |()| true,
        key: |()| {
            KernelKey::new("expert_sum")
                .with::<ExpertSumParams>()
                .with::<ExpertChoice>()
                .constant("WORKGROUP", WORKGROUP)
        },
    }],
};

/// `y = Σ weight · x[place]` over the experts of each row, in the order of its choice.
pub struct ExpertSum<'a> {
    /// Outputs of the experts, `[rows * chosen, cols]`.
    pub x: &'a Tensor,
    /// Places and weights.
    pub routes: &'a Routes,
    /// Result, `[rows, cols]`.
    pub y: &'a Tensor,
}

impl ExpertSum<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (cols, stride, chosen) = (self.y.cols, self.y.stride(), self.routes.shape.chosen);
        assert!(self.x.cols == cols && self.y.rows * chosen <= self.x.rows, "shapes differ");
        let (_, kernel) = EXPERT_SUM.choose(gpu, &())?;
        let params = gpu.uniform(&ExpertSumParams { cols, stride, chosen })?;
        let bindings = [
            ("params", &params),
            ("x", &self.x.buffer),
            ("choices", &self.routes.choices),
            ("y", &self.y.buffer),
        ];
        let slot = count::ROWS;
        let cols = Extent::Fixed(cols.div_ceil(WORKGROUP));
        let grid = [Extent::Count { slot, per: 1 }, cols, Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot, each: 4.0 * f64::from(stride * (chosen + 1)) };
        recording.push(Step::new(gpu, "expert_sum", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
