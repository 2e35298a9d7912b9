//! Grouped-query attention with a sliding window (Mistral 7B, arXiv:2310.06825, section 2).

use half::f16;

use crate::quant::round_f16;

/// The shape of an attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads, which divide `heads`: query head `h` uses head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// A query at position `i` sees keys `i − W + 1 ..= i`; all up to `i` without a window.
    pub window: Option<u32>,
}

/// Softmax attention of `q`, `[rows, heads, head_dim]`, at `positions`, `[rows]`, over `k` and `v`,
/// `[keys, kv_heads, head_dim]`, where key `j` has position `j`. The result is as `q`.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], positions: &[u32], shape: AttentionShape) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_dim, window } = shape;
    let mut out = Vec::with_capacity(q.len());
    for (query, position) in q.chunks_exact(heads * head_dim).zip(positions) {
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        for (head, query) in query.chunks_exact(head_dim).enumerate() {
            let kv_head = head / (heads / kv_heads);
            let at = |values: &'_ [f32], key: u32, dim: usize| {
                f64::from(values[(key as usize * kv_heads + kv_head) * head_dim + dim])
            };
            let score = |key: u32| -> f64 {
                let dot: f64 = query.iter().enumerate().map(|(dim, q)| f64::from(*q) * at(k, key, dim)).sum();
                dot / (head_dim as f64).sqrt()
            };
            let scores: Vec<f64> = (first..=*position).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|dim| {
                let sum: f64 =
                    weights.iter().zip(first..).map(|(weight, key)| weight * at(v, key, dim)).sum();
                (sum / total) as f32
            }));
        }
    }
    out
}

/// As the KV cache stores `f16`: to nearest even, clamped to ±65504.
pub fn f16_store(value: f32) -> u16 {
    round_f16(value).to_bits()
}

/// The value of stored `f16` bits.
pub fn f16_load(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}
