// iq4_nl: a weight is a scale times one of 16 numbers, which its code chooses; codes as in quant/codes4, numbers as in
// quant/numbers_iq4.
import package::half::{half_of, half_value};
import package::quant::codes4::{four_codes, sixteen_codes};
import package::quant::numbers_iq4::numbers;
import package::quant::packed::signed_bytes;

@group(0) @binding(1) var<storage, read> scales: array<u32>; // [rows, blocks] halves, two a word

alias WeightScale = f32;

fn weight_scale(block: u32) -> WeightScale {
    return half_value(half_of(scales[block / 2u], block));
}

@if(integer)
fn weight_codes(block: u32, h: u32) -> vec4u {
    let chosen = sixteen_codes(block, h);
    return vec4u(numbers(chosen.x), numbers(chosen.y), numbers(chosen.z), numbers(chosen.w));
}

@if(integer)
fn weight_dot(scale: WeightScale, low: i32, high: i32, sum: i32) -> f32 {
    return scale * f32(low + high);
}

// Weights 4j to 4j + 3 of a block.
@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return scale * signed_bytes(numbers(four_codes(block, j)));
}
