// y = silu(gate) * up (Shazeer 2020, arXiv:2002.05202), one row for each workgroup.x and z.
import package::generated::{SwigluParams, WORKGROUP};
import package::float_pair::{Pair, floats};
@if(blocks) import package::quant::store::{store_block, store_blocks};
import package::silu::silu;

@group(0) @binding(0) var<uniform> params: SwigluParams;
@group(0) @binding(1) var<storage, read> gate_up: array<Pair>; // [rows, stride / 2]: gate and up of each column
@if(!blocks) @group(0) @binding(2) var<storage, read_write> y: array<f32>; // [rows, y_stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.x * params.per_row + workgroup.z;
    let first = workgroup.y * WORKGROUP;
    @if(!blocks)
    if first + index < params.cols {
        y[row * params.y_stride + first + index] = gated(row, first + index);
    }
    let first_block = row * params.y_stride / 32u;
    let blocks = params.y_stride / 32u;
    @if(blocks && narrow) {
        let block = first + index;
        if block < blocks {
            var values: array<vec4f, 8>;
            for (var j = 0u; j < 8u; j++) {
                for (var k = 0u; k < 4u; k++) {
                    values[j][k] = gated(row, 32u * block + 4u * j + k);
                }
            }
            store_block(first_block + block, values);
        }
    }
    @if(blocks && !narrow)
    store_blocks(first_block + first / 32u, first_block + blocks, index, gated(row, first + index));
}

// Zero past the end.
fn gated(row: u32, col: u32) -> f32 {
    let within = min(col, params.cols - 1u);
    let both = floats(gate_up[row * (params.stride / 2u) + within]);
    return select(0.0, silu(both.x) * both.y, within == col);
}
