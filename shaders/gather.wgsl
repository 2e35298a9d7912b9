// Row sources[i] of x becomes row i of y, for i = workgroup.x · chosen + workgroup.z.
import package::generated::{GatherParams, WORKGROUP};
@if(q8) import package::quant::store::store_blocks;

@group(0) @binding(0) var<uniform> params: GatherParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;                 // [rows, stride]
@group(0) @binding(2) var<storage, read> sources: array<u32>;           // [rows * chosen]
@if(!q8) @group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows * chosen, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.x * params.chosen + workgroup.z;
    let col = workgroup.y * WORKGROUP + index;
    let value = x[sources[row] * params.stride + min(col, params.stride - 1u)];
    @if(!q8)
    if col < params.stride {
        y[row * params.stride + col] = value;
    }
    @if(q8)
    store_blocks((row * params.stride + workgroup.y * WORKGROUP) / 32u, (row + 1u) * params.stride / 32u, index, value);
}
