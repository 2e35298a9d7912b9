//! From logits to candidates.

use std::cmp::Ordering;

/// The logit of a token that must not be chosen: finite, so that sums over it stay numbers.
pub const FORBIDDEN: f32 = -3.0e38;

/// What is known about one token of the text so far, or asked for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenAdjustment {
    /// Token id.
    pub id: u32,
    /// Whether it is in the prompt or was generated: then the repetition penalty applies.
    pub seen: bool,
    /// How often it was generated.
    pub count: u32,
    /// Added to its logit.
    pub bias: f32,
}

/// Penalties of tokens that occurred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides positive and multiplies negative logits of seen tokens (arXiv:1909.05858, section 4.1).
    pub repetition: f32,
    /// Subtracted once for every time a token was generated.
    pub frequency: f32,
    /// Subtracted if it was generated at all.
    pub presence: f32,
}

impl Penalties {
    /// Changes nothing.
    pub const NONE: Self = Self { repetition: 1.0, frequency: 0.0, presence: 0.0 };
}

/// Applies penalties and biases to the listed tokens of `logits`, `[vocab]`, and forbids those whose
/// bit is not set in `mask` (bit `id % 32` of word `id / 32`).
pub fn adjust_logits(
    logits: &mut [f32],
    adjustments: &[TokenAdjustment],
    penalties: Penalties,
    mask: Option<&[u32]>,
) {
    for adjustment in adjustments {
        let logit = &mut logits[adjustment.id as usize];
        if adjustment.seen {
            *logit = if *logit > 0.0 { *logit / penalties.repetition } else { *logit * penalties.repetition };
        }
        let generated = if adjustment.count > 0 { 1.0 } else { 0.0 };
        *logit -= penalties.frequency * adjustment.count as f32 + penalties.presence * generated;
        *logit += adjustment.bias;
    }
    if let Some(mask) = mask {
        for (id, logit) in logits.iter_mut().enumerate() {
            if mask[id / 32] >> (id % 32) & 1 == 0 {
                *logit = FORBIDDEN;
            }
        }
    }
}

/// The id of the largest logit, the lowest of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    (0..).zip(logits.iter().copied()).min_by(|a, b| order(*a, *b)).map_or(0, |(id, _)| id)
}

/// The `k` largest logits with their ids, descending, equals by ascending id.
pub fn top_k(logits: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    sorted.sort_by(|a, b| order(*a, *b));
    sorted.truncate(k);
    sorted
}

/// Descending, equals by ascending id.
fn order(a: (u32, f32), b: (u32, f32)) -> Ordering {
    let key = |logit: f32| logit + 0.0; // -0.0 becomes its equal 0.0
    key(b.1).total_cmp(&key(a.1)).then(a.0.cmp(&b.0))
}

/// `ln Σ exp(logits * scale)`.
pub fn log_sum_exp(logits: &[f32], scale: f32) -> f64 {
    let scaled = || logits.iter().map(|logit| f64::from(*logit) * f64::from(scale));
    let largest = scaled().fold(f64::NEG_INFINITY, f64::max);
    largest + scaled().map(|value| (value - largest).exp()).sum::<f64>().ln()
}
