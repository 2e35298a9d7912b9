// q4_k: a weight is a scale times its code plus an offset, which is not above zero; codes as in quant/codes4, scales as in
// quant/scales_k.
import package::quant::activations::{Dots, Sum};
import package::quant::codes4::{eight_codes, four_codes, sixteen_codes};
import package::quant::packed::bytes;
import package::quant::scales_k::scale_and_offset;

@group(0) @binding(1) var<storage, read> scales: array<vec4u>; // [rows, blocks / 8]

// Scale and offset.
alias WeightScale = vec2f;

// So many neighbouring blocks, from a multiple on, have words of scales in common.
const SCALE_BLOCKS = 8u;
alias ScaleWords = vec4u;

fn scale_words(block: u32) -> ScaleWords {
    return scales[block / 8u];
}

fn scale_in(words: ScaleWords, block: u32) -> WeightScale {
    return scale_and_offset(words, block % 8u);
}

@if(integer)
fn weight_codes(block: u32, part: u32) -> vec4u {
    return sixteen_codes(block, part);
}

// Products of all of a block count together.
const DOTS = 1u;

fn weight_dot(scale: WeightScale, dots: Dots, sum: Sum) -> f32 {
    return fma(scale.x, f32(dots.x + dots.y), scale.y * f32(sum));
}

// Of quads j and j + 4 of a block, j = 0 to 3, the codes, four in a word, and a word's as numbers.
@if(!integer)
fn code_words(block: u32, j: u32) -> vec2u {
    return eight_codes(block, j);
}

@if(!integer)
fn code_values(word: u32) -> vec4f {
    return bytes(word);
}

// Weights 4j to 4j + 3 of a block.
@if(!integer)
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale.x * bytes(four_codes(block, j)) + scale.y;
}
