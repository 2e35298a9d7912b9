// y = silu(gate) * up (Shazeer 2020, arXiv:2002.05202), one row for each workgroup.x and z.
import package::generated::{SwigluParams, WORKGROUP};
@if(q8) import package::quant::store::store_blocks;
import package::silu::silu;

@group(0) @binding(0) var<uniform> params: SwigluParams;
@group(0) @binding(1) var<storage, read> gate_up: array<vec2f>; // [rows, stride / 2]: gate and up of each column
@if(!q8) @group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, y_stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.x * params.per_row + workgroup.z;
    let col = workgroup.y * WORKGROUP + index;
    let pair = gate_up[row * (params.stride / 2u) + min(col, params.cols - 1u)];
    let value = silu(pair.x) * pair.y;
    @if(!q8)
    if col < params.cols {
        y[row * params.y_stride + col] = value;
    }
    @if(q8) {
        let first_block = (row * params.y_stride + workgroup.y * WORKGROUP) / 32u;
        let end_block = (row + 1u) * params.y_stride / 32u;
        store_blocks(first_block, end_block, index, select(0.0, value, col < params.cols));
    }
}
