// q5_k: a weight is a scale times its code plus an offset, which is not above zero; codes as in quant/codes5, scales as in
// quant/scales_k.
import package::quant::codes5::{four_codes, sixteen_codes};
import package::quant::packed::bytes;
import package::quant::scales_k::scale_and_offset;

@group(0) @binding(1) var<storage, read> scales: array<vec4u>; // [rows, blocks / 8]

// Scale and offset.
alias WeightScale = vec2f;

fn weight_scale(block: u32) -> WeightScale {
    return scale_and_offset(scales[block / 8u], block % 8u);
}

@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return sixteen_codes(block, h);
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
