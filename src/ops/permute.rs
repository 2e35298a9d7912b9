//! Columns of activations in the order of a weight's columns.

use super::{Operation, RowCount, Variant};
use crate::{
    Result,
    gpu::{Buffer, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct PermuteParams { cols: u32, stride: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static PERMUTE: Operation<ActivationFormat> = Operation {
    name: "permute",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |format| {
            KernelKey::new("permute")
                .with::<PermuteParams>()
                .constant("WORKGROUP", WORKGROUP)
                .flag("q8", *format == ActivationFormat::Q8)
        },
    }],
};

/// Column `j` of `y` is column `order[j]` of `x`.
pub struct Permute<'a> {
    /// `[rows, cols]`.
    pub x: &'a Tensor,
    /// `[cols]`, `u32`.
    pub order: &'a Buffer,
    /// Result, `[rows, cols]`.
    pub y: Activation<'a>,
    /// How many rows.
    pub rows: RowCount,
}

impl Permute<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let (cols, stride) = (self.x.cols, self.x.stride());
        assert!(cols == self.y.cols() && 4 * u64::from(cols) == self.order.size(), "shapes differ");
        let (_, kernel) = PERMUTE.choose(gpu, &self.y.format())?;
        let params = gpu.uniform(&PermuteParams { cols, stride })?;
        let mut bindings = vec![("params", &params), ("x", &self.x.buffer), ("order", self.order)];
        bindings.extend(self.y.outputs());
        let grid = [self.rows.extent(), Extent::Fixed(stride.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        let cost = self.rows.cost(12.0 * f64::from(stride));
        recording.push(Step::new(gpu, "permute", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
