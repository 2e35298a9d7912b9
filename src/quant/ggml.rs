//! Formats as GGML, and with it GGUF files, has them.

use super::{FORMATS, Format};

/// How GGML stores a format: blocks of bytes, one after the other, row by row.
#[derive(Debug)]
pub struct Ggml {
    /// Its `ggml_type`.
    pub id: u32,
    /// Weights in its block: rows have whole blocks only.
    pub block: usize,
    /// Bytes of its block.
    pub bytes: usize,
    /// Moves the bits of as many blocks as are one of ours, or fewer at the end of a row, to their places.
    pub(super) unpack: fn(&[u8], codes: &mut [u32], scales: &mut [u16]),
}

/// The format that GGML calls by this number, if there is one.
pub fn by_ggml(id: u32) -> Option<&'static Format> {
    FORMATS.into_iter().find(|format| format.ggml.as_ref().is_some_and(|ggml| ggml.id == id))
}

impl Ggml {
    /// Bytes of a row of `cols` weights; `None` when it has no such rows.
    pub fn row_bytes(&self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block).then_some((cols / self.block).checked_mul(self.bytes)?)
    }
}

impl Format {
    /// Moves a row of GGML's blocks to its part of the planes, without loss. Codes that the row leaves in
    /// the last block are not touched.
    ///
    /// # Panics
    /// When GGML has no such format, `bytes` are no [row](Ggml::row_bytes), or the planes are too small.
    pub fn unpack_row(&self, bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
        let ggml = self.ggml.as_ref().expect("a format that GGML has");
        assert!(bytes.len().is_multiple_of(ggml.bytes), "{} bytes", bytes.len());
        let bytes = bytes.chunks(self.block / ggml.block * ggml.bytes);
        for ((index, bytes), codes) in bytes.enumerate().zip(codes.chunks_exact_mut(self.code_words)) {
            let scales = &mut scales[index * self.scale_halves..][..self.scale_halves];
            (ggml.unpack)(bytes, codes, scales);
        }
    }
}

/// Little-endian words; what is missing of the last is zero.
pub(super) fn words(bytes: &[u8], words: &mut [u32], _scales: &mut [u16]) {
    let (whole, rest) = bytes.as_chunks::<4>();
    words.iter_mut().zip(whole).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words[whole.len()] = u32::from_le_bytes(last);
    }
}

/// Little-endian halves.
pub(super) fn halves(bytes: &[u8], halves: &mut [u16]) {
    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *half = u16::from_le_bytes(*bytes);
    }
}
