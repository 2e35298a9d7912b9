//! Products with weight matrices, and what they read.

use crate::quant::{BLOCK, Matrix};

/// Row `ids[i]` of `weight` for each id: `[ids, cols]`.
pub fn embedding(weight: &Matrix, ids: &[u32]) -> Vec<f32> {
    ids.iter().flat_map(|id| weight.row(*id as usize)).collect()
}

/// `y = x · weightᵀ`: `weight` is `[n, k]`, `x` is `[m, k]`, the result `[m, n]`.
pub fn matmul(weight: &Matrix, x: &[f32]) -> Vec<f32> {
    let (n, k) = (weight.rows, weight.cols);
    let mut y = vec![0.0; x.len() / k * n];
    for out in 0..n {
        let row = weight.row(out);
        for (index, x) in x.chunks_exact(k).enumerate() {
            let sum: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            y[index * n + out] = sum as f32;
        }
    }
    y
}

/// `bias`, `[n]`, added to every row of `y`, `[m, n]`.
pub fn add_bias(y: &mut [f32], bias: &[f32]) {
    for row in y.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
    }
}

/// Every value of `x`, `[rows, cols]`, rounded to one of 255 steps of its block of 32 in a row, of which the
/// largest magnitude is the last.
pub fn quantize(x: &[f32], cols: usize) -> Vec<f32> {
    let rounded = |block: &[f32]| -> Vec<f32> {
        let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let inverse = if largest < 1e-30 { 0.0 } else { 127.0 / largest };
        block.iter().map(|value| (value * inverse).round_ties_even() * (largest / 127.0)).collect()
    };
    x.chunks_exact(cols).flat_map(|row| row.chunks(BLOCK)).flat_map(rounded).collect()
}

/// Row `indices[i]` of `x`, `[rows, cols]`, as row `i`.
pub fn gather_rows(x: &[f32], cols: usize, indices: &[u32]) -> Vec<f32> {
    indices.iter().flat_map(|row| &x[*row as usize * cols..][..cols]).copied().collect()
}

/// Column `indices[j]` of every row of `x`, `[rows, cols]`, as column `j`.
pub fn gather_cols(x: &[f32], cols: usize, indices: &[u32]) -> Vec<f32> {
    x.chunks_exact(cols).flat_map(|row| indices.iter().map(|col| row[*col as usize])).collect()
}
