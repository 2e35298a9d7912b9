// The plane of codes of formats with 5 bits a weight; codes as in quant/packed.
import package::quant::layout::code_index;
import package::quant::packed::{fifth_bits, low_bits};

@group(0) @binding(0) var<storage, read> codes: array<u32>; // [rows, blocks, 5]

// Codes 4j to 4j + 3 of a block, low bytes first.
fn four_codes(block: u32, j: u32) -> u32 {
    return low_bits(codes[code_index(block, j % 4u)], j) | fifth_bits(codes[code_index(block, 4u)], j);
}

// A part of a block's codes, see quant/activations, four in a word.
fn sixteen_codes(block: u32, part: u32) -> vec4u {
    let j = 2u * part;
    return vec4u(
        four_codes(block, j), four_codes(block, j + 1u), four_codes(block, j + 4u), four_codes(block, j + 5u),
    );
}

// Of quads j and j + 4 of a block, which share a word.
fn eight_codes(block: u32, j: u32) -> vec2u {
    let word = codes[code_index(block, j)];
    let fifths = codes[code_index(block, 4u)];
    return (vec2u(word, word >> 4u) & vec2u(0x0f0f0f0fu)) | vec2u(fifth_bits(fifths, j), fifth_bits(fifths, j + 4u));
}
