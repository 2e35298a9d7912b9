// iq4_nl: a weight is a scale times one of 16 numbers, which its code chooses; codes as in quant/codes4, numbers as in
// quant/numbers_iq4.
import package::half::{half_of, half_value};
import package::quant::activations::{Dots, Sum};
import package::quant::codes4::{eight_codes, four_codes, sixteen_codes};
import package::quant::numbers_iq4::{numbers, packed_numbers};

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

@if(integer)
fn weight_codes(block: u32, part: u32) -> vec4u {
    let chosen = sixteen_codes(block, part);
    return vec4u(packed_numbers(chosen.x), packed_numbers(chosen.y), packed_numbers(chosen.z), packed_numbers(chosen.w));
}

// Products of all of a block count together.
const DOTS = 1u;

fn weight_dot(scale: WeightScale, dots: Dots, sum: Sum) -> f32 {
    return scale * f32(dots.x + dots.y);
}

// Of quads j and j + 4 of a block, j = 0 to 3, the codes, four in a word, and a word's as numbers.
@if(!integer)
fn code_words(block: u32, j: u32) -> vec2u {
    return eight_codes(block, j);
}

@if(!integer)
fn code_values(word: u32) -> vec4f {
    return numbers(word);
}

// Weights 4j to 4j + 3 of a block.
@if(!integer)
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * numbers(four_codes(block, j));
}
