// Products with two rows of activations in one multiplication, for weights' codes of 0 to 15: code a of one row and b of
// the other are the number a + 65536 b. A sum of 16 products is at most 16 · 15 · 127 = 30480, so that both halves of it are exact:
// 3 · (2 + 65536 · -1) = -196602 is 6 and -3.

// A code of each of four words at once: [k] is byte k of all.
alias Spread = array<vec4i, 4>;

// Of 16 weights.
fn spread(codes: vec4u) -> Spread {
    return Spread(
        vec4i(codes & vec4u(255u)),
        vec4i((codes >> vec4u(8u)) & vec4u(255u)),
        vec4i((codes >> vec4u(16u)) & vec4u(255u)),
        vec4i(codes >> vec4u(24u)),
    );
}

// The codes of a word of either row, low bytes first: 0x000000ff and 0x00000002 are 131071, 0, 0, 0.
fn paired(a: u32, b: u32) -> vec4i {
    let tops = vec4u(24u, 16u, 8u, 0u);
    let first = bitcast<vec4i>(vec4u(a) << tops) >> vec4u(24u);
    let second = bitcast<vec4i>((vec4u(b) << tops) & vec4u(0xff000000u)) >> vec4u(8u);
    return first + second;
}

// Product of 16 codes of weights with those of both rows.
fn dot_pair(w: Spread, x: Spread) -> i32 {
    let sums = w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
    return sums.x + sums.y + sums.z + sums.w;
}

// What it is for either.
fn split_pair(dot: i32) -> vec2i {
    let first = (dot << 16u) >> 16u;
    return vec2i(first, (dot - first) >> 16u);
}
