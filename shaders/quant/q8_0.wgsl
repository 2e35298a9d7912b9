// q8_0: byte i of a block, low bytes first, is weight i as a signed integer.
import package::half::{half_of, half_value};
import package::quant::activations::{Dots, Sum};
import package::quant::layout::code_index;
import package::quant::packed::{signed_bytes, two_words};

@if(int64) @group(0) @binding(0) var<storage, read> codes: array<u64>;       // [rows, blocks, 4]
@elif(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks, 2]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;            // [rows, blocks, 8]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

// So many neighbouring blocks, from a multiple on, have words of scales in common.
const SCALE_BLOCKS = 2u;
alias ScaleWords = u32;

fn scale_words(block: u32) -> ScaleWords {
    return scales[block / 2u];
}

fn scale_in(words: ScaleWords, block: u32) -> WeightScale {
    return half_value(half_of(words, block));
}

// A part of a block's codes, see quant/activations, four in a word, low bytes first.
@if(int64)
fn weight_codes(block: u32, part: u32) -> vec4u {
    let low = code_index(block, 2u * part) / 2u;
    return vec4u(two_words(codes[low]), two_words(codes[low + 2u]));
}

@elif(integer)
fn weight_codes(block: u32, part: u32) -> vec4u {
    let low = codes[code_index(block, 0u) / 4u];
    let high = codes[code_index(block, 4u) / 4u];
    return select(vec4u(low.xy, high.xy), vec4u(low.zw, high.zw), part == 1u);
}

// Products of all of a block count together.
const DOTS = 1u;

fn weight_dot(scale: WeightScale, dots: Dots, sum: Sum) -> f32 {
    return scale * f32(dots.x + dots.y);
}

// Of quads j and j + 4 of a block, j = 0 to 3, the codes, four in a word, and a word's as numbers.
@if(!integer)
fn code_words(block: u32, j: u32) -> vec2u {
    return vec2u(codes[code_index(block, j)], codes[code_index(block, j + 4u)]);
}

@if(!integer)
fn code_values(word: u32) -> vec4f {
    return signed_bytes(word);
}

// Weights 4j to 4j + 3 of a block.
@if(!integer)
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * signed_bytes(codes[code_index(block, j)]);
}
