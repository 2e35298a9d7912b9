// The plane of codes of formats with 4 bits a weight; codes as in quant/packed.
import package::quant::layout::code_index;
import package::quant::packed::{low_bits, two_words};

@if(int64) @group(0) @binding(0) var<storage, read> codes: array<u64>;       // [rows, blocks, 2]
@elif(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;            // [rows, blocks, 4]

// A part of a block's codes, see quant/activations, four in a word, low bytes first: 0x90807060 makes the first word
// 0x00000000 and the third 0x09080706.
@if(integer)
fn sixteen_codes(block: u32, part: u32) -> vec4u {
    let words = words_of(block, part);
    return vec4u(words, words >> vec2u(4u)) & vec4u(0x0f0f0f0fu);
}

@if(int64)
fn words_of(block: u32, part: u32) -> vec2u {
    return two_words(codes[code_index(block, 2u * part) / 2u]);
}

@elif(integer)
fn words_of(block: u32, part: u32) -> vec2u {
    let words = codes[code_index(block, 0u) / 4u];
    return select(words.xy, words.zw, part == 1u);
}

// Codes 4j to 4j + 3 of a block, low bytes first. Quad 5, codes 20 to 23, is the high halves of word 1: 0x90807060 gives
// 0x09080706.
@if(!integer)
fn four_codes(block: u32, j: u32) -> u32 {
    return low_bits(codes[code_index(block, j % 4u)], j);
}

// Of quads j and j + 4 of a block, which share a word.
@if(!integer)
fn eight_codes(block: u32, j: u32) -> vec2u {
    let word = codes[code_index(block, j)];
    return vec2u(word, word >> 4u) & vec2u(0x0f0f0f0fu);
}
