//! One tensor of a checkpoint, and its values.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytemuck::{Pod, cast_slice_mut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::packed::Packed;
use crate::quant::{Format, by_name};

/// The types of weights that checkpoints hold; all little-endian in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// GGML's blocks of a format that it has, each row whole blocks.
    Blocks(&'static Format),
}

impl DType {
    /// The format that holds such values as they are.
    pub fn format(self) -> &'static Format {
        let named = |name| by_name(name).expect("a format of the table");
        match self {
            Self::F32 => named("f32"),
            Self::F16 => named("f16"),
            Self::BF16 => named("bf16"),
            Self::Blocks(format) => format,
        }
    }

    /// Bytes of a row of `cols` elements; `None` when there are no such rows, or they cannot be counted.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        self.format().ggml.as_ref().and_then(|ggml| ggml.row_bytes(cols))
    }

    /// The type of the values of `format` in a file.
    pub(super) fn of(format: &'static Format) -> Self {
        match format.name {
            "f32" => Self::F32,
            "f16" => Self::F16,
            "bf16" => Self::BF16,
            _ => Self::Blocks(format),
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
        f.write_str(self.format().name)
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
    /// Its elements in row-major order, little-endian, with no promise about alignment; of a matrix that GPTQ or AWQ
    /// packed, its codes.
    pub bytes: &'a [u8],
    /// What such a matrix is read from.
    pub(super) packed: Option<Packed<'a>>,
}

impl TensorView<'_> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements of the innermost dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The bytes of a row of [`cols`](Self::cols) elements.
    ///
    /// # Panics
    /// If the tensor has no such row.
    fn row(&self, row: usize) -> &[u8] {
        let size = self.dtype.row_bytes(self.cols()).expect("a tensor of whole rows");
        &self.bytes[row * size..][..size]
    }

    /// Whether GPTQ or AWQ packed it: `bytes` are then not its values.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Column of the matrix that each column is in [`unpack_row`](Self::unpack_row)'s rows, where that is another.
    pub fn order(&self) -> Option<&Arc<[u32]>> {
        self.packed.as_ref().and_then(|packed| packed.order)
    }

    /// Bytes of a row in the file, on average.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / (self.elements() / self.cols().max(1)).max(1)
    }

    /// Moves a row to its part of the planes of the format that its [`dtype`](Self::dtype) is, without loss, its
    /// columns in another [`order`](Self::order) if there is one.
    ///
    /// # Panics
    /// As [`Format::unpack_row`].
    pub fn unpack_row(&self, row: usize, codes: &mut [u32], scales: &mut [u16]) {
        let format = self.dtype.format();
        match self.packed {
            Some(packed) => packed.unpack_row(row, format, codes, scales),
            None => format.unpack_row(self.row(row), codes, scales),
        }
    }

    /// Writes the elements `first .. first + out.len()`, as f32, to `out`. The conversion is exact, so a
    /// tensor can be streamed in pieces of any length, of whole rows where it is in blocks.
    ///
    /// # Panics
    /// If the tensor has fewer elements than that, as indexing a slice would, or a row is cut.
    pub fn to_f32(&self, first: usize, out: &mut [f32]) {
        let end = first + out.len();
        if let Some(packed) = self.packed {
            assert!(first.is_multiple_of(packed.cols) && out.len().is_multiple_of(packed.cols), "whole rows");
            let rows = (first / packed.cols..).zip(out.chunks_exact_mut(packed.cols));
            return rows.for_each(|(row, out)| packed.row(row, out));
        }
        let bytes = |size: usize| &self.bytes[first * size..end * size];
        match self.dtype {
            DType::F32 => {
                let bytes = bytes(4);
                cast_slice_mut(out).copy_from_slice(bytes);
            }
            DType::F16 => widen(bytes(2), out, <[f16]>::convert_to_f32_slice),
            DType::BF16 => widen(bytes(2), out, <[bf16]>::convert_to_f32_slice),
            DType::Blocks(format) => {
                let cols = self.cols().max(1);
                assert!(first.is_multiple_of(cols) && out.len().is_multiple_of(cols), "whole rows");
                let blocks = format.blocks(cols);
                let mut codes = vec![0; blocks * format.code_words];
                let mut scales = vec![0; blocks * format.scale_halves];
                for (row, out) in (first / cols..).zip(out.chunks_exact_mut(cols)) {
                    format.unpack_row(self.row(row), &mut codes, &mut scales);
                    format.decode_row(&codes, &scales, out);
                }
            }
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
