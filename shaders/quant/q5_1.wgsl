// q5_1: a weight is a scale times its code plus a minimum; codes as in quant/packed.
import package::half::half_pair;
import package::quant::layout::code_index;
import package::quant::packed::{bytes, fifth_bits, low_bits};

@group(0) @binding(0) var<storage, read> codes: array<u32>;  // [rows, blocks, 5]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks]: scale (low half) and minimum (high half)

// Scale and minimum.
alias WeightScale = vec2f;

fn weight_scale(block: u32) -> WeightScale {
    return half_pair(scales[block]);
}

// Codes 4j to 4j + 3 of a block, low bytes first.
fn four_codes(block: u32, j: u32) -> u32 {
    return low_bits(codes[code_index(block, j % 4u)], j) | fifth_bits(codes[code_index(block, 4u)], j);
}

// Codes 16h to 16h + 15 of a block, four in a word.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return vec4u(
        four_codes(block, 4u * h), four_codes(block, 4u * h + 1u),
        four_codes(block, 4u * h + 2u), four_codes(block, 4u * h + 3u),
    );
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return fma(scale.x, f32(low + high), scale.y * f32(sum));
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale.x * bytes(four_codes(block, j)) + scale.y;
}
