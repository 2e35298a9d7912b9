// q8_0: byte i of a block, low bytes first, is weight i as a signed integer.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks, 2]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 8]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

fn weight_scale(block: u32) -> f32 {
    return half_value(half_of(scales[block / 2u], block));
}

// What is to be subtracted from the codes that `weight_codes` gives.
@if(integer) const CODE_OFFSET = 0;

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return codes[code_index(block, 4u * h) / 4u];
}

// Weights 4j to 4j + 3 of a block, before scaling: 0x0000fe01 is 1, -2, 0, 0.
@else
fn weight_quad(block: u32, j: u32) -> vec4f {
    let bytes = vec4u(codes[code_index(block, j)]) << vec4u(24u, 16u, 8u, 0u);
    return vec4f(bitcast<vec4i>(bytes) >> vec4u(24u));
}
