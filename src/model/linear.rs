//! A product with a weight, and what adapters add to it.

use crate::{
    Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{Lora, LoraFactors, Matmul, Permute},
    tensor::{Activation, Tensor},
};

/// `y = x · weightᵀ + Σ B · (A · x)`, over the adapters of each row.
pub(super) struct Linear<'a> {
    /// With the matrices of a stack: of the same `x`, into the same `y`.
    pub products: Vec<Matmul<'a>>,
    /// The adapters of this product, if the batch has any, and room for `A · x`.
    pub adapters: Option<(&'a LoraFactors, &'a Buffer)>,
    /// Room for `x` in the order of a weight's columns, if any has another.
    pub ordered: Option<&'a Buffer>,
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
        // What is brought into another order is brought into the form that the kernel reads with it.
        let input = |product: &Matmul<'a>| match product.weight.order {
            Some(_) => Ok(Activation::F32(product.x)),
            None => product.input(gpu),
        };
        let inputs = self.products.iter().map(input).collect::<Result<Vec<_>>>()?;
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
            let (Some(order), Some(buffer)) = (&product.weight.order, self.ordered) else {
                // Codes are there only if all read them.
                let x_q8 = product.x_q8.filter(|_| matches!(x, Activation::Q8(_)));
                Matmul { x_q8, ..*product }.record(gpu, recording)?;
                continue;
            };
            let (x, rows) = (product.x, product.rows);
            let ordered = Matmul { x: &Tensor { buffer: buffer.clone(), ..*x }, ..*product };
            Permute { x, order, y: ordered.input(gpu)?, rows }.record(gpu, recording)?;
            ordered.record(gpu, recording)?;
        }
        let Some((factors, h)) = self.adapters else { return Ok(()) };
        let Matmul { y, rows: count, counts, .. } = self.products[0];
        Lora { factors, x, h, y, rows: self.rows, row_ids: self.row_ids, count, counts }
            .record(gpu, recording)
    }
}
