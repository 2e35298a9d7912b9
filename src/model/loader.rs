//! Tensors of a checkpoint, encoded and uploaded in pieces, so that the host's memory stays bounded.

use rayon::prelude::*;

use super::{
    ModelConfig,
    stack::{Rows, Stack, rotary_span},
};
use crate::{
    Error, ErrorKind, Result,
    checkpoint::{Checkpoint, TensorView},
    gpu::{Buffer, Gpu},
    ops::Weight,
    tensor::Tensor,
};

/// What loading a model is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Trying kernel variants, for so many operations.
    Tuning(u64),
    /// Reading a checkpoint of so many bytes.
    Weights(u64),
}

/// Told how much of a stage is done.
pub type Progress<'a> = &'a mut dyn FnMut(Stage, u64);

/// Values converted at once: 16 MiB of `f32`.
const STAGING_VALUES: usize = 4 << 20;

/// Bytes handed to the driver before waiting for it, so that its staging memory stays bounded.
const STAGING_BYTES: u64 = 64 << 20;

/// Reads tensors, encodes them and hands them to the device in pieces.
pub(super) struct Loader<'a> {
    gpu: &'a Gpu,
    checkpoint: &'a Checkpoint,
    progress: Progress<'a>,
    done: u64,
    total: u64,
    unflushed: u64,
    /// As of [`Rows::Qkv`].
    span: usize,
}

impl<'a> Loader<'a> {
    /// Of `checkpoint` with the rotary order that it has.
    pub fn new(
        gpu: &'a Gpu,
        checkpoint: &'a Checkpoint,
        config: &ModelConfig,
        progress: Progress<'a>,
    ) -> Self {
        let total = checkpoint.tensors().map(|tensor| tensor.bytes.len() as u64).sum();
        let span = rotary_span(config, checkpoint.rotary());
        Self { gpu, checkpoint, progress, done: 0, total, unflushed: 0, span }
    }

    /// The weight of a norm.
    pub fn norm(&mut self, weight: &Tensor, name: &str) -> Result<()> {
        self.vectors(&weight.buffer, &[name.to_owned()], Rows::Same)
    }

    /// The vectors of `names` as one, as `f32`.
    fn vectors(&mut self, buffer: &Buffer, names: &[String], order: Rows) -> Result<()> {
        let tensors = self.tensors(names)?;
        let mut parts = Vec::new();
        for tensor in &tensors {
            let mut values = vec![0.0; tensor.elements()];
            tensor.to_f32(0, &mut values);
            check_finite(tensor, &values)?;
            parts.push(values);
        }
        let rows = 0..parts.iter().map(Vec::len).sum();
        let values: Vec<f32> =
            rows.map(|row| order.source(row)).map(|(part, row)| parts[part][row]).collect();
        self.gpu.write(buffer, 0, &values);
        self.advance(&tensors, tensors.iter().map(|tensor| tensor.bytes.len()).sum(), 0)
    }

    fn tensors(&self, names: &[String]) -> Result<Vec<TensorView<'a>>> {
        names.iter().map(|name| self.checkpoint.tensor(name)).collect()
    }

    /// The tensors of a stack, in the checkpoint's order of rows.
    pub fn stack(&mut self, weights: &[Weight], stack: Stack) -> Result<()> {
        let order = match stack.order {
            Rows::Qkv { parts, .. } => Rows::Qkv { parts, span: self.span },
            other => other,
        };
        if let Some(bias) = &weights[0].bias {
            let names: Vec<_> =
                stack.tensors.iter().map(|(name, _)| name.replace(".weight", ".bias")).collect();
            self.vectors(bias, &names, order)?;
        }
        let source = (stack.tensors.into_iter().map(|(name, _)| name).collect(), order);
        weights.iter().try_for_each(|weight| self.matrix(weight, &source))
    }

    /// The rows of a weight from the tensors that have them. Blocks of the format in which they are stored are
    /// taken as they are.
    pub fn matrix(&mut self, weight: &Weight, (names, order): &(Vec<String>, Rows)) -> Result<()> {
        let tensors = self.tensors(names)?;
        let (format, cols, reordered) = (weight.format, weight.cols as usize, weight.order.is_some());
        // An even number of rows, as `Weight::write_rows` wants them to begin.
        let step = (STAGING_VALUES as u32 / weight.cols).max(2) & !1;
        let blocks = format.blocks(cols);
        let (row_codes, row_scales) = (blocks * format.code_words, blocks * format.scale_halves);
        let all = weight.experts * weight.rows;
        for first in (0..all).step_by(step as usize) {
            let rows = first..all.min(first + step);
            let sources: Vec<_> = rows
                .map(|row| order.source((weight.first_output + weight.output_step * row) as usize))
                .map(|(tensor, row)| (&tensors[tensor], row))
                .collect();
            let mut codes = vec![0; sources.len() * row_codes];
            // As many as rows even where there are none.
            let mut scales = vec![0; sources.len() * row_scales.max(1)];
            let rows =
                codes.par_chunks_exact_mut(row_codes).zip(scales.par_chunks_exact_mut(row_scales.max(1)));
            rows.zip(&sources).try_for_each(|((codes, scales), (tensor, row))| {
                if tensor.dtype.format() == format && reordered == tensor.order().is_some() {
                    tensor.unpack_row(*row, codes, scales);
                    if format.is_finite(codes, scales) {
                        return Ok(());
                    }
                }
                let mut values = vec![0.0; cols];
                tensor.to_f32(row * cols, &mut values);
                check_finite(tensor, &values)?;
                format.encode_rows(&values, cols, codes, &mut scales[..row_scales]);
                Ok(())
            })?;
            scales.truncate(sources.len() * row_scales);
            weight.write_rows(self.gpu, first, &codes, &scales);
            let read = sources.iter().map(|(tensor, _)| tensor.row_bytes()).sum();
            self.advance(&[], read, 4 * codes.len() + 2 * scales.len())?;
        }
        self.advance(&tensors, 0, 0)
    }

    /// Counts bytes read and bytes handed to the driver, and gives `finished` tensors back.
    fn advance(&mut self, finished: &[TensorView], read: usize, written: usize) -> Result<()> {
        for tensor in finished {
            self.checkpoint.release(tensor.name);
        }
        self.done += read as u64;
        (self.progress)(Stage::Weights(self.total), self.done);
        self.unflushed += written as u64;
        if self.unflushed > STAGING_BYTES {
            self.unflushed = 0;
            self.gpu.flush()?;
        }
        Ok(())
    }
}

fn check_finite(tensor: &TensorView, values: &[f32]) -> Result<()> {
    match values.iter().find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(value) => {
            let error = Error::expected(ErrorKind::Checkpoint, tensor.name, "finite weights", value);
            Err(error.within(tensor.file.display()))
        }
    }
}
