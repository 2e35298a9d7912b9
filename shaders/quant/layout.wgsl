// Where a block lies in the planes of a weight.
import package::generated::CODE_WORDS;

// Blocks are stored one after the other, row by row. With 4 words a block, word 1 of block 2 is at 2·4 + 1 = 9.
fn code_index(block: u32, word: u32) -> u32 {
    return block * CODE_WORDS + word;
}
