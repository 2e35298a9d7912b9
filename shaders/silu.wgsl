// x / (1 + exp(-x)), with the exponential of a number that is never positive.
fn silu(x: f32) -> f32 {
    let small = exp(-abs(x));
    return x * select(small, 1.0, x >= 0.0) / (1.0 + small);
}
