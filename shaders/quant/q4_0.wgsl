// q4_0: a weight is a scale times its code minus 8; codes as in quant/packed.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;
import package::quant::packed::{bytes, low_bits};

@if(integer) @group(0) @binding(0) var<storage, read> codes: array<vec4u>; // [rows, blocks]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 4]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

fn weight_scale(block: u32) -> WeightScale {
    return half_value(half_of(scales[block / 2u], block));
}

// Codes 16h to 16h + 15 of a block, four in a word, low bytes first: h = 1 makes 0x09080706 of 0x90807060.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return (codes[code_index(block, 0u) / 4u] >> vec4u(4u * h)) & vec4u(0x0f0f0f0fu);
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale * f32(low + high - 8 * sum);
}

// Weights 4j to 4j + 3 of a block. Quad 5, weights 20 to 23, is the high halves of word 1: 0x80907060 gives 6, 7, 9, 8 and
// less 8: -2, -1, 1, 0.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * (bytes(low_bits(codes[code_index(block, j % 4u)], j)) - 8.0);
}
