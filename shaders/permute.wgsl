// Column order[j] of x becomes column j of y, one row for each workgroup.x.
import package::generated::{PermuteParams, WORKGROUP};
@if(q8) import package::quant::store::store_blocks;

@group(0) @binding(0) var<uniform> params: PermuteParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [rows, stride]
@group(0) @binding(2) var<storage, read> order: array<u32>;            // [cols]
@if(!q8) @group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.x * params.stride;
    let col = workgroup.y * WORKGROUP + index;
    let value = x[row + order[min(col, params.cols - 1u)]];
    @if(!q8)
    if col < params.cols {
        y[row + col] = value;
    }
    @if(q8)
    store_blocks((row + workgroup.y * WORKGROUP) / 32u, (row + params.stride) / 32u, index, select(0.0, value, col < params.cols));
}
