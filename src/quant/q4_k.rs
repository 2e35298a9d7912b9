//! `q4_k`, GGML's Q4_K: a weight is a scale times a 4-bit code, less a minimum. Scale and minimum of 32 weights are
//! 6-bit numbers times an `f16` each that 256 weights share.
//!
//! Of eight words for them, a block has the two `f16`, then the low 4 bits of the eight scales, of the eight minima,
//! and the upper 2 bits of the scales and of the minima, each in order from the lowest bit on.

use half::f16;

use super::{
    BLOCK, Format, Ggml, finite_halves,
    ggml::halves,
    packed,
    search::{affine, largest},
};

/// Weights in a block.
const BLOCK_K: usize = 8 * BLOCK;

pub(super) static Q4_K: Format = Format {
    name: "q4_k",
    block: BLOCK_K,
    code_words: BLOCK_K / 8,
    scale_halves: 8,
    encode,
    decode,
    finite: |_, scales| finite_halves(&scales[..2]),
    error_bound: error_bound(15.0),
    ggml: Some(Ggml { id: 12, block: BLOCK_K, bytes: 144, unpack }),
};

/// Of codes up to `most`: a step of 2/most where values are cut off for smaller steps elsewhere, and half a step of
/// 1/63 of scale, at full code, and minimum, which are no more than a fifth above the range's.
pub(super) const fn error_bound(most: f32) -> f32 {
    2.0 / most + 1.2 * (2.0 + 1.0) / 126.0
}

/// Scale and minimum of each [`BLOCK`] in a block, as 6-bit numbers and what they are multiplied with.
#[derive(Default)]
struct Scales {
    factors: [f16; 2],
    scales: [u8; 8],
    minima: [u8; 8],
}

impl Scales {
    fn from_halves(halves: &[u16]) -> Self {
        let word = |i: usize| u32::from(halves[2 * i]) | u32::from(halves[2 * i + 1]) << 16;
        let number = |low: u32, high: u32, i: usize| (low >> (4 * i) & 15 | (high >> (2 * i) & 3) << 4) as u8;
        Self {
            factors: [f16::from_bits(halves[0]), f16::from_bits(halves[1])],
            scales: std::array::from_fn(|i| number(word(1), word(3), i)),
            minima: std::array::from_fn(|i| number(word(2), word(3) >> 16, i)),
        }
    }

    fn to_halves(&self, halves: &mut [u16]) {
        let join = |numbers: &[u8; 8], bits: usize, shift: usize| -> u32 {
            let part =
                |(i, number): (usize, &u8)| u32::from(number >> shift & ((1 << bits) - 1)) << (bits * i);
            numbers.iter().enumerate().map(part).sum()
        };
        let [scales, minima] = [&self.scales, &self.minima];
        let words = [join(scales, 4, 0), join(minima, 4, 0), join(scales, 2, 4) | join(minima, 2, 4) << 16];
        halves[..2].copy_from_slice(&self.factors.map(f16::to_bits));
        for (halves, word) in halves[2..].chunks_exact_mut(2).zip(words) {
            halves.copy_from_slice(&[word as u16, (word >> 16) as u16]);
        }
    }

    /// Scale and minimum of each [`BLOCK`], exactly.
    fn values(&self) -> impl Iterator<Item = (f32, f32)> {
        let [scale, minimum] = self.factors.map(f16::to_f32);
        let numbers = self.scales.into_iter().zip(self.minima);
        numbers.map(move |(s, m)| (scale * f32::from(s), minimum * f32::from(m)))
    }
}

/// Scales and minima with small errors first, then the codes for what 6 bits make of them.
pub(super) fn encode(block: &[f32], codes: &mut [u32], scales: &mut [u16]) {
    let words = codes.len() / 8;
    let most = ((1u32 << words) - 1) as f32;
    let mut fits = [[0.0; 8]; 2];
    for (i, values) in block.chunks_exact(BLOCK).enumerate() {
        let (scale, offset) = affine(values, most);
        (fits[0][i], fits[1][i]) = (scale, -offset);
    }
    let factors = fits.map(|fits| f16::from_f32(largest(&fits) / 63.0));
    let numbers = |i: usize| {
        let factor = factors[i].to_f32();
        fits[i].map(|fit| if factor > 0.0 { (fit / factor).round().clamp(0.0, 63.0) as u8 } else { 0 })
    };
    let rounded = Scales { factors, scales: numbers(0), minima: numbers(1) };
    rounded.to_halves(scales);
    let parts = block.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(words));
    for ((values, codes), (scale, minimum)) in parts.zip(rounded.values()) {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let code = |i: usize| ((values[i] + minimum) * inverse).round().clamp(0.0, most) as u8;
        packed::pack(&std::array::from_fn(code), codes);
    }
}

/// Products are exact.
pub(super) fn decode(codes: &[u32], scales: &[u16], block: &mut [f32]) {
    let parts = block.chunks_exact_mut(BLOCK).zip(codes.chunks_exact(codes.len() / 8));
    for ((values, codes), (scale, minimum)) in parts.zip(Scales::from_halves(scales).values()) {
        for (value, code) in values.iter_mut().zip(packed::unpack(codes)) {
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// GGML has the two `f16`, 12 bytes of scales and minima, 32 bytes of which byte `i` has the fifth bits of code `i` of
/// each part, if there are such, then byte `i` of every 32 has the low bits of code `i` of two neighbouring parts.
pub(super) fn unpack(bytes: &[u8], codes: &mut [u32], scales: &mut [u16]) {
    let (numbers, bytes) = bytes.split_at(16);
    let (high, low) = bytes.split_at(bytes.len() - BLOCK_K / 2);
    unpack_scales(numbers).to_halves(scales);
    let words = codes.len() / 8;
    for (part, words) in codes.chunks_exact_mut(words).enumerate() {
        let code = |i: usize| {
            let high = high.get(i).map_or(0, |byte| byte >> part & 1);
            low[part / 2 * BLOCK + i] >> (part % 2 * 4) & 15 | high << 4
        };
        packed::pack(&std::array::from_fn(code), words);
    }
}

/// The first four scales are the low 6 bits of bytes 0 to 3, and the minima of bytes 4 to 7; the other four have their
/// upper 2 bits above these, and their low 4 bits in the halves of bytes 8 to 11.
fn unpack_scales(bytes: &[u8]) -> Scales {
    let mut factors = [0; 2];
    halves(&bytes[..4], &mut factors);
    let bytes = &bytes[4..];
    let number = |i: usize, first: usize| match i {
        0..4 => bytes[first + i] & 63,
        _ => bytes[8 + i - 4] >> first & 15 | bytes[first + i - 4] >> 6 << 4,
    };
    Scales {
        factors: factors.map(f16::from_bits),
        scales: std::array::from_fn(|i| number(i, 0)),
        minima: std::array::from_fn(|i| number(i, 4)),
    }
}
