// q4_0: a weight is a scale times its code minus 8; codes as in quant/codes4.
import package::half::{half_of, half_value};
import package::quant::codes4::{four_codes, sixteen_codes};
import package::quant::packed::bytes;

@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

fn weight_scale(block: u32) -> WeightScale {
    return half_value(half_of(scales[block / 2u], block));
}

@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return sixteen_codes(block, h);
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale * f32(low + high - 8 * sum);
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * (bytes(four_codes(block, j)) - 8.0);
}
