//! The gated activation of the feed-forward layer (Shazeer 2020, arXiv:2002.05202).

use super::{
    Operation, Variant, count,
    variant::{NARROW, narrow_key},
};
use crate::{
    Result,
    gpu::{Cost, Extent, Gpu, KernelKey, Recording, Step},
    quant::BLOCK,
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct SwigluParams { cols: u32, stride: u32, y_stride: u32, per_row: u32 }
}

const WORKGROUP: u32 = 256;

/// Subject of the choice: one for all widths, as only the storing of blocks differs.
pub(super) const BLOCKS: &str = "blocks";

fn key(format: ActivationFormat, workgroup: u32) -> KernelKey {
    format.specialise(KernelKey::new("swiglu").with::<SwigluParams>().constant("WORKGROUP", workgroup))
}

/// The table of variants.
pub static SWIGLU: Operation<ActivationFormat> = Operation {
    name: "swiglu",
    variants: &[
        // Each invocation computes a block by itself.
        Variant {
            name: "narrow",
            fits: |format| *format != ActivationFormat::F32,
            key: |format| narrow_key(key(*format, NARROW)),
        },
        Variant { name: "baseline", fits: |_| true, key: |format| key(*format, WORKGROUP) },
    ],
};

/// `y = silu(gate) * up`, with `silu(x) = x / (1 + exp(-x))`.
#[derive(Debug, Clone, Copy)]
pub struct Swiglu<'a> {
    /// `[rows * per_row, 2 * cols]`: gate and up of each column.
    pub gate_up: &'a Tensor,
    /// Result, `[rows * per_row, cols]`.
    pub y: Activation<'a>,
    /// How many there are for each row of the batch: with experts, as many as it goes through.
    pub per_row: u32,
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
        let cols = self.y.cols();
        assert!(self.gate_up.cols == 2 * cols, "shapes differ");
        let (variant, kernel) = SWIGLU.choose_for(gpu, &self.y.format(), BLOCKS)?;
        let (stride, y_stride, per_row) = (self.gate_up.stride(), self.y.stride(), self.per_row);
        let params = gpu.uniform(&SwigluParams { cols, stride, y_stride, per_row })?;
        let mut bindings = vec![("params", &params), ("gate_up", &self.gate_up.buffer)];
        bindings.extend(self.y.outputs());
        let slot = count::ROWS;
        let per = if variant.name == "narrow" { NARROW * BLOCK as u32 } else { WORKGROUP };
        let workgroups = Extent::Fixed(cols.div_ceil(per));
        let grid = [Extent::Count { slot, per: 1 }, workgroups, Extent::Fixed(per_row)];
        let cost = Cost { fixed: 0.0, slot, each: 12.0 * f64::from(cols * per_row) };
        recording.push(Step::new(gpu, "swiglu", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
