// f16: word i of a block holds weights 2i (low half) and 2i + 1 (high half).
import package::half::{half_of, half_value};
import package::quant::layout::code_index;

@if(f16) @group(0) @binding(0) var<storage, read> codes: array<vec4<f16>>; // [rows, blocks, 8]
@else @group(0) @binding(0) var<storage, read> codes: array<u32>;          // [rows, blocks, 16]

alias WeightScale = f32;

// None.
const SCALE_BLOCKS = 1u;
alias ScaleWords = u32;

fn scale_words(block: u32) -> ScaleWords {
    return 0u;
}

fn scale_in(words: ScaleWords, block: u32) -> WeightScale {
    return 1.0;
}

// Weights 4j to 4j + 3 of a block: words 2j and 2j + 1.
@if(f16)
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return vec4f(codes[code_index(block, 2u * j) / 2u]);
}

@else
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    let at = code_index(block, 2u * j);
    let low = codes[at];
    let high = codes[at + 1u];
    return vec4f(
        half_value(half_of(low, 0u)), half_value(half_of(low, 1u)),
        half_value(half_of(high, 0u)), half_value(half_of(high, 1u)),
    );
}
