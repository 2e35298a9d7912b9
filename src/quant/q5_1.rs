//! `q5_1`, GGML's: as `q4_1`, with codes of 5 bits.

use super::{BLOCK, Format, Ggml, finite_halves, packed, q4_1};

pub(super) static Q5_1: Format = Format {
    name: "q5_1",
    block: BLOCK,
    code_words: BLOCK * 5 / 32,
    scale_halves: 2,
    encode,
    decode: q4_1::decode,
    finite: |_, scales| finite_halves(&scales[..2]),
    // Half a step of 2/31, and what rounding takes from scale and minimum.
    error_bound: 1.0 / 31.0 + 3.0 / 2048.0,
    ggml: Some(Ggml { id: 7, block: BLOCK, bytes: 24, unpack: q4_1::unpack }),
};

fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    packed::pack(&q4_1::affine_codes(block, 31, scales), codes);
}
