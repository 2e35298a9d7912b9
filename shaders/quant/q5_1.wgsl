// q5_1: a weight is a scale times its code plus a minimum; codes as in quant/codes5.
import package::half::half_pair;
import package::quant::codes5::{four_codes, sixteen_codes};
import package::quant::packed::bytes;

@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks]: scale (low half) and minimum (high half)

// Scale and minimum.
alias WeightScale = vec2f;

// So many neighbouring blocks, from a multiple on, have words of scales in common.
const SCALE_BLOCKS = 1u;
alias ScaleWords = u32;

fn scale_words(block: u32) -> ScaleWords {
    return scales[block];
}

fn scale_in(words: ScaleWords, block: u32) -> WeightScale {
    return half_pair(words);
}

@if(integer)
fn weight_codes(block: u32, part: u32) -> vec4u {
    return sixteen_codes(block, part);
}

// Products of all of a block count together.
@if(integer) const DOTS = 1u;

@if(integer)
fn weight_dot(scale: WeightScale, dots: vec2i, sum: i32) -> f32 {
    return fma(scale.x, f32(dots.x + dots.y), scale.y * f32(sum));
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale.x * bytes(four_codes(block, j)) + scale.y;
}
