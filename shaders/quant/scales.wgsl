// What the weights of a block have in common, in any format.
import package::weight::{SCALE_BLOCKS, ScaleWords, WeightScale, scale_in, scale_words};

fn weight_scale(block: u32) -> WeightScale {
    return scale_in(scale_words(block), block);
}

// The words of a block's scale in a walk along a row, where `words` are those of the block before.
fn next_words(words: ScaleWords, block: u32, is_first: bool) -> ScaleWords {
    var own = words;
    if is_first | (block % SCALE_BLOCKS == 0u) {
        own = scale_words(block);
    }
    return own;
}
