//! A product with a weight, and what adapters add to it.

use crate::{
    Result,
    gpu::{Buffer, Gpu, Recording},
    ops::{Axis, Epilogue, Fused, Gather, Lora, LoraFactors, Matmul},
    tensor::{Activation, ActivationFormat, Tensor},
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
    /// Whether it may do what follows it, too.
    pub fuse: bool,
    /// Of that, whether it may do a half of the norm before it or after it, which rounds differently than a norm by itself: the
    /// same in every batch, or a row's bits would depend on the others.
    pub norms: bool,
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
        let alike = inputs.iter().all(|input| input.format() == inputs[0].format());
        Ok(if alike { inputs[0] } else { Activation::F32(self.products[0].x) })
    }

    /// Whether it can do `epilogue` with its outputs.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn fuses(&self, gpu: &Gpu, epilogue: &Epilogue) -> Result<bool> {
        let may = self.norms || !matches!(epilogue, Epilogue::RmsNorm(_));
        Ok(may && self.all(|product| product.fuses(gpu, epilogue))?)
    }

    /// Whether it can read activations whose norm is unfinished.
    ///
    /// # Errors
    /// As [`Gpu::kernel`].
    pub fn finishes_norm(&self, gpu: &Gpu) -> Result<bool> {
        Ok(self.norms
            && matches!(self.input(gpu)?, Activation::F32(_))
            && self.all(|product| Ok(product.weight.order.is_none() && product.finishes_norm(gpu)?))?)
    }

    fn all(&self, can: impl Fn(&Matmul) -> Result<bool>) -> Result<bool> {
        let each = self.products.iter().map(can).collect::<Result<Vec<_>>>()?;
        Ok(self.fuse && self.adapters.is_none() && each.into_iter().all(|can| can))
    }

    /// Appends the steps.
    ///
    /// # Errors
    /// As [`Gpu::kernel`] and [`Step::new`](crate::gpu::Step::new).
    pub fn record(&self, gpu: &Gpu, recording: &mut Recording) -> Result<()> {
        self.record_fused(gpu, recording, &Fused::default())
    }

    /// Appends the steps, and those of `epilogue` if the products cannot do it themselves. `eps` is that of a norm that `x`
    /// still lacks.
    ///
    /// # Errors
    /// As [`Linear::record`].
    pub fn record_with(
        &self,
        gpu: &Gpu,
        recording: &mut Recording,
        eps: Option<f32>,
        epilogue: Epilogue,
    ) -> Result<()> {
        if self.fuses(gpu, &epilogue)? {
            return self.record_fused(gpu, recording, &Fused { eps, epilogue: Some(epilogue) });
        }
        self.record_fused(gpu, recording, &Fused { eps, epilogue: None })?;
        epilogue.record(gpu, recording)
    }

    fn record_fused(&self, gpu: &Gpu, recording: &mut Recording, fused: &Fused) -> Result<()> {
        let x = self.input(gpu)?;
        for product in &self.products {
            let (Some(order), Some(buffer)) = (&product.weight.order, self.ordered) else {
                // Rounded activations are there only if all read them.
                let rounded = product.rounded.filter(|_| x.format() != ActivationFormat::F32);
                Matmul { rounded, ..*product }.record_fused(gpu, recording, fused)?;
                continue;
            };
            let (x, rows) = (product.x, product.rows);
            let ordered = Matmul { x: &Tensor { buffer: buffer.clone(), ..*x }, ..*product };
            let y = ordered.input(gpu)?;
            Gather { x, axis: Axis::Cols, indices: order, y, rows, per_row: 1 }.record(gpu, recording)?;
            ordered.record_fused(gpu, recording, fused)?;
        }
        let Some((factors, h)) = self.adapters else { return Ok(()) };
        let Matmul { y, rows: count, counts, .. } = self.products[0];
        Lora { factors, x, h, y, rows: self.rows, row_ids: self.row_ids, count, counts }
            .record(gpu, recording)
    }
}
