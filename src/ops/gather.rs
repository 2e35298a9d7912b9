//! The rows of a batch in the order of their experts.

use super::{Operation, Routes, Variant, count};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct GatherParams { stride: u32, chosen: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static GATHER: Operation<ActivationFormat> = Operation {
    name: "gather",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |format| {
            KernelKey::new("gather")
                .with::<GatherParams>()
                .constant("WORKGROUP", WORKGROUP)
                .flag("q8", *format == ActivationFormat::Q8)
        },
    }],
};

/// `y = x[sources]`: every row once for each expert that it goes through.
pub struct Gather<'a> {
    /// `[rows, cols]`.
    pub x: &'a Tensor,
    /// Which rows go where.
    pub routes: &'a Routes,
    /// Result, `[rows * chosen, cols]`.
    pub y: Activation<'a>,
}

impl Gather<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (stride, chosen) = (self.x.stride(), self.routes.shape.chosen);
        assert!(self.x.cols == self.y.cols() && self.x.rows * chosen <= self.y.rows(), "shapes differ");
        let (_, kernel) = GATHER.choose(gpu, &self.y.format())?;
        let params = gpu.uniform(&GatherParams { stride, chosen })?;
        let mut bindings =
            vec![("params", &params), ("x", &self.x.buffer), ("sources", &self.routes.sources)];
        bindings.extend(self.y.outputs());
        let slot = count::ROWS;
        let cols = Extent::Fixed(stride.div_ceil(WORKGROUP));
        let grid = [Extent::Count { slot, per: 1 }, cols, Extent::Fixed(chosen)];
        let cost = Cost { fixed: 0.0, slot, each: 8.0 * f64::from(stride * chosen) };
        recording.push(Step::new(gpu, "gather", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
