// bf16: word i of a block holds weights 2i (low half) and 2i + 1 (high half), each the upper half of an f32.
import package::quant::layout::code_index;

@group(0) @binding(0) var<storage, read> codes: array<u32>; // [rows, blocks, 16]

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

// Weights 4j to 4j + 3 of a block.
fn weight_quad(block: u32, j: u32, scale: WeightScale) -> vec4f {
    let at = code_index(block, 2u * j);
    let low = codes[at];
    let high = codes[at + 1u];
    return bitcast<vec4f>(vec4u(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}
