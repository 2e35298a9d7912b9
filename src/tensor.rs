//! Matrices of activations on the device.

use crate::{
    Result,
    gpu::{Buffer, Gpu, KernelKey},
    quant::BLOCK,
};
use half::f16;

/// A matrix of `f32` on the device, `[rows, cols]`, row-major.
///
/// Rows are padded to a whole number of quantization blocks. The padding is zero from the
/// allocation on and no kernel writes anything else to it, so that a product over whole blocks is right
/// for every number of columns.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// The memory, `rows * stride` floats.
    pub buffer: Buffer,
    /// Rows that fit.
    pub rows: u32,
    /// Columns that mean something.
    pub cols: u32,
}

impl Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros(gpu: &Gpu, label: &str, rows: u32, cols: u32) -> Result<Self> {
        let bytes = u64::from(rows) * u64::from(stride(cols)) * 4;
        Ok(Self { buffer: gpu.allocate(label, bytes)?, rows, cols })
    }

    /// A tensor with the given values, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn from_values(gpu: &Gpu, label: &str, values: &[f32], cols: u32) -> Result<Self> {
        let rows = values.len() / cols as usize;
        let tensor = Self::zeros(gpu, label, rows as u32, cols)?;
        let mut padded = vec![0.0; rows * tensor.stride() as usize];
        for (to, from) in
            padded.chunks_exact_mut(tensor.stride() as usize).zip(values.chunks_exact(cols as usize))
        {
            to[..cols as usize].copy_from_slice(from);
        }
        gpu.write(&tensor.buffer, 0, &padded);
        Ok(tensor)
    }

    /// Floats from the beginning of one row to that of the next.
    pub fn stride(&self) -> u32 {
        stride(self.cols)
    }

    /// The first `rows` rows, without padding: `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn download(&self, gpu: &Gpu, rows: u32) -> Result<Vec<f32>> {
        let stride = self.stride() as usize;
        let part = self.buffer.slice(0, u64::from(rows) * stride as u64 * 4);
        let padded = gpu.download::<f32>(&[part]).await?.remove(0);
        Ok(padded.chunks_exact(stride).flat_map(|row| &row[..self.cols as usize]).copied().collect())
    }
}

/// A matrix of activations in blocks of 8-bit codes, `[rows, cols]`: what integer products read.
#[derive(Debug, Clone)]
pub struct Q8Tensor {
    /// `[rows, blocks, 8]` words of four codes each.
    pub codes: Buffer,
    /// `[rows, blocks]` pairs: the block's scale, `f32`, and the sum of its codes, `i32`.
    pub scales: Buffer,
    /// Rows that fit.
    pub rows: u32,
    /// Columns that mean something; the codes of the rest of a block are zero.
    pub cols: u32,
}

impl Q8Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros(gpu: &Gpu, label: &str, rows: u32, cols: u32) -> Result<Self> {
        let blocks = u64::from(rows) * u64::from(stride(cols)) / BLOCK as u64;
        let (codes, scales) = (gpu.allocate(label, blocks * BLOCK as u64)?, gpu.allocate(label, blocks * 8)?);
        Ok(Self { codes, scales, rows, cols })
    }

    /// Bytes of a tensor.
    pub fn bytes(rows: u64, cols: u64) -> u64 {
        rows * cols.div_ceil(BLOCK as u64) * (BLOCK as u64 + 8)
    }

    /// The values of the first `rows` rows, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn download(&self, gpu: &Gpu, rows: u32) -> Result<Vec<f32>> {
        let (stride, cols) = (stride(self.cols) as usize, self.cols as usize);
        let codes = gpu.download::<i8>(std::slice::from_ref(&self.codes)).await?.remove(0);
        let scales = gpu.download::<[f32; 2]>(std::slice::from_ref(&self.scales)).await?.remove(0);
        let value = |at: usize| scales[at / BLOCK][0] * f32::from(codes[at]);
        Ok((0..rows as usize).flat_map(|row| (row * stride..row * stride + cols).map(value)).collect())
    }
}

/// A matrix of activations in 16-bit floats, `[rows, cols]`: half the bytes for products of few rows to read. What is finite and
/// beyond 65504 counts as that.
#[derive(Debug, Clone)]
pub struct F16Tensor {
    /// `[rows, stride / 2]` words of two values each.
    pub buffer: Buffer,
    /// Rows that fit.
    pub rows: u32,
    /// Columns that mean something; the rest of a block is zero.
    pub cols: u32,
}

impl F16Tensor {
    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros(gpu: &Gpu, label: &str, rows: u32, cols: u32) -> Result<Self> {
        let bytes = Self::bytes(rows.into(), cols.into());
        Ok(Self { buffer: gpu.allocate(label, bytes)?, rows, cols })
    }

    /// Bytes of a tensor.
    pub fn bytes(rows: u64, cols: u64) -> u64 {
        rows * cols.next_multiple_of(BLOCK as u64) * 2
    }

