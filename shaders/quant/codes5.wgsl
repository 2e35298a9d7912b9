// The plane of codes of formats with 5 bits a weight; codes as in quant/packed.
import package::quant::layout::code_index;
import package::quant::packed::{fifth_bits, low_bits};

@group(0) @binding(0) var<storage, read> codes: array<u32>; // [rows, blocks, 5]

// Codes 4j to 4j + 3 of a block, low bytes first.
fn four_codes(block: u32, j: u32) -> u32 {
    return low_bits(codes[code_index(block, j % 4u)], j) | fifth_bits(codes[code_index(block, 4u)], j);
}

// Codes 16h to 16h + 15 of a block, four in a word.
fn sixteen_codes(block: u32, h: u32) -> vec4u {
    return vec4u(
        four_codes(block, 4u * h), four_codes(block, 4u * h + 1u),
        four_codes(block, 4u * h + 2u), four_codes(block, 4u * h + 3u),
    );
}
