// out = silu(gate) * up (Shazeer 2020, arXiv:2002.05202), one row per workgroup.x.
import package::generated::{SwigluParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: SwigluParams;
@group(0) @binding(1) var<storage, read> gate_up: array<vec2f>; // [rows, stride / 2]: gate and up of each column
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [rows, out_stride]

// x / (1 + exp(-x)), with the exponential of a number that is never positive.
fn silu(x: f32) -> f32 {
    let small = exp(-abs(x));
    return x * select(small, 1.0, x >= 0.0) / (1.0 + small);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let col = workgroup.y * WORKGROUP + index;
    if col < params.cols {
        let pair = gate_up[workgroup.x * (params.stride / 2u) + col];
        out[workgroup.x * params.out_stride + col] = silu(pair.x) * pair.y;
    }
}
