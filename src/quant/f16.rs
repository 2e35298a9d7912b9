//! `f16`: word `i` holds weight `2i` in its low half and `2i + 1` in its high half, rounded to
//! nearest even and clamped to ±65504.

use half::f16;

use super::{BLOCK, Format, Ggml, ggml::words};

pub(super) static F16: Format = Format {
    name: "f16",
    block: BLOCK,
    code_words: BLOCK / 2,
    scale_halves: 0,
    encode,
    decode,
    finite: |codes, _| codes.iter().all(|word| word & 0x7c00 != 0x7c00 && word & 0x7c00_0000 != 0x7c00_0000),
    // Half a unit in the last of 11 places.
    error_bound: 1.0 / 2048.0,
    ggml: Some(Ggml { id: 1, block: 1, bytes: 2, unpack: words }),
};

/// Rounds to the nearest `f16`, ties to even, clamped to the finite range.
pub fn round(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

fn encode(block: &[f32], codes: &mut [u32], _scales: &mut [u16]) {
    for (code, pair) in codes.iter_mut().zip(block.chunks_exact(2)) {
        *code = u32::from(round(pair[0]).to_bits()) | u32::from(round(pair[1]).to_bits()) << 16;
    }
}

fn decode(codes: &[u32], _scales: &[u16], block: &mut [f32]) {
    for (pair, code) in block.chunks_exact_mut(2).zip(codes) {
        pair[0] = f16::from_bits(*code as u16).to_f32();
        pair[1] = f16::from_bits((code >> 16) as u16).to_f32();
    }
}
