// f32: word i of a block is weight i.
import package::quant::layout::code_index;

@group(0) @binding(0) var<storage, read> codes: array<u32>; // [rows, blocks, 32]

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
    let at = code_index(block, 4u * j);
    return bitcast<vec4f>(vec4u(codes[at], codes[at + 1u], codes[at + 2u], codes[at + 3u]));
}
