//! `f32`: word `i` is weight `i`.

use super::{BLOCK, Format, Ggml, ggml::words};

/// Weights as they are.
pub static F32: Format = Format {
    name: "f32",
    block: BLOCK,
    code_words: BLOCK,
    scale_halves: 0,
    encode,
    decode,
    finite: |codes, _| codes.iter().all(|word| word & 0x7f80_0000 != 0x7f80_0000),
    error_bound: 0.0,
    ggml: Some(Ggml { id: 0, block: 1, bytes: 4, unpack: words }),
};

fn encode(block: &[f32], codes: &mut [u32], _scales: &mut [u16]) {
    for (code, value) in codes.iter_mut().zip(block) {
        *code = value.to_bits();
    }
}

fn decode(codes: &[u32], _scales: &[u16], block: &mut [f32]) {
    for (value, code) in block.iter_mut().zip(codes) {
        *value = f32::from_bits(*code);
    }
}
