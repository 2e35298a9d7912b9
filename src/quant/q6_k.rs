//! `q6_k`, GGML's Q6_K: a weight is a scale times a 6-bit code minus 32. The scale of 16 weights is a signed byte times
//! an `f16` that 256 weights share.
//!
//! A block's scales are the `f16`, then the bytes, two in a half.

use half::f16;

use super::{
    BLOCK, Format, Ggml, finite_halves, packed,
    search::{largest, symmetric},
};

/// Weights in a block.
const BLOCK_K: usize = 8 * BLOCK;

pub(super) static Q6_K: Format = Format {
    name: "q6_k",
    block: BLOCK_K,
    code_words: BLOCK_K * 6 / 32,
    scale_halves: 9,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    // Two steps of 1/32 where values are cut off for smaller steps elsewhere, and half a step of 1/128 of a scale.
    error_bound: 2.0 / 32.0 + 1.2 / 256.0,
    ggml: Some(Ggml { id: 14, block: BLOCK_K, bytes: 210, unpack }),
};

/// Scales with small errors first, then the codes for what 8 bits make of them.
fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let mut fits = [0.0; 16];
    for (fit, values) in fits.iter_mut().zip(block.chunks_exact(16)) {
        *fit = symmetric(values, &[-32.0], |x| x.round().clamp(-32.0, 31.0));
    }
    let factor = f16::from_f32(largest(&fits) / -128.0);
    let inverse = if factor.to_f32() == 0.0 { 0.0 } else { 1.0 / factor.to_f32() };
    let numbers = fits.map(|fit| (fit * inverse).round().clamp(-128.0, 127.0) as i8);
    scales[0] = factor.to_bits();
    for (half, pair) in scales[1..].iter_mut().zip(numbers.chunks_exact(2)) {
        *half = u16::from_le_bytes([pair[0] as u8, pair[1] as u8]);
    }
    let inverses = numbers
        .map(|number| factor.to_f32() * f32::from(number))
        .map(|s| if s == 0.0 { 0.0 } else { 1.0 / s });
    for (part, words) in codes.chunks_exact_mut(6).enumerate() {
        let code = |i: usize| {
            let at = BLOCK * part + i;
            (block[at] * inverses[at / 16] + 32.0).round().clamp(0.0, 63.0) as u8
        };
        packed::pack(&std::array::from_fn(code), words);
    }
}

/// Products are exact.
fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let factor = f16::from_bits(scales[0]).to_f32();
    let numbers = scales[1..].iter().flat_map(|half| half.to_le_bytes());
    let codes = codes.chunks_exact(6).flat_map(packed::unpack);
    let scales = numbers.flat_map(|number| [factor * f32::from(number as i8); 16]);
    for ((value, code), scale) in block.iter_mut().zip(codes).zip(scales) {
        *value = scale * (f32::from(code) - 32.0);
    }
}

/// GGML has, for each 128 weights, 64 bytes with the low bits of codes `i` and `64 + i`; then, for each 128, 32 bytes with
/// the upper bits of codes `i`, `32 + i`, `64 + i` and `96 + i`; then the scales, and the `f16`.
fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (low, bytes) = bytes.split_at(BLOCK_K / 2);
    let (high, bytes) = bytes.split_at(BLOCK_K / 4);
    for (part, words) in codes.chunks_exact_mut(6).enumerate() {
        let (half, quarter) = (part / 4, part % 4);
        let code = |i: usize| {
            let low = low[64 * half + 32 * (quarter % 2) + i] >> (quarter / 2 * 4) & 15;
            low | (high[32 * half + i] >> (2 * quarter) & 3) << 4
        };
        packed::pack(&std::array::from_fn(code), words);
    }
    let pairs = bytes.as_chunks::<2>().0;
    scales[0] = u16::from_le_bytes(pairs[8]);
    for (half, pair) in scales[1..].iter_mut().zip(pairs) {
        *half = u16::from_le_bytes(*pair);
    }
}
