// What formats of the KV cache in blocks of 32 dimensions have in common: a scale each, two of which share a word.

// The scale of block `block` of two: its value of largest magnitude, the first of equals, divided by `code`.
fn block_scale(values: ptr<function, array<f32, 64>>, block: u32, code: f32) -> f32 {
    var largest = 0.0;
    for (var i = 32u * block; i < 32u * block + 32u; i++) {
        largest = select(largest, (*values)[i], abs((*values)[i]) > abs(largest));
    }
    return largest / code;
}

// What values of a block are multiplied with to be codes: zeros with nothing.
fn reciprocal(scale: f32) -> f32 {
    return select(1.0 / scale, 0.0, scale == 0.0);
}
