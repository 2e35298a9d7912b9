// x += delta; y = x / sqrt(mean(x²) + eps) * weight, one workgroup per row. Rows are padded with zeros to whole blocks.
import package::generated::{RmsNormParams, WORKGROUP};
import package::float_pair::{Pair, floats, pair};
@if(blocks) import package::quant::store::{store_block, store_blocks};
import package::reduce::{Invocation, workgroup_sum};

@group(0) @binding(0) var<uniform> params: RmsNormParams;
@group(0) @binding(1) var<storage, read_write> x: array<Pair>;             // [rows, stride / 2]
@if(residual) @group(0) @binding(2) var<storage, read> delta: array<Pair>; // [rows, stride / 2]
@group(0) @binding(3) var<storage, read> weight: array<Pair>;              // [stride / 2]
@if(!blocks) @group(0) @binding(4) var<storage, read_write> y: array<Pair>;    // [rows, stride / 2]
@if(gather) @group(0) @binding(5) var<storage, read> row_ids: array<u32>;  // [rows]: y's row i is made of x's row row_ids[i]

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) _size: u32, // see Invocation
) {
    let row = workgroup.x;
    let pairs = params.stride / 2u;
    @if(gather) let source = row_ids[row] * pairs;
    @else let source = row * pairs;

    var square_sum = 0.0;
    for (var i = invocation.index; i < pairs; i += WORKGROUP) {
        var values = floats(x[source + i]);
        @if(residual) {
            values += floats(delta[source + i]);
            x[source + i] = pair(values);
        }
        square_sum = fma(values.x, values.x, fma(values.y, values.y, square_sum));
    }
    let scale = 1.0 / sqrt(workgroup_sum(square_sum, invocation) / f32(params.cols) + params.eps);
    @if(!blocks)
    for (var i = invocation.index; i < pairs; i += WORKGROUP) {
        y[row * pairs + i] = pair(normed(source, i, scale));
    }
    let first_block = row * params.stride / 32u;
    let blocks = params.stride / 32u;
    @if(blocks && narrow)
    for (var block = invocation.index; block < blocks; block += WORKGROUP) {
        var values: array<vec4f, 8>;
        for (var j = 0u; j < 8u; j++) {
            let i = 16u * block + 2u * j;
            values[j] = vec4f(normed(source, i, scale), normed(source, i + 1u, scale));
        }
        store_block(first_block + block, values);
    }
    @if(blocks && !narrow)
    for (var first = 0u; first < params.stride; first += WORKGROUP) {
        let col = min(first + invocation.index, params.stride - 1u);
        let value = normed(source, col / 2u, scale)[col % 2u];
        store_blocks(first_block + first / 32u, first_block + blocks, invocation.index, value);
    }
}

fn normed(source: u32, i: u32, scale: f32) -> vec2f {
    return floats(x[source + i]) * scale * floats(weight[i]);
}
