//! `q4_0`, GGML's: a weight is an `f16` scale times a 4-bit code minus 8. Byte `i` of the codes holds
//! weight `i` in its low half and weight `16 + i` in its high half.

use half::f16;

use super::{
    BLOCK, Format, Ggml,
    ggml::{halves, words},
};

pub(super) static Q4_0: Format = Format {
    name: "q4_0",
    block: BLOCK,
    code_words: BLOCK / 8,
    scale_halves: 1,
    encode,
    decode,
    // A whole step of 1/8 where the largest magnitude is positive twice (code 16 is cut to 15), and
    // the scale's own rounding.
    error_bound: 1.0 / 8.0 + 1.0 / 2048.0,
    ggml: Some(Ggml { id: 2, block: BLOCK, bytes: 18, unpack }),
};

/// As GGML's `quantize_row_q4_0_ref`: the value of largest magnitude, the first of equals, becomes
/// code 0.
///
/// Product and sum are rounded one after the other, as in the package `gguf`; a C compiler that fuses
/// them gives another code for about one weight in ten million.
fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let largest =
        block.iter().fold(0.0f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    let scale = largest / -8.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    scales[0] = f16::from_f32(scale).to_bits();
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    for (index, word) in codes.iter_mut().enumerate() {
        let byte = |i: usize| code(block[4 * index + i]) | code(block[16 + 4 * index + i]) << 4;
        *word = u32::from_le_bytes([0, 1, 2, 3].map(byte));
    }
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let scale = f16::from_bits(scales[0]).to_f32();
    for (index, byte) in codes.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
        block[index] = scale * (f32::from(byte & 15) - 8.0);
        block[16 + index] = scale * (f32::from(byte >> 4) - 8.0);
    }
}

/// GGML has the scale before the codes.
fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (scale, bytes) = bytes.split_at(2);
    halves(scale, scales);
    words(bytes, codes, &mut []);
}
