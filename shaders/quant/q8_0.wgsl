// q8_0: byte i of a block, low bytes first, is weight i as a signed integer.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;
import package::quant::packed::signed_bytes;

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks, 2]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 8]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

fn weight_scale(block: u32) -> WeightScale {
    return half_value(half_of(scales[block / 2u], block));
}

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return codes[code_index(block, 4u * h) / 4u];
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale * f32(low + high);
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * signed_bytes(codes[code_index(block, j)]);
}
