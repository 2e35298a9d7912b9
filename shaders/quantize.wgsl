// Activations as quant/store stores them, one row for each workgroup.x.
import package::generated::{QuantizeParams, WORKGROUP};
import package::quant::store::store_blocks;

@group(0) @binding(0) var<uniform> params: QuantizeParams;
@group(0) @binding(1) var<storage, read> x: array<f32>; // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let first = workgroup.x * params.stride + workgroup.y * WORKGROUP;
    let end = (workgroup.x + 1u) * params.stride;
    store_blocks(first / 32u, end / 32u, index, x[min(first + index, end - 1u)]);
}
