//! Codes of 4, 5 or 6 bits in words, so that kernels get four of them as the bytes of a word with few operations.
//!
//! Byte `b` of word `w`, of the first four, holds the low bits of code `4w + b` in its low half and of code
//! `16 + 4w + b` in its high half, as GGML's `q4_0` does. A fifth word has the fifth bit of code `4j + b` at
//! `8b + j`; of two more words, word `h` has the upper two bits of code `16h + 4j + b` at `8b + 2j`.

use super::BLOCK;

/// Packs a block's codes in 4, 5 or 6 words, which are as many bits of each.
pub fn pack(codes: &[u8; BLOCK], words: &mut [u32]) {
    for (w, word) in words[..4].iter_mut().enumerate() {
        let byte = |b| codes[4 * w + b] & 15 | codes[16 + 4 * w + b] << 4;
        *word = u32::from_le_bytes(std::array::from_fn(byte));
    }
    let high = |i: usize| u32::from(codes[i] >> 4);
    match &mut words[4..] {
        [fifth] => *fifth = (0..BLOCK).map(|i| high(i) << (8 * (i % 4) + i / 4)).sum(),
        upper => {
            for (h, word) in upper.iter_mut().enumerate() {
                *word = (0..16).map(|i| high(16 * h + i) << (8 * (i % 4) + 2 * (i / 4))).sum();
            }
        }
    }
}

/// The codes in 4, 5 or 6 words.
pub fn unpack(words: &[u32]) -> [u8; BLOCK] {
    std::array::from_fn(|i| {
        let low = words[i / 4 % 4] >> (8 * (i % 4) + 4 * (i / 16)) & 15;
        let high = match words.len() {
            5 => words[4] >> (8 * (i % 4) + i / 4) & 1,
            6 => words[4 + i / 16] >> (8 * (i % 4) + 2 * (i / 4 % 4)) & 3,
            _ => 0,
        };
        (low | high << 4) as u8
    })
}

/// The codes of which GGML's blocks of 32 have the low bits in 16 bytes, arranged as here, and the fifth bits,
/// if they have some, in their order in 4 bytes before.
pub fn from_ggml(bytes: &[u8], words: &mut [u32]) {
    let (high, low) = bytes.split_at(bytes.len() - BLOCK / 2);
    for (word, bytes) in words.iter_mut().zip(low.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    if let (Some(high), Some(fifth)) = (high.first_chunk(), words.get_mut(4)) {
        let high = u32::from_le_bytes(*high);
        *fifth = (0..BLOCK).map(|i| (high >> i & 1) << (8 * (i % 4) + i / 4)).sum();
    }
}
