//! One tensor of a checkpoint, and its values.

use std::fmt;
use std::path::Path;

use bytemuck::{Pod, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The types of weights that checkpoints hold; all little-endian in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    BF16,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The type that safetensors calls by this name.
    pub(super) fn from_safetensors(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::BF16),
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

/// A tensor in a mapped file: nothing is read until its bytes are.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    /// Its name, such as `model.norm.weight`.
    pub name: &'a str,
    /// The file it is in.
    pub file: &'a Path,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
    /// Its elements in row-major order, little-endian, with no promise about alignment.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Writes the elements `first .. first + out.len()`, as f32, to `out`. The conversion is exact, so a
    /// tensor can be streamed in pieces of any length.
    ///
    /// # Panics
    /// If the tensor has fewer elements than that, as indexing a slice would.
    pub fn to_f32(&self, first: usize, out: &mut [f32]) {
        let size = self.dtype.size();
        let bytes = &self.bytes[first * size..(first + out.len()) * size];
        match self.dtype {
            DType::F32 => cast_slice_mut(out).copy_from_slice(bytes),
            DType::F16 => widen(bytes, out, <[f16]>::convert_to_f32_slice),
            DType::BF16 => widen(bytes, out, <[bf16]>::convert_to_f32_slice),
        }
    }
}

/// Converts through a small aligned block, for `bytes` need not be aligned to `H`.
fn widen<H: Pod>(bytes: &[u8], out: &mut [f32], convert: fn(&[H], &mut [f32])) {
    const BLOCK: usize = 512;
    let mut block = [H::zeroed(); BLOCK];
    for (bytes, out) in bytes.chunks(BLOCK * size_of::<H>()).zip(out.chunks_mut(BLOCK)) {
        let block = &mut block[..out.len()];
        cast_slice_mut(block).copy_from_slice(bytes);
        convert(block, out);
    }
}

const _: () =
    assert!(cfg!(target_endian = "little"), "weights are copied as the little-endian bytes they are");

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {} {:?} in {}", self.name, self.dtype, self.shape, self.file.display())
    }
}