    /// The values of the first `rows` rows, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn download(&self, gpu: &Gpu, rows: u32) -> Result<Vec<f32>> {
        let (stride, cols) = (stride(self.cols) as usize, self.cols as usize);
        let values = gpu.download::<f16>(std::slice::from_ref(&self.buffer)).await?.remove(0);
        let rows = values.chunks_exact(stride).take(rows as usize);
        Ok(rows.flat_map(|row| &row[..cols]).map(|value| value.to_f32()).collect())
    }
}

/// Flag of kernels that read or write [`F16Tensor`].
pub(crate) const HALVES: &str = "halves";

/// How activations are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActivationFormat {
    /// [`Tensor`].
    F32,
    /// [`Q8Tensor`].
    Q8,
    /// [`F16Tensor`].
    F16,
}

impl ActivationFormat {
    /// All formats.
    pub const ALL: [Self; 3] = [Self::F32, Self::Q8, Self::F16];

    /// What a shader is told of the format that it reads or writes.
    pub(crate) fn specialise(self, key: KernelKey) -> KernelKey {
        key.flag("blocks", self != Self::F32).flag(HALVES, self == Self::F16)
    }
}

/// Room for a matrix of activations in each of the formats that round them.
#[derive(Debug)]
pub struct Rounded {
    /// For kernels that multiply integers.
    pub q8: Q8Tensor,
    /// For kernels of few rows.
    pub f16: F16Tensor,
}

impl Rounded {
    /// Tensors of zeros.
    ///
    /// # Errors
    /// As [`Gpu::allocate`].
    pub fn zeros(gpu: &Gpu, label: &str, rows: u32, cols: u32) -> Result<Self> {
        let q8 = Q8Tensor::zeros(gpu, label, rows, cols)?;
        Ok(Self { q8, f16: F16Tensor::zeros(gpu, label, rows, cols)? })
    }

    /// That of `format`; of `f32`, `exact`.
    pub fn activation<'a>(&'a self, format: ActivationFormat, exact: &'a Tensor) -> Activation<'a> {
        match format {
            ActivationFormat::F32 => Activation::F32(exact),
            ActivationFormat::Q8 => Activation::Q8(&self.q8),
            ActivationFormat::F16 => Activation::F16(&self.f16),
        }
    }
}

/// Activations as an operation writes them, or a product reads them.
#[derive(Debug, Clone, Copy)]
pub enum Activation<'a> {
    /// As numbers.
    F32(&'a Tensor),
    /// In blocks of 8-bit codes.
    Q8(&'a Q8Tensor),
    /// In 16-bit floats.
    F16(&'a F16Tensor),
}

impl<'a> Activation<'a> {
    /// How they are stored.
    pub fn format(self) -> ActivationFormat {
        match self {
            Self::F32(_) => ActivationFormat::F32,
            Self::Q8(_) => ActivationFormat::Q8,
            Self::F16(_) => ActivationFormat::F16,
        }
    }

    /// Rows that fit.
    pub fn rows(self) -> u32 {
        match self {
            Self::F32(tensor) => tensor.rows,
            Self::Q8(tensor) => tensor.rows,
            Self::F16(tensor) => tensor.rows,
        }
    }

    /// Columns that mean something.
    pub fn cols(self) -> u32 {
        match self {
            Self::F32(tensor) => tensor.cols,
            Self::Q8(tensor) => tensor.cols,
            Self::F16(tensor) => tensor.cols,
        }
    }

    /// Columns from the beginning of one row to that of the next.
    pub fn stride(self) -> u32 {
        stride(self.cols())
    }

    /// The values of the first `rows` rows, `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Gpu::download`].
    pub async fn download(self, gpu: &Gpu, rows: u32) -> Result<Vec<f32>> {
        match self {
            Self::F32(tensor) => tensor.download(gpu, rows).await,
            Self::Q8(tensor) => tensor.download(gpu, rows).await,
            Self::F16(tensor) => tensor.download(gpu, rows).await,
        }
    }

    /// The buffers that a kernel reads.
    pub(crate) fn inputs(self) -> impl Iterator<Item = (&'static str, &'a Buffer)> {
        let (first, second) = match self {
            Self::F32(tensor) => (("x", &tensor.buffer), None),
            Self::Q8(tensor) => (("x_codes", &tensor.codes), Some(("x_scales", &tensor.scales))),
            Self::F16(tensor) => (("x", &tensor.buffer), None),
        };
        [first].into_iter().chain(second)
    }

    /// The buffers that a kernel writes: `y`, or as `quant/store.wgsl` calls them.
    pub(crate) fn outputs(self) -> impl Iterator<Item = (&'static str, &'a Buffer)> {
        let (first, second) = match self {
            Self::F32(tensor) => (("y", &tensor.buffer), None),
            Self::Q8(tensor) => (("y_codes", &tensor.codes), Some(("y_scales", &tensor.scales))),
            Self::F16(tensor) => (("y_halves", &tensor.buffer), None),
        };
        [first].into_iter().chain(second)
    }
}

fn stride(cols: u32) -> u32 {
    cols.next_multiple_of(BLOCK as u32)
}
