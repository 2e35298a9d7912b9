// x += delta, one row per workgroup.x.
import package::generated::{ResidualAddParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: ResidualAddParams;
@group(0) @binding(1) var<storage, read_write> x: array<f32>; // [rows, stride]
@group(0) @binding(2) var<storage, read> delta: array<f32>;   // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let col = workgroup.y * WORKGROUP + index;
    if col < params.cols {
        x[workgroup.x * params.stride + col] += delta[workgroup.x * params.stride + col];
    }
}
