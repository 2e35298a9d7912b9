//! What an operation wrote, in any format of activations.

use super::worst;
use crate::{
    Result,
    gpu::Gpu,
    quant::BLOCK,
    reference,
    tensor::{Activation, ActivationFormat, F16Tensor, Q8Tensor, Tensor},
};

/// Room for a result.
pub enum Output {
    F32(Tensor),
    Q8(Q8Tensor),
    F16(F16Tensor),
}

impl Output {
    pub fn new(gpu: &Gpu, format: ActivationFormat, rows: u32, cols: u32) -> Result<Self> {
        Ok(match format {
            ActivationFormat::F32 => Self::F32(Tensor::zeros(gpu, "y", rows, cols)?),
            ActivationFormat::Q8 => Self::Q8(Q8Tensor::zeros(gpu, "y", rows, cols)?),
            ActivationFormat::F16 => Self::F16(F16Tensor::zeros(gpu, "y", rows, cols)?),
        })
    }

    pub fn activation(&self) -> Activation<'_> {
        match self {
            Self::F32(tensor) => Activation::F32(tensor),
            Self::Q8(tensor) => Activation::Q8(tensor),
            Self::F16(tensor) => Activation::F16(tensor),
        }
    }

    /// Error of every value: of a number, of whatever length, relative to `size` of its index, of a code to the largest value
    /// of its block. `expected` is `[rows, cols]`.
    pub async fn errors(&self, gpu: &Gpu, expected: &[f32], size: impl Fn(usize) -> f32) -> Result<Vec<f32>> {
        let each = |found: Vec<f32>, expected: &[f32], size: &dyn Fn(usize) -> f32| {
            (0..found.len()).map(|i| worst(&found[i..=i], &expected[i..=i], |_| size(i))).collect()
        };
        match self {
            Self::F32(tensor) => Ok(each(tensor.download(gpu, tensor.rows).await?, expected, &size)),
            // What is larger counts as the largest, and what is smaller than the smallest normal number has its steps.
            Self::F16(tensor) => {
                let expected: Vec<_> = expected.iter().map(|value| value.clamp(-65504.0, 65504.0)).collect();
                Ok(each(tensor.download(gpu, tensor.rows).await?, &expected, &|i| size(i).max(6.1e-5)))
            }
            Self::Q8(tensor) => {
                let cols = tensor.cols as usize;
                let expected = reference::quantize(expected, cols);
                let largest = |index: usize| {
                    let begin = index - index % cols % BLOCK;
                    let block = &expected[begin..(begin + BLOCK).min(index - index % cols + cols)];
                    block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()))
                };
                Ok(each(tensor.download(gpu, tensor.rows).await?, &expected, &largest))
            }
        }
    }

    /// The largest of [`Output::errors`].
    pub async fn error(&self, gpu: &Gpu, expected: &[f32], size: impl Fn(usize) -> f32) -> Result<f32> {
        Ok(self.errors(gpu, expected, size).await?.into_iter().fold(0.0, f32::max))
    }
}

/// The bound of numbers, or that of rounded ones: half a step of 11 bits more, or one code, where a value lies half-way
/// between two.
pub fn bound(format: ActivationFormat, numbers: f32) -> f32 {
    match format {
        ActivationFormat::F32 => numbers,
        ActivationFormat::Q8 => 1.01 / 127.0,
        ActivationFormat::F16 => numbers + 4.9e-4,
    }
}
