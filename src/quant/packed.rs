//! Codes of 4, 5 or 6 bits in words, so that kernels get four of them as the bytes of a word with few operations.
//!
//! Byte `b` of word `w`, of the first four, holds the low bits of code `4w + b` in its low half and of code
//! `16 + 4w + b` in its high half, as GGML's `q4_0` does. A fifth word has the fifth bit of code `4j + b` at
//! `8b + j`; of two more words, word `h` has the upper two bits of code `16h + 4j + b` at `8b + 2j`.

use super::BLOCK;

/// Packs a block's codes in 4, 5 or 6 words, which are as many bits of each.
pub fn pack(codes: &[u8; BLOCK], words: &mut [u32]) {
    words.fill(0);
    for (i, code) in codes.iter().map(|code| u32::from(*code)).enumerate() {
        words[i / 4 % 4] |= (code & 15) << (8 * (i % 4) + 4 * (i / 16));
        match words.len() {
            5 => words[4] |= (code >> 4) << (8 * (i % 4) + i / 4),
            6 => words[4 + i / 16] |= (code >> 4) << (8 * (i % 4) + 2 * (i / 4 % 4)),
            _ => {}
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
    let code = |i: usize| {
        low[i % 16] >> (4 * (i / 16)) & 15 | high.get(i / 8).map_or(0, |byte| (byte >> (i % 8) & 1) << 4)
    };
    pack(&std::array::from_fn(code), words);
}
