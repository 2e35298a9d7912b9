// What is added to every row of a product.

@if(bias) @group(0) @binding(7) var<storage, read> bias: array<f32>; // [outputs]

// `value` with the bias of output `output`.
@if(bias)
fn biased(value: f32, output: u32) -> f32 {
    return value + bias[output];
}

@else
fn biased(value: f32, output: u32) -> f32 {
    return value;
}
