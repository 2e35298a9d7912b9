//! Activations as products read them that round them.

use super::{Operation, RowCount, Variant};
use crate::{
    Result,
    gpu::{Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct QuantizeParams { stride: u32 }
}

const WORKGROUP: u32 = 256;

/// The table of variants.
pub static QUANTIZE: Operation<ActivationFormat> = Operation {
    name: "quantize",
    variants: &[Variant {
        name: "baseline",
        fits: |_| true,
        key: |format| {
            format.specialise(
                KernelKey::new("quantize").with::<QuantizeParams>().constant("WORKGROUP", WORKGROUP),
            )
        },
    }],
};

/// `y = x`, each value rounded: to a 127th of the largest magnitude in its block of 32, or to 16 bits. `x` itself, in `f32`, is
/// left as it is.
pub struct Quantize<'a> {
    /// `[rows, cols]`.
    pub x: &'a Tensor,
    /// `[rows, cols]`.
    pub y: Activation<'a>,
    /// How many rows.
    pub rows: RowCount,
}

impl Quantize<'_> {
    /// Appends the step, if there is anything to round.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    ///
    /// # Panics
    /// When the shapes contradict each other.
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let rows = if let RowCount::Few(rows) = self.rows { rows } else { self.x.rows };
        assert!(self.x.cols == self.y.cols() && rows <= self.y.rows(), "shapes differ");
        if self.y.format() == ActivationFormat::F32 {
            return Ok(());
        }
        let (_, kernel) = QUANTIZE.choose(gpu, &self.y.format())?;
        let stride = self.x.stride();
        let params = gpu.uniform(&QuantizeParams { stride })?;
        let mut bindings = vec![("params", &params), ("x", &self.x.buffer)];
        bindings.extend(self.y.outputs());
        let cost = self.rows.cost(5.25 * f64::from(stride));
        let grid = [self.rows.extent(), Extent::Fixed(stride.div_ceil(WORKGROUP)), Extent::Fixed(1)];
        recording.push(Step::new(gpu, "quantize", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
