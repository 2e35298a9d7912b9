//! `int4`, what GPTQ and AWQ store: a weight is an `f16` scale times the difference of a 4-bit code and a whole
//! zero point from 0 to 15. Their groups of 32, 64 or 128 weights are as many blocks with the same of both.

use half::f16;

use super::{BLOCK, Format, finite_halves, packed};

pub(super) static INT4: Format = Format {
    name: "int4",
    block: BLOCK,
    code_words: BLOCK / 8,
    scale_halves: 2,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..2]),
    // Half a step of at most 2/15, and what rounding takes from the scale.
    error_bound: 1.0 / 15.0 + 3.0 / 2048.0,
    ggml: None,
};

/// As AutoAWQ's `pseudo_quantize_tensor`, with 0 always in the range.
fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let (low, high) = block.iter().fold((0.0f32, 0.0f32), |(low, high), x| (low.min(*x), high.max(*x)));
    let scale = (high - low) / 15.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let zero = (-low * inverse).round();
    scales.copy_from_slice(&[scale, zero].map(|value| f16::from_f32(value).to_bits()));
    let code = |i: usize| ((block[i] * inverse).round() + zero).clamp(0.0, 15.0) as u8;
    packed::pack(&std::array::from_fn(code), codes);
}

/// The product is exact: 11 bits times 4.
fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let [scale, zero] = [scales[0], scales[1]].map(|bits| f16::from_bits(bits).to_f32());
    for (value, code) in block.iter_mut().zip(packed::unpack(codes)) {
        *value = scale * (f32::from(code) - zero);
    }
}
