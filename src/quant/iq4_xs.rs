//! `iq4_xs`, GGML's IQ4_XS: the codes of `iq4_nl`. The scale of 32 weights is a 6-bit number minus 32, times an `f16` that
//! 256 weights share.
//!
//! A block's scales are the `f16`, a half with the upper 2 bits of the eight numbers, and two with their low 4 bits, all
//! in order from the lowest bit on, as in GGML.

use half::f16;

use super::{
    BLOCK, Format, Ggml, finite_halves,
    ggml::halves,
    iq4_nl::{self, ERROR_BOUND, fit},
    packed,
    search::largest,
};

/// Weights in a block.
const BLOCK_K: usize = 8 * BLOCK;

pub(super) static IQ4_XS: Format = Format {
    name: "iq4_xs",
    block: BLOCK_K,
    code_words: BLOCK_K / 8,
    scale_halves: 4,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..1]),
    // Half a step of 1/32 of a scale besides.
    error_bound: ERROR_BOUND + 1.2 / 64.0,
    ggml: Some(Ggml { id: 23, block: BLOCK_K, bytes: 136, unpack }),
};

/// The scales of all [`BLOCK`]s in a block, exactly.
fn values(scales: &[u16]) -> impl Iterator<Item = f32> {
    let low = u32::from(scales[2]) | u32::from(scales[3]) << 16;
    let (factor, high) = (f16::from_bits(scales[0]).to_f32(), scales[1]);
    (0..8).map(move |i| factor * ((low >> (4 * i) & 15 | u32::from(high >> (2 * i) & 3) << 4) as f32 - 32.0))
}

/// Scales with small errors first, then the codes for what 6 bits make of them.
fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let mut fits = [0.0; 8];
    for (scale, values) in fits.iter_mut().zip(block.chunks_exact(BLOCK)) {
        *scale = fit(values);
    }
    let factor = f16::from_f32(largest(&fits) / -32.0);
    let inverse = if factor.to_f32() == 0.0 { 0.0 } else { 1.0 / factor.to_f32() };
    scales.copy_from_slice(&[factor.to_bits(), 0, 0, 0]);
    for (i, fit) in fits.into_iter().enumerate() {
        let number = (fit * inverse + 32.0).round().clamp(0.0, 63.0) as u16;
        scales[1] |= (number >> 4) << (2 * i);
        scales[2 + i / 4] |= (number & 15) << (4 * (i % 4));
    }
    let parts = block.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(4));
    parts.zip(values(scales)).for_each(|((values, codes), scale)| iq4_nl::pack(values, scale, codes));
}

fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let parts = block.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(4));
    parts.zip(values(scales)).for_each(|((block, codes), scale)| iq4_nl::unpack(codes, scale, block));
}

/// GGML has the scales before the codes.
fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (numbers, bytes) = bytes.split_at(8);
    halves(numbers, scales);
    let parts = bytes.chunks_exact(BLOCK / 2).zip(codes.chunks_exact_mut(4));
    parts.for_each(|(bytes, words)| packed::from_ggml(bytes, words));
}
