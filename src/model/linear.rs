//! A product with a weight, and what adapters add to it.

use crate::{
    Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{Lora, LoraFactors, Matmul},
    tensor::Activation,
};

/// `y = x · weightᵀ + Σ B · (A · x)`, over the adapters of each row.
pub(super) struct Linear<'a> {
    /// With the matrices of a stack: of the same `x`, into the same `y`.
    pub products: Vec<Matmul<'a>>,
    /// The adapters of this product, if the batch has any, and room for `A · x`.
    pub adapters: Option<(&'a LoraFactors, &'a Buffer)>,
    /// Rows of the batch.
    pub rows: &'a Buffer,
    /// Which of them those of `x` and `y` are; `None`: the same.
    pub row_ids: Option<&'a Buffer>,
}

impl<'a> Linear<'a> {
    /// `x` in the form that all products read: what the caller fills before.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn input(&self, gpu: &Gpu) -> Result<Activation<'a>> {
        let inputs = self.products.iter().map(|product| product.input(gpu)).collect::<Result<Vec<_>>>()?;
        let whole = |input: &&Activation| matches!(input, Activation::F32(_));
        Ok(*inputs.iter().find(whole).unwrap_or(&inputs[0]))
    }

    /// Appends the steps.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`](crate::gpu::Step::new).
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        let x = self.input(gpu)?;
        for product in &self.products {
            // Codes are there only if all read them.
            let x_q8 = product.x_q8.filter(|_| matches!(x, Activation::Q8(_)));
            Matmul { x_q8, ..*product }.record(gpu, recording)?;
        }
        let Some((factors, h)) = self.adapters else { return Ok(()) };
        let (y, count) = (self.products[0].y, self.products[0].rows);
        Lora { factors, x, h, y, rows: self.rows, row_ids: self.row_ids, count }.record(gpu, recording)
    }
}
