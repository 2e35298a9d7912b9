//! Products with weight matrices.

use crate::quant::Matrix;

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
