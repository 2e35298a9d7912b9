// y = the sum of what a row's experts give, by their weights, one row for each workgroup.x.
import package::generated::{ExpertChoice, ExpertSumParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: ExpertSumParams;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // [rows * chosen, stride]
@group(0) @binding(2) var<storage, read> choices: array<ExpertChoice>; // [rows, chosen]
@group(0) @binding(3) var<storage, read_write> y: array<f32>;          // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let col = workgroup.y * WORKGROUP + index;
    if col >= params.cols {
        return;
    }
    var sum = 0.0;
    for (var i = workgroup.x * params.chosen; i < (workgroup.x + 1u) * params.chosen; i++) {
        sum = fma(choices[i].weight, x[choices[i].place * params.stride + col], sum);
    }
    y[workgroup.x * params.stride + col] = sum;
}
