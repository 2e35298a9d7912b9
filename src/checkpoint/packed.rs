//! Matrices of 4-bit codes as GPTQ and AWQ pack them, read row by row without loss.
//!
//! Both keep the transpose of the matrix `[rows, cols]`: `qweight`, `qzeros` and `scales` `[groups, rows]`, where
//! weight `(row, col)` is `scale * (code - zero)` by the scale and zero point of `col`'s group. GPTQ packs the codes of eight
//! columns in a word, `[cols / 8, rows]`, AWQ those of eight rows, `[cols, rows / 8]`; zero points are packed by rows in both.

use std::{array, sync::Arc};

use half::{bf16, f16};

use super::DType;
use crate::quant::{BLOCK, Format, by_name, pack_codes};

/// How codes and zero points lie in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Nibble `i` of a word is value `i`.
    Gptq {
        /// What is added to stored zero points, modulo 16: 1 in GPTQ's first layout.
        raise: u8,
    },
    /// Nibbles 0 to 7 of a word are the values 0, 2, 4, 6, 1, 3, 5, 7.
    Awq,
}

/// The tensors of a packed matrix, checked to belong together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed<'a> {
    pub packing: Packing,
    pub rows: usize,
    pub cols: usize,
    /// Columns of a group, a multiple of [`BLOCK`].
    pub group: usize,
    /// Words of codes.
    pub codes: &'a [u8],
    /// Words of zero points.
    pub zeros: &'a [u8],
    /// `[groups, rows]`, in `scale_type`.
    pub scales: &'a [u8],
    pub scale_type: DType,
    /// The group of every column as an `i32`, where it is not `col / group`.
    pub groups: Option<&'a [u8]>,
    /// The columns ordered by group, where that makes every block one of columns of the same group.
    pub order: Option<&'a Arc<[u32]>>,
}

/// Word `index` of little-endian words.
fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks().0[index])
}

impl Packing {
    /// Value `index` of those packed in a word.
    fn nibble(self, word: u32, index: usize) -> u8 {
        let at = match self {
            Self::Gptq { .. } => index,
            Self::Awq => index / 2 + index % 2 * 4,
        };
        (word >> (4 * at)) as u8 & 15
    }
}

impl Packed<'_> {
    /// The format that holds such values as they are: with zero points in the middle `q4_0`, with others `int4`.
    /// Where columns of different groups share a block in any order none of 4 bits does: products of 11 bits by 4 take `f32`.
    pub fn format(&self) -> &'static Format {
        let middle = || {
            let groups = self.cols.div_ceil(self.group);
            (0..groups).all(|group| (0..self.rows).all(|row| self.zero(row, group) == 8))
        };
        let name = match (self.groups, self.order) {
            (Some(_), None) => "f32",
            _ if middle() => "q4_0",
            _ => "int4",
        };
        by_name(name).expect("a format of the table")
    }

    fn code(&self, row: usize, col: usize) -> u8 {
        match self.packing {
            Packing::Gptq { .. } => self.packing.nibble(word(self.codes, col / 8 * self.rows + row), col % 8),
            Packing::Awq => self.packing.nibble(word(self.codes, col * (self.rows / 8) + row / 8), row % 8),
        }
    }

    /// The codes of a block of a row, its columns in [`order`](Self::order).
    fn block(&self, row: usize, block: usize) -> [u8; BLOCK] {
        let first = block * BLOCK;
        match (self.packing, self.order) {
            (Packing::Gptq { .. }, None) => {
                let words: [_; BLOCK / 8] =
                    array::from_fn(|i| word(self.codes, (first / 8 + i) * self.rows + row));
                array::from_fn(|i| self.packing.nibble(words[i / 8], i % 8))
            }
            (_, order) => {
                let col = |i: usize| order.map_or(first + i, |order| order[first + i] as usize);
                array::from_fn(|i| self.code(row, col(i)))
            }
        }
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        let stored = self.packing.nibble(word(self.zeros, group * (self.rows / 8) + row / 8), row % 8);
        match self.packing {
            Packing::Gptq { raise } => (stored + raise) & 15,
            Packing::Awq => stored,
        }
    }

    /// Of the type that it has in the file, which was found to be exact.
    fn scale(&self, row: usize, group: usize) -> f16 {
        let size = if self.scale_type == DType::F32 { 4 } else { 2 };
        let bytes = &self.scales[(group * self.rows + row) * size..][..size];
        match (self.scale_type, bytes) {
            (DType::BF16, &[a, b]) => f16::from_f32(bf16::from_le_bytes([a, b]).to_f32()),
            (_, &[a, b]) => f16::from_le_bytes([a, b]),
            _ => f16::from_f32(f32::from_bits(word(bytes, 0))),
        }
    }

    fn group(&self, col: usize) -> usize {
        self.groups.map_or(col / self.group, |groups| word(groups, col) as usize)
    }

    /// Moves a row to its part of the planes of [`format`](Self::format), its columns in [`order`](Self::order).
    pub fn unpack_row(&self, row: usize, format: &Format, codes: &mut [u32], scales: &mut [u16]) {
        let planes =
            codes.chunks_exact_mut(format.code_words).zip(scales.chunks_exact_mut(format.scale_halves));
        for (block, (codes, scales)) in planes.enumerate() {
            let first = block * BLOCK;
            let group = self.group(self.order.map_or(first, |order| order[first] as usize));
            pack_codes(&self.block(row, block), codes);
            scales[0] = self.scale(row, group).to_bits();
            if let Some(zero) = scales.get_mut(1) {
                *zero = f16::from(self.zero(row, group)).to_bits();
            }
        }
    }

    /// The weights of a row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let mut group = self.group(block * BLOCK);
            let mut common = (self.scale(row, group), self.zero(row, group));
            for (i, out) in out.iter_mut().enumerate() {
                let own = self.group(block * BLOCK + i);
                if own != group {
                    (group, common) = (own, (self.scale(row, own), self.zero(row, own)));
                }
                *out =
                    common.0.to_f32() * (f32::from(self.code(row, block * BLOCK + i)) - f32::from(common.1));
            }
        }
    }
}
