// y = x[indices], of whole rows or, with `of_cols`, of the same columns of every row: one row of y for each workgroup.x and
// z. With `of_cols` and indices 2, 0, 1 each row a, b, c becomes c, a, b.
import package::generated::{GatherParams, WORKGROUP};
@if(blocks) import package::quant::store::store_blocks;

@group(0) @binding(0) var<uniform> params: GatherParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [rows of x, stride]
@group(0) @binding(2) var<storage, read> indices: array<u32>;          // [rows] or [cols]
@if(!blocks) @group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.x * params.per_row + workgroup.z;
    let first = workgroup.y * WORKGROUP;
    let col = min(first + index, params.cols - 1u);
    @if(of_cols) let value = x[row * params.stride + indices[col]];
    @else let value = x[indices[row] * params.stride + col];
    let within = col == first + index;
    @if(!blocks)
    if within {
        y[row * params.stride + col] = value;
    }
    @if(blocks) {
        let first_block = (row * params.stride + first) / 32u;
        store_blocks(first_block, (row + 1u) * params.stride / 32u, index, select(0.0, value, within));
    }
}
