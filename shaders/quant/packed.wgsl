// Codes of 4, 5 or 6 bits as src/quant/packed.rs packs them: word j of a block, j = 0 to 7, is codes 4j to 4j + 3 in a
// byte each.

// The low bits of word j are in word j % 4 of the block: its low halves if j < 4, else the high. 0x90807060 has
// 0x00000000 and 0x09080706.
fn low_bits(word: u32, j: u32) -> u32 {
    return (word >> (4u * (j / 4u))) & 0x0f0f0f0fu;
}

// The fifth bits are in the block's fifth word: those of word 2 in bits 2, 10, 18 and 26.
fn fifth_bits(word: u32, j: u32) -> u32 {
    return ((word >> j) & 0x01010101u) << 4u;
}

// Fifth and sixth bits are in word j / 4 of two: those of word 6 in bits 4, 5, 12, 13, 20, 21, 28 and 29 of the second.
fn upper_bits(word: u32, j: u32) -> u32 {
    return ((word >> (2u * (j % 4u))) & 0x03030303u) << 4u;
}

// Neighbouring words that were read as one number.
@if(int64)
fn two_words(both: u64) -> vec2u {
    return vec2u(u32(both), u32(both >> 32u));
}

// 0x09080706 is 6, 7, 8, 9.
fn bytes(word: u32) -> vec4f {
    return vec4f((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(255u));
}

// 0x0000fe01 is 1, -2, 0, 0.
fn signed_bytes(word: u32) -> vec4f {
    return vec4f(signed_integers(word));
}

fn signed_integers(word: u32) -> vec4i {
    return bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u);
}
