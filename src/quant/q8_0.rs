//! `q8_0`, GGML's: a weight is an `f16` scale times a signed byte. Byte `i` of the codes, low bytes
//! first, is weight `i`.

use half::f16;

use super::{
    BLOCK, Format, Ggml, finite_halves,
    ggml::{halves, words},
};

pub(super) static Q8_0: Format = Format {
    name: "q8_0",
    block: BLOCK,
    code_words: BLOCK / 4,
    scale_halves: 1,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    // Half a step of 1/127, and the scale's own rounding to 11 bits at full code.
    error_bound: 0.5 / 127.0 + 1.0 / 2048.0,
    ggml: Some(Ggml { id: 8, block: BLOCK, bytes: 34, unpack }),
};

/// As GGML's `quantize_row_q8_0_ref`: the codes are made with the scale before it is rounded.
fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let largest = block.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    scales[0] = f16::from_f32(scale).to_bits();
    for (word, quad) in codes.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_le_bytes([0, 1, 2, 3].map(|i| (quad[i] * inverse).round() as i8 as u8));
    }
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let scale = f16::from_bits(scales[0]).to_f32();
    for (quad, word) in block.chunks_exact_mut(4).zip(codes) {
        for (value, byte) in quad.iter_mut().zip(word.to_le_bytes()) {
            *value = scale * f32::from(byte as i8);
        }
    }
}

/// GGML has the scale before the codes.
fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (scale, bytes) = bytes.split_at(2);
    halves(scale, scales);
    words(bytes, codes, &mut []);
}
