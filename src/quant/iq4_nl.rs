//! `iq4_nl`, GGML's IQ4_NL: a weight is an `f16` scale times one of 16 numbers that a 4-bit code chooses.

use half::f16;

use super::{BLOCK, Format, Ggml, finite_halves, packed, q4_0, search::symmetric};

pub(super) static IQ4_NL: Format = Format {
    name: "iq4_nl",
    block: BLOCK,
    code_words: BLOCK / 8,
    scale_halves: 1,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    error_bound: ERROR_BOUND,
    ggml: Some(Ggml { id: 20, block: BLOCK, bytes: 18, unpack: q4_0::unpack }),
};

/// Twice the distance between the ends of the numbers, where values are cut off, and the scale's own rounding.
pub(super) const ERROR_BOUND: f32 = 2.0 * 14.0 / 127.0 + 1.0 / 2048.0;

/// GGML's `kvalues_iq4nl`, closer to each other around zero.
pub(super) const NUMBERS: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The code of the number nearest to `x`.
pub(super) fn nearest(x: f32) -> u8 {
    let above = NUMBERS.partition_point(|number| f32::from(*number) < x).clamp(1, 15);
    let [low, high] = [above - 1, above].map(|code| (f32::from(NUMBERS[code]) - x).abs());
    if low <= high { above as u8 - 1 } else { above as u8 }
}

/// A scale with a small error.
pub(super) fn fit(values: &[f32]) -> f32 {
    symmetric(values, &[-127.0, 113.0], |x| f32::from(NUMBERS[usize::from(nearest(x))]))
}

/// The nearest codes at this scale.
pub(super) fn pack(values: &[f32], scale: f32, codes: &mut [u32]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    packed::pack(&std::array::from_fn(|i| nearest(values[i] * inverse)), codes);
}

/// The weights of a block of codes at this scale.
pub(super) fn unpack(codes: &[u32], scale: f32, values: &mut [f32]) {
    for (value, code) in values.iter_mut().zip(packed::unpack(codes)) {
        *value = scale * f32::from(NUMBERS[usize::from(code)]);
    }
}

fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let scale = f16::from_f32(fit(block));
    scales[0] = scale.to_bits();
    pack(block, scale.to_f32(), codes);
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    unpack(codes, f16::from_bits(scales[0]).to_f32(), block);
}
