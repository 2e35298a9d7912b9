// q6_k: a weight is a scale, of 16 weights, times its code minus 32; codes as in quant/packed.
import package::half::{half_of, half_value};
import package::quant::activations::{Dots, Sum};
import package::quant::layout::code_index;
import package::quant::packed::{low_bits, signed_bytes, two_words, upper_bits};

@if(int64) @group(0) @binding(0) var<storage, read> codes: array<u64>; // [rows, blocks, 3]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;      // [rows, blocks, 6]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks / 8, 9] halves, two a word

// Of the first 16 weights of a block, and of the others.
alias WeightScale = vec2f;

// Eight blocks have a float in common and two bytes each. Block 13 is block 5 of the second eight: its float is half 9, and
// its bytes are half 9 + 1 + 5 = 15, the high half of word 7.
fn scale_in(words: ScaleWords, block: u32) -> WeightScale {
    let first = block / 8u * 9u;
    let bytes = vec2i(i32(half_of(words.y, first + 1u + block % 8u))) << vec2u(24u, 16u);
    return half_value(half_of(words.x, first)) * vec2f(bytes >> vec2u(24u));
}

// So many neighbouring blocks, from a multiple on, have words of scales in common: of the float, and of the bytes.
const SCALE_BLOCKS = 1u;
alias ScaleWords = vec2u;

fn scale_words(block: u32) -> ScaleWords {
    let first = block / 8u * 9u;
    return vec2u(scales[first / 2u], scales[(first + 1u + block % 8u) / 2u]);
}

// Codes 4j to 4j + 3 of a block as signed bytes, low bytes first, of the words that have their low and their upper bits:
// adding 224, in two steps without a carry, takes 32 away.
fn four_codes(low: u32, upper: u32, j: u32) -> u32 {
    return ((low_bits(low, j) | upper_bits(upper, j)) + 0x60606060u) ^ 0x80808080u;
}

// A part of a block's codes, see quant/activations, four in a word.
@if(integer)
fn weight_codes(block: u32, part: u32) -> vec4u {
    let low = words_of(block, part);
    let upper = words_of(block, 2u);
    let j = 2u * part;
    return vec4u(
        four_codes(low.x, upper.x, j), four_codes(low.y, upper.x, j + 1u),
        four_codes(low.x, upper.y, j + 4u), four_codes(low.y, upper.y, j + 5u),
    );
}

// Words 2i and 2i + 1 of a block.
@if(int64)
fn words_of(block: u32, i: u32) -> vec2u {
    return two_words(codes[code_index(block, 2u * i) / 2u]);
}

@elif(integer)
fn words_of(block: u32, i: u32) -> vec2u {
    let first = code_index(block, 2u * i);
    return vec2u(codes[first], codes[first + 1u]);
}

// Products of either half of a block count by themselves.
const DOTS = 2u;

fn weight_dot(scale: WeightScale, dots: Dots, sum: Sum) -> f32 {
    return fma(scale.x, f32(dots.x), scale.y * f32(dots.y));
}

// Of quads j and j + 4 of a block, j = 0 to 3, the codes, four in a word, and a word's as numbers.
@if(!integer)
fn code_words(block: u32, j: u32) -> vec2u {
    let low = codes[code_index(block, j)];
    return vec2u(
        four_codes(low, codes[code_index(block, 4u)], j), four_codes(low, codes[code_index(block, 5u)], j + 4u),
    );
}

@if(!integer)
fn code_values(word: u32) -> vec4f {
    return signed_bytes(word);
}

// Weights 4j to 4j + 3 of a block.
@if(!integer)
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale[j / 4u] * signed_bytes(four_codes(codes[code_index(block, j % 4u)], codes[code_index(block, 4u + j / 4u)], j));
}
