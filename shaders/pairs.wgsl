// Two products in one multiplication, for codes of weights of 0 to 15, less 8 each. A block has at most 32 products for
// either half of a sum, which are 32 · 8 · 127 = 32512 at most: both halves are exact.
//
// Of two rows of x: their codes a and b are the number a + 65536 b. 3 · (2 + 65536 · -1) = -196602 is 6 and -3.
//
// Of two columns of one row: its codes a and b are b + 65536 a, those of the weight c + 65536 d. The upper half of the
// product is a c + b d, the lower one, b c, is of no use: (2 + 65536 · -1) (5 + 65536 · 4) is 10 and 3.
import package::quant::packed::signed_integers;

// The halves of a sum of products.
fn split_pair(dot: i32) -> vec2i {
    let low = (dot << 16u) >> 16u;
    return vec2i(low, (dot - low) >> 16u);
}

// The first and third of four codes of x, and the second and fourth.
fn column_pairs(word: u32) -> vec2u {
    let codes = signed_integers(word);
    return bitcast<vec2u>(codes.zw + (codes.xy << vec2u(16u)));
}

// The first and third codes of each word of the weight.
fn weight_pairs(words: vec4u) -> vec4u {
    return (words & vec4u(0x00ff00ffu)) - vec4u(0x00080008u);
}
