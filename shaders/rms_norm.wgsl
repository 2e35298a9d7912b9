// x += delta; y = x / sqrt(mean(x²) + eps) * weight, one workgroup per row.
import package::generated::{RmsNormParams, WORKGROUP};
@if(q8) import package::quant::store::store_blocks;
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
        y[row * params.stride + col] = x[source + col] * scale * weight[col];
    }
    @if(q8)
    for (var first = 0u; first < params.stride; first += WORKGROUP) {
        let col = min(first + invocation.index, params.cols - 1u);
        let value = select(0.0, x[source + col] * scale * weight[col], col == first + invocation.index);
        let first_block = (row * params.stride + first) / 32u;
        store_blocks(first_block, (row + 1u) * params.stride / 32u, invocation.index, value);
    }
}
