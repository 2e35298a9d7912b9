// f16: word i of a block holds weights 2i (low half) and 2i + 1 (high half).
import package::half::half_quad;
import package::quant::layout::code_index;

@group(0) @binding(0) var<storage, read> codes: array<vec2u>; // [rows, blocks, 8]

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
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    return half_quad(codes[code_index(block, 2u * j) / 2u]);
}
