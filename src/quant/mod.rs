//! Block formats of weights: how neighbouring weights of a row are stored, encoded and decoded.
//!
//! A weight matrix is two planes, codes and scales, so that every element is aligned to a word:
//! GGML's own blocks of 18 and 34 bytes are not. The order of blocks is row-major. GGML's blocks become
//! a block of either plane by moving bits ([`Ggml`]): nothing is lost, and rows stay independent.

mod bf16;
mod f16;
mod f32;
mod ggml;
mod int4;
mod iq4_nl;
mod iq4_xs;
mod matrix;
mod packed;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;

use rayon::prelude::*;

use crate::{Error, ErrorKind, Result};

pub use f16::round as round_f16;
pub use f32::F32;
pub use ggml::{Ggml, by_ggml};
pub use matrix::Matrix;
pub(crate) use packed::pack as pack_codes;

/// Weights that kernels read together: a block of most formats, and a part of every other's.
pub const BLOCK: usize = 32;

/// One block format.
#[derive(Debug)]
pub struct Format {
    /// Name on the command line, and of the shader module `quant/<name>` that decodes it.
    pub name: &'static str,
    /// Weights in a block: [`BLOCK`], or a multiple that has scales in common. Of the latter, rows have
    /// whole blocks only.
    pub block: usize,
    /// 32-bit words of codes in a block; those of [`BLOCK`] weights lie together.
    pub code_words: usize,
    /// 16-bit words of scales in a block.
    pub scale_halves: usize,
    /// Encodes a block of finite weights.
    pub encode: fn(&[f32], codes: &mut [u32], scales: &mut [u16]),
    /// Decodes a block.
    pub decode: fn(codes: &[u32], scales: &[u16], &mut [f32]),
    /// Whether all weights of a block are finite: no exponent is the largest, be it of the weights or of their scales.
    finite: fn(codes: &[u32], scales: &[u16]) -> bool,
    /// Largest difference between a weight and its decoded code, relative to the largest magnitude
    /// in the block, for blocks whose scale is a normal `f16`.
    pub error_bound: f32,
    /// The same format in GGML, if it has it.
    pub ggml: Option<Ggml>,
}

/// Every format, most exact first.
pub static FORMATS: [&Format; 14] = [
    &f32::F32,
    &f16::F16,
    &bf16::BF16,
    &q8_0::Q8_0,
    &q6_k::Q6_K,
    &q5_k::Q5_K,
    &q5_1::Q5_1,
    &q5_0::Q5_0,
    &q4_k::Q4_K,
    &iq4_nl::IQ4_NL,
    &iq4_xs::IQ4_XS,
    &int4::INT4,
    &q4_1::Q4_1,
    &q4_0::Q4_0,
];

/// The format of that name.
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.into_iter().find(|format| format.name == name)
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Format {
    /// Bits per weight, scales included.
    pub fn bits_per_weight(&self) -> f32 {
        (32 * self.code_words + 16 * self.scale_halves) as f32 / self.block as f32
    }

    /// Whether rows of `cols` weights can be in this format.
    pub fn takes(&self, cols: usize) -> bool {
        self.block == BLOCK || cols.is_multiple_of(self.block)
    }

    /// Refuses a matrix whose rows cannot be in this format.
    ///
    /// # Errors
    /// [`ErrorKind::Argument`] about `matrix`, unless the format [takes](Self::takes) so many columns.
    pub fn check_cols(&self, matrix: &str, cols: usize) -> Result<()> {
        if self.takes(cols) {
            return Ok(());
        }
        let expected = format!("a multiple of {} columns for weights in {}", self.block, self.name);
        Err(Error::expected(ErrorKind::Argument, matrix, expected, cols))
    }

    /// The next number of columns, from `cols` on, that rows in this format can have.
    pub fn round_up(&self, cols: usize) -> usize {
        if self.takes(cols) { cols } else { cols.next_multiple_of(self.block) }
    }

    /// Blocks in a row of `cols` weights; the last is filled up with zeros.
    pub fn blocks(&self, cols: usize) -> usize {
        cols.div_ceil(self.block)
    }

    /// Bytes of the codes plane and of the scales plane (whole words) of a `[rows, cols]` matrix;
    /// `None` when they cannot be counted in 64 bits.
    pub fn plane_bytes(&self, rows: usize, cols: usize) -> Option<(u64, u64)> {
        let blocks = (rows as u64).checked_mul(self.blocks(cols) as u64)?;
        let codes = blocks.checked_mul(4 * self.code_words as u64)?;
        let scales = blocks.checked_mul(2 * self.scale_halves as u64)?;
        Some((codes, scales.checked_next_multiple_of(4)?))
    }

    /// Encodes `values`, `[rows, cols]`, into the two planes, on all cores.
    ///
    /// # Panics
    /// When the planes are not of the size that the values need.
    pub fn encode_rows(&self, values: &[f32], cols: usize, codes: &mut [u32], scales: &mut [u16]) {
        let blocks = self.blocks(cols);
        let rows = values.len() / cols;
        assert_eq!(codes.len(), rows * blocks * self.code_words, "codes plane");
        assert_eq!(scales.len(), rows * blocks * self.scale_halves, "scales plane");
        let encode_row = |(row, codes, scales): (&[f32], &mut [u32], &mut [u16])| {
            let mut block = vec![0.0; self.block];
            for (index, part) in row.chunks(self.block).enumerate() {
                block[..part.len()].copy_from_slice(part);
                block[part.len()..].fill(0.0);
                let codes = &mut codes[index * self.code_words..][..self.code_words];
                let scales = &mut scales[index * self.scale_halves..][..self.scale_halves];
                (self.encode)(&block, codes, scales);
            }
        };
        let code_rows = codes.par_chunks_exact_mut(blocks * self.code_words);
        let value_rows = values.par_chunks_exact(cols);
        if self.scale_halves == 0 {
            value_rows.zip(code_rows).for_each(|(row, codes)| encode_row((row, codes, &mut [])));
        } else {
            let scale_rows = scales.par_chunks_exact_mut(blocks * self.scale_halves);
            value_rows.zip(code_rows).zip(scale_rows).for_each(|((row, codes), scales)| {
                encode_row((row, codes, scales));
            });
        }
    }

    /// Whether all weights of a row are finite, from its part of the planes: as decoding says it, but fast.
    pub fn is_finite(&self, codes: &[u32], scales: &[u16]) -> bool {
        let mut blocks = codes.chunks_exact(self.code_words).enumerate();
        blocks.all(|(index, codes)| {
            (self.finite)(codes, &scales[index * self.scale_halves..][..self.scale_halves])
        })
    }

    /// Decodes one row of `cols` weights from its part of the planes.
    pub fn decode_row(&self, codes: &[u32], scales: &[u16], out: &mut [f32]) {
        let mut block = vec![0.0; self.block];
        for (index, part) in out.chunks_mut(self.block).enumerate() {
            let codes = &codes[index * self.code_words..][..self.code_words];
            let scales = &scales[index * self.scale_halves..][..self.scale_halves];
            (self.decode)(codes, scales, &mut block);
            part.copy_from_slice(&block[..part.len()]);
        }
    }
}

/// Whether these `f16`s are finite: their exponents are not the largest.
fn finite_halves(halves: &[u16]) -> bool {
    halves.iter().all(|half| half & 0x7c00 != 0x7c00)
}
