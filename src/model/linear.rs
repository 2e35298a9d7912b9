//! A product with a weight, and what adapters add to it.

use crate::{
    Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{Lora, LoraFactors, Matmul},
    tensor::Activation,
};

/// `y = x · weightᵀ + Σ B · (A · x)`, over the adapters of each row.
pub(super) struct Linear<'a> {
    pub product: Matmul<'a>,
    /// The adapters of this product, if the batch has any, and room for `A · x`.
    pub adapters: Option<(&'a LoraFactors, &'a Buffer)>,
    /// Rows of the batch.
    pub rows: &'a Buffer,
    /// Which of them those of `x` and `y` are; `None`: the same.
    pub row_ids: Option<&'a Buffer>,
}

impl<'a> Linear<'a> {
    /// `x` in the form that is read: what the caller fills before.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn input(&self, gpu: &Gpu) -> Result<Activation<'a>> {
        self.product.input(gpu)
    }

    /// Appends the steps.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`](crate::gpu::Step::new).
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        self.product.record(gpu, recording)?;
        let Some((factors, h)) = self.adapters else { return Ok(()) };
        let (x, y, count) = (self.input(gpu)?, self.product.y, self.product.rows);
        Lora { factors, x, h, y, rows: self.rows, row_ids: self.row_ids, count }.record(gpu, recording)
    }
}
