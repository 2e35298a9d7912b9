// q4_0: byte i of a block, low bytes first, holds weight i (low half) and weight 16 + i (high half), plus 8.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 4]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

fn weight_scale(block: u32) -> f32 {
    return half_value(half_of(scales[block / 2u], block));
}

// What is to be subtracted from the codes that `weight_codes` gives.
@if(integer) const CODE_OFFSET = 8;

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first: h = 1 makes 0x09080706 of 0x90807060.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return (codes[code_index(block, 0u) / 4u] >> vec4u(4u * h)) & vec4u(0x0f0f0f0fu);
}

// Weights 4j to 4j + 3 of a block, before scaling. Quad 5, weights 20 to 23, is the high halves of word 1:
// 0x80907060 gives 6, 7, 9, 8 and less 8: -2, -1, 1, 0.
@else
fn weight_quad(block: u32, j: u32) -> vec4f {
    let word = codes[code_index(block, j % 4u)] >> (4u * (j / 4u));
    return vec4f((vec4u(word) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(15u)) - 8.0;
}
