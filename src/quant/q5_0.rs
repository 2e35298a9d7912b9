//! `q5_0`, GGML's: as `q4_0`, with codes of 5 bits minus 16.

use super::{BLOCK, Format, Ggml, finite_halves, packed, q4_0};

pub(super) static Q5_0: Format = Format {
    name: "q5_0",
    block: BLOCK,
    code_words: BLOCK * 5 / 32,
    scale_halves: 1,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    // As of q4_0, with a step of 1/16.
    error_bound: 1.0 / 16.0 + 1.0 / 2048.0,
    ggml: Some(Ggml { id: 6, block: BLOCK, bytes: 22, unpack: q4_0::unpack }),
};

fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    packed::pack(&q4_0::symmetric_codes(block, 16, scales), codes);
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    q4_0::symmetric_values(&packed::unpack(codes), 16, scales, block);
}
