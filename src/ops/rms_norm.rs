//! Root mean square normalisation with residual add (Zhang & Sennrich 2019, arXiv:1910.07467).

use super::{
    Operation, Variant, count,
    variant::{NARROW, narrow_key},
};
use crate::{
    Result,
    gpu::{Buffer, Capability, Cost, Extent, Gpu, KernelKey, Recording, Step},
    tensor::{Activation, ActivationFormat, Tensor},
    uniform,
};

uniform! {
    struct RmsNormParams { cols: u32, stride: u32, eps: f32 }
}

/// What specialises the kernel.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormShape {
    /// With a residual add before the norm.
    pub residual: bool,
    /// Over chosen rows only.
    pub gather: bool,
    /// How the result is stored.
    pub format: ActivationFormat,
}

fn key(shape: &RmsNormShape, workgroup: u32) -> KernelKey {
    let key = KernelKey::new("rms_norm")
        .with::<RmsNormParams>()
        .constant("WORKGROUP", workgroup)
        .flag("residual", shape.residual)
        .flag("gather", shape.gather);
    shape.format.specialise(key)
}

/// The table of variants.
pub static RMS_NORM: Operation<RmsNormShape> = Operation {
    name: "rms_norm",
    variants: &[
        // Invocations that wait for one another are slow on a CPU.
        Variant { name: "narrow", fits: |_| true, key: |shape| narrow_key(key(shape, NARROW)) },
        Variant {
            name: "subgroup",
            fits: |_| true,
            key: |shape| KernelKey { needs: &[Capability::Subgroup], ..key(shape, 256) },
        },
        Variant { name: "baseline", fits: |_| true, key: |shape| key(shape, 256) },
    ],
};

/// `x += delta; y = x / sqrt(mean(x²) + eps) * weight`, row by row.
#[derive(Debug, Clone, Copy)]
pub struct RmsNorm<'a> {
    /// Residual stream, `[rows, cols]`, updated in place.
    pub x: &'a Tensor,
    /// What is added to it first, `[rows, cols]`.
    pub delta: Option<&'a Tensor>,
    /// `[1, cols]`.
    pub weight: &'a Tensor,
    /// `[rows, cols]`.
    pub y: Activation<'a>,
    /// Row `i` of `y` is made of row `row_ids[i]` of `x`, for as many rows as want logits;
    /// without it, row by row for all.
    pub row_ids: Option<&'a Buffer>,
    /// `rms_norm_eps`.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// Appends the step.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`].
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let cols = self.x.cols;
        let others = [self.y.cols(), self.weight.cols, self.delta.map_or(cols, |delta| delta.cols)];
        assert!(others == [cols; 3], "shapes differ");
        let shape = RmsNormShape {
            residual: self.delta.is_some(),
            gather: self.row_ids.is_some(),
            format: self.y.format(),
        };
        let (_, kernel) = RMS_NORM.choose_for(gpu, &shape, cols)?;
        let params = gpu.uniform(&RmsNormParams { cols, stride: self.x.stride(), eps: self.eps })?;
        let mut bindings = vec![("params", &params), ("x", &self.x.buffer), ("weight", &self.weight.buffer)];
        bindings.extend(self.y.outputs());
        bindings.extend(self.delta.map(|delta| ("delta", &delta.buffer)));
        bindings.extend(self.row_ids.map(|row_ids| ("row_ids", row_ids)));
        let slot = if shape.gather { count::LOGIT_ROWS } else { count::ROWS };
        let grid = [Extent::Count { slot, per: 1 }, Extent::Fixed(1), Extent::Fixed(1)];
        let cost = Cost { fixed: 0.0, slot, each: 16.0 * f64::from(cols) };
        recording.push(Step::new(gpu, "rms_norm", kernel, &bindings, grid, cost)?);
        Ok(())
    }
}
