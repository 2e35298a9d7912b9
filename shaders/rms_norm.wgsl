// x += delta; y = x / sqrt(mean(x²) + eps) * weight, one workgroup per row.
import package::generated::{RmsNormParams, WORKGROUP};
@if(q8) import package::quant::store::{store_block, store_blocks};
import package::reduce::{Invocation, workgroup_sum};

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;             // [rows, stride]
@if(residual) @group(0) @binding(2) var<storage, read> delta: array<f32>; // [rows, stride]
@group(0) @binding(3) var<storage, read> weight: array<f32>;              // [cols]
@if(!q8) @group(0) @binding(4) var<storage, read_write> y: array<f32>;    // [rows, stride]
@if(gather) @group(0) @binding(5) var<storage, read> row_ids: array<u32>; // [rows]: y's row i is made of x's row row_ids[i]

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) _size: u32, // see Invocation
) {
    let row = workgroup.x;
    @if(gather) let source = row_ids[row] * params.stride;
    @else let source = row * params.stride;

    var square_sum = 0.0;
    for (var col = invocation.index; col < params.cols; col += WORKGROUP) {
        @if(residual) x[source + col] += delta[source + col];
        let value = x[source + col];
        square_sum = fma(value, value, square_sum);
    }
    let scale = 1.0 / sqrt(workgroup_sum(square_sum, invocation) / f32(params.cols) + params.eps);
    @if(!q8)
    for (var col = invocation.index; col < params.cols; col += WORKGROUP) {
        y[row * params.stride + col] = normed(source, col, scale);
    }
    let first_block = row * params.stride / 32u;
    let blocks = params.stride / 32u;
    @if(q8 && narrow)
    for (var block = invocation.index; block < blocks; block += WORKGROUP) {
        var values: array<vec4f, 8>;
        for (var j = 0u; j < 8u; j++) {
            for (var k = 0u; k < 4u; k++) {
                values[j][k] = normed(source, 32u * block + 4u * j + k, scale);
            }
        }
        store_block(first_block + block, values);
    }
    @if(q8 && !narrow)
    for (var first = 0u; first < params.stride; first += WORKGROUP) {
        let value = normed(source, first + invocation.index, scale);
        store_blocks(first_block + first / 32u, first_block + blocks, invocation.index, value);
    }
}

// Zero past the end.
fn normed(source: u32, col: u32, scale: f32) -> f32 {
    let within = min(col, params.cols - 1u);
    return select(0.0, x[source + within] * scale * weight[within], within == col);
}
