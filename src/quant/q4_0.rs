//! `q4_0`, GGML's: a weight is an `f16` scale times a 4-bit code minus 8.

use half::f16;

use super::{BLOCK, Format, Ggml, finite_halves, ggml::halves, packed, search::largest};

pub(super) static Q4_0: Format = Format {
    name: "q4_0",
    block: BLOCK,
    code_words: BLOCK / 8,
    scale_halves: 1,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    // A whole step of 1/8 where the largest magnitude is positive twice (code 16 is cut to 15), and
    // the scale's own rounding.
    error_bound: 1.0 / 8.0 + 1.0 / 2048.0,
    ggml: Some(Ggml { id: 2, block: BLOCK, bytes: 18, unpack }),
};

fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    packed::pack(&symmetric_codes(block, 8, scales), codes);
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    symmetric_values(&packed::unpack(codes), 8, scales, block);
}

/// As GGML's `quantize_row_q4_0_ref`: the value of largest magnitude, the first of equals, becomes
/// code 0, and zero becomes `zero`.
///
/// Product and sum are rounded one after the other, as in the package `gguf`; a C compiler that fuses
/// them gives another code for about one weight in ten million.
pub(super) fn symmetric_codes(block: &[f32], zero: u8, scales: &mut [u16]) -> [u8; BLOCK] {
    let scale = largest(block) / -f32::from(zero);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    scales[0] = f16::from_f32(scale).to_bits();
    std::array::from_fn(|i| ((block[i] * inverse + f32::from(zero) + 0.5) as u8).min(2 * zero - 1))
}

/// The weights that [`symmetric_codes`] tells.
pub(super) fn symmetric_values(codes: &[u8; BLOCK], zero: u8, scales: &[u16], block: &mut [f32]) {
    let scale = f16::from_bits(scales[0]).to_f32();
    for (value, code) in block.iter_mut().zip(codes) {
        *value = scale * (f32::from(*code) - f32::from(zero));
    }
}

/// GGML has the scale before the codes.
pub(super) fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (scale, bytes) = bytes.split_at(2);
    halves(scale, scales);
    packed::from_ggml(bytes, codes);
}
