//! `q4_1`, GGML's: a weight is an `f16` scale times a 4-bit code, plus an `f16` minimum.

use half::f16;

use super::{BLOCK, Format, Ggml, finite_halves, ggml::halves, packed};

pub(super) static Q4_1: Format = Format {
    name: "q4_1",
    block: BLOCK,
    code_words: BLOCK / 8,
    scale_halves: 2,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..2]),
    // Half a step of 2/15, and what rounding takes from scale and minimum.
    error_bound: 1.0 / 15.0 + 3.0 / 2048.0,
    ggml: Some(Ggml { id: 3, block: BLOCK, bytes: 20, unpack }),
};

fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    packed::pack(&affine_codes(block, 15, scales), codes);
}

/// As GGML's `quantize_row_q4_1_ref`: the least value becomes code 0, the greatest `most`.
pub(super) fn affine_codes(block: &[f32], most: u8, scales: &mut [u16]) -> [u8; BLOCK] {
    let (low, high) = block.iter().fold((f32::MAX, -f32::MAX), |(low, high), x| {
        (if *x < low { *x } else { low }, if *x > high { *x } else { high })
    });
    let scale = (high - low) / f32::from(most);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    scales.copy_from_slice(&[scale, low].map(|value| f16::from_f32(value).to_bits()));
    std::array::from_fn(|i| (((block[i] - low) * inverse + 0.5) as u8).min(most))
}

/// The product is exact.
pub(super) fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let [scale, low] = [scales[0], scales[1]].map(|bits| f16::from_bits(bits).to_f32());
    for (value, code) in block.iter_mut().zip(packed::unpack(codes)) {
        *value = scale * f32::from(code) + low;
    }
}

/// GGML has scale and minimum before the codes.
pub(super) fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (scale, bytes) = bytes.split_at(4);
    halves(scale, scales);
    packed::from_ggml(bytes, codes);
}
