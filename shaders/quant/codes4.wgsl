// The plane of codes of formats with 4 bits a weight; codes as in quant/packed.
import package::quant::layout::code_index;
import package::quant::packed::low_bits;

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 4]

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first: h = 1 makes 0x09080706 of 0x90807060.
@if(integer)
fn sixteen_codes(block: u32, h: u32) -> vec4u {
    return (codes[code_index(block, 0u) / 4u] >> vec4u(4u * h)) & vec4u(0x0f0f0f0fu);
}

// Codes 4j to 4j + 3 of a block, low bytes first. Quad 5, codes 20 to 23, is the high halves of word 1: 0x90807060 gives
// 0x09080706.
@else
fn four_codes(block: u32, j: u32) -> u32 {
    return low_bits(codes[code_index(block, j % 4u)], j);
}
