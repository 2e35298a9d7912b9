//! `bf16`: word `i` holds weight `2i` in its low half and `2i + 1` in its high half, rounded to
//! nearest even.

use half::bf16;

use super::{BLOCK, Format, Ggml, ggml::words};

pub(super) static BF16: Format = Format {
    name: "bf16",
    block: BLOCK,
    code_words: BLOCK / 2,
    scale_halves: 0,
    encode,
    decode,
    finite: |codes, _| codes.iter().all(|word| word & 0x7f80 != 0x7f80 && word & 0x7f80_0000 != 0x7f80_0000),
    // Half a unit in the last of 8 places.
    error_bound: 1.0 / 256.0,
    ggml: Some(Ggml { id: 30, block: 1, bytes: 2, unpack: words }),
};

/// Rounds to the nearest `bf16`, ties to even, clamped to the finite range.
fn round(value: f32) -> u32 {
    u32::from(bf16::from_f32(value.clamp(bf16::MIN.to_f32(), bf16::MAX.to_f32())).to_bits())
}

fn encode(block: &[f32], codes: &mut [u32], _scales: &mut [u16]) {
    for (code, pair) in codes.iter_mut().zip(block.chunks_exact(2)) {
        *code = round(pair[0]) | round(pair[1]) << 16;
    }
}

fn decode(codes: &[u32], _scales: &[u16], block: &mut [f32]) {
    for (pair, code) in block.chunks_exact_mut(2).zip(codes) {
        pair[0] = f32::from_bits(code << 16);
        pair[1] = f32::from_bits(code & 0xffff_0000);
    }
}
