//! A weight matrix in host memory.

use super::Format;

/// `[rows, cols]` weights in one format: the two planes of the whole matrix.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// How blocks are stored.
    pub format: &'static Format,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `[rows, blocks, code_words]`.
    pub codes: Vec<u32>,
    /// `[rows, blocks, scale_halves]`, bits of `f16`.
    pub scales: Vec<u16>,
}

impl Matrix {
    /// Encodes `values`, `[rows, cols]`.
    pub fn encode(format: &'static Format, rows: usize, cols: usize, values: &[f32]) -> Self {
        let blocks = rows * format.blocks(cols);
        let mut codes = vec![0; blocks * format.code_words];
        let mut scales = vec![0; blocks * format.scale_halves];
        format.encode_rows(values, cols, &mut codes, &mut scales);
        Self { format, rows, cols, codes, scales }
    }

    /// Decodes row `row`.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let blocks = self.format.blocks(self.cols);
        let mut values = vec![0.0; self.cols];
        let codes = &self.codes[row * blocks * self.format.code_words..];
        let scales = &self.scales[row * blocks * self.format.scale_halves..];
        self.format.decode_row(codes, scales, &mut values);
        values
    }
}
