//! Rotary position embedding (Su et al. 2021, arXiv:2104.09864), neighbouring dimensions paired as in the paper.

/// Radians that pair `i` turns by per position, `theta^(-2i / head_dim)`: `[head_dim / 2]`.
pub fn rope_frequencies(head_dim: usize, theta: f64) -> Vec<f64> {
    (0..head_dim / 2).map(|pair| theta.powf(-2.0 * pair as f64 / head_dim as f64)).collect()
}

/// `scale` times cos and sin of the rotary angles, each `[positions, head_dim / 2]`, computed in `f64`. Pair `i` at
/// position `p` turns by `p * frequencies[i]`.
pub fn rope_table(
    frequencies: &[f64],
    scale: f64,
    positions: impl Iterator<Item = u32>,
) -> (Vec<f32>, Vec<f32>) {
    let angles = positions.flat_map(|position| frequencies.iter().map(move |f| f64::from(position) * f));
    angles.map(|angle| ((scale * angle.cos()) as f32, (scale * angle.sin()) as f32)).unzip()
}

/// Rotates the pairs `(2i, 2i + 1)` of every head of `x`, `[rows, heads, head_dim]`, by row's
/// angles: `cos` and `sin` are `[rows, head_dim / 2]`.
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], heads: usize, head_dim: usize) {
    let half = head_dim / 2;
    for (row, x) in x.chunks_exact_mut(heads * head_dim).enumerate() {
        for head in x.chunks_exact_mut(head_dim) {
            for pair in 0..half {
                let (cos, sin) = (f64::from(cos[row * half + pair]), f64::from(sin[row * half + pair]));
                let (a, b) = (f64::from(head[2 * pair]), f64::from(head[2 * pair + 1]));
                head[2 * pair] = (a * cos - b * sin) as f32;
                head[2 * pair + 1] = (b * cos + a * sin) as f32;
            }
        }
    }
}
