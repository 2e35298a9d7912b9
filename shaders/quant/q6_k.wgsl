// q6_k: a weight is a scale, of 16 weights, times its code minus 32; codes as in quant/packed.
import package::half::{half_of, half_value};
import package::quant::layout::code_index;
import package::quant::packed::{low_bits, signed_bytes, upper_bits};

@group(0) @binding(0) var<storage, read> codes: array<u32>;  // [rows, blocks, 6]
@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks / 8, 9] halves, two a word

// Of the first 16 weights of a block, and of the others.
alias WeightScale = vec2f;

// Eight blocks have a float in common and two bytes each. Block 13 is block 5 of the second eight: its float is half 9, and
// its bytes are half 9 + 1 + 5 = 15, the high half of word 7.
fn weight_scale(block: u32) -> WeightScale {
    let first = block / 8u * 9u;
    let own = first + 1u + block % 8u;
    let bytes = vec2i(i32(half_of(scales[own / 2u], own))) << vec2u(24u, 16u);
    return half_value(half_of(scales[first / 2u], first)) * vec2f(bytes >> vec2u(24u));
}

// Codes 4j to 4j + 3 of a block as signed bytes, low bytes first: adding 224, in two steps without a carry, takes 32 away.
fn four_codes(block: u32, j: u32) -> u32 {
    let upper = upper_bits(codes[code_index(block, 4u + j / 4u)], j);
    return ((low_bits(codes[code_index(block, j % 4u)], j) | upper) + 0x60606060u) ^ 0x80808080u;
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
    return fma(scale.x, f32(low), scale.y * f32(high));
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale[j / 4u] * signed_bytes(four_codes(block, j));
}
