// int4: a weight is a scale times its code less a zero point; codes as in quant/packed.
import package::half::half_pair;
import package::quant::layout::code_index;
import package::quant::packed::{bytes, low_bits};

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 4]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks]: scale (low half) and zero point (high half)

// Scale and zero point.
alias WeightScale = vec2f;

fn weight_scale(block: u32) -> WeightScale {
    return half_pair(scales[block]);
}

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first: h = 1 makes 0x09080706 of 0x90807060.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return (codes[code_index(block, 0u) / 4u] >> vec4u(4u * h)) & vec4u(0x0f0f0f0fu);
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale.x * (f32(low + high) - scale.y * f32(sum));
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale.x * (bytes(low_bits(codes[code_index(block, j % 4u)], j)) - scale.y);
}
