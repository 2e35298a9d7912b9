// iq4_nl: a weight is a scale times one of 16 numbers, which its code chooses; codes as in quant/packed, numbers as in
// quant/numbers_iq4.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;
import package::quant::numbers_iq4::numbers;
import package::quant::packed::{low_bits, signed_bytes};

@group(0) @binding(0) var<storage, read> codes: array<u32>;  // [rows, blocks, 4]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

fn weight_scale(block: u32) -> WeightScale {
    return half_value(half_of(scales[block / 2u], block));
}

// Numbers 4j to 4j + 3 of a block, low bytes first.
fn four_numbers(block: u32, j: u32) -> u32 {
    return numbers(low_bits(codes[code_index(block, j % 4u)], j));
}

// Numbers 16h to 16h + 15 of a block, four in a word.
@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    return vec4u(
        four_numbers(block, 4u * h), four_numbers(block, 4u * h + 1u),
        four_numbers(block, 4u * h + 2u), four_numbers(block, 4u * h + 3u),
    );
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale * f32(low + high);
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * signed_bytes(four_numbers(block, j));
}
