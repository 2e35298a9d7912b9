//! Tables of kernel variants and the choice among them.

use std::sync::Arc;

use crate::{
    Error, ErrorKind, Result,
    gpu::{Gpu, Kernel, KernelKey},
};

/// One way to compute an operation of shape `S`.
pub struct Variant<S: 'static> {
    /// Name within its operation.
    pub name: &'static str,
    /// Whether it can compute this shape.
    pub fits: fn(&S) -> bool,
    /// The shader with everything that specialises it.
    pub key: fn(&S) -> KernelKey,
}

/// An operation with its variants, best first, the baseline last.
pub struct Operation<S: 'static> {
    /// Name, as in `operation/variant`.
    pub name: &'static str,
    /// Variants, best first. The last needs no capability and fits every shape.
    pub variants: &'static [Variant<S>],
}

impl<S> Operation<S> {
    /// Full name of a variant.
    pub fn full_name(&self, variant: &Variant<S>) -> String {
        format!("{}/{}", self.name, variant.name)
    }

    /// Variants that `gpu` can run for `shape` and has not rejected, best first.
    pub fn runnable(&self, gpu: &Gpu, shape: &S) -> impl Iterator<Item = &'static Variant<S>> {
        self.variants.iter().filter(|variant| {
            (variant.fits)(shape)
                && gpu.capabilities().has((variant.key)(shape).needs)
                && !gpu.rejects(&self.full_name(variant))
        })
    }

    /// The best variant's kernel.
    ///
    /// # Errors
    /// [`ErrorKind::Device`] when every variant was rejected; as [`Gpu::kernel`].
    pub fn choose(&self, gpu: &Gpu, shape: &S) -> Result<(&'static Variant<S>, Arc<Kernel>)> {
        let variant = self.runnable(gpu, shape).next().ok_or_else(|| {
            Error::new(ErrorKind::Device, self.name, "no kernel variant gives right results on this device")
        })?;
        Ok((variant, gpu.kernel(&(variant.key)(shape))?))
    }
}
