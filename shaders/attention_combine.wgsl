// Merges the partial results of each row and head: y = Σ exp(m - M) acc / Σ exp(m - M) l, M the largest maximum.
import package::generated::{AttentionParams, HEADS, HEAD_DIM, Row, WORKGROUP};
import package::attention_partial::{MASKED, partial_start};
import package::float_pair::{Pair, floats};
@if(blocks) import package::quant::store::{store_block, store_blocks};

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(2) var<storage, read> partials: array<Pair>;       // [partials, HEADS, PARTIAL / 2]
@if(!blocks) @group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, stride]

@if(!narrow)
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let head = workgroup.y;
    let maximum = largest(row, head);
    for (var first = 0u; first < HEAD_DIM; first += WORKGROUP) {
        let dim = min(first + index, HEAD_DIM - 1u);
        var sum = 0.0;
        var value = 0.0;
        for (var partial = row.partial; partial < row.partial + row.partials; partial++) {
            let start = partial_start(partial, head) / 2u;
            let both = floats(partials[start]);
            let factor = exp(both.x - maximum);
            sum = fma(factor, both.y, sum);
            value = fma(factor, floats(partials[start + 1u + dim / 2u])[dim % 2u], value);
        }
        // A row without any visible key, as the padding of a batch may be, gives zero.
        let result = select(0.0, value / sum, sum > 0.0);
        let head_start = workgroup.x * params.stride + head * HEAD_DIM;
        @if(!blocks)
        if first + index < HEAD_DIM {
            y[head_start + dim] = result;
        }
        // Whole blocks, for HEAD_DIM is a multiple of 32.
        @if(blocks) store_blocks((head_start + first) / 32u, (head_start + HEAD_DIM) / 32u, index, result);
    }
}

@if(narrow)
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let col = 32u * (workgroup.y * WORKGROUP + index);
    if col >= HEADS * HEAD_DIM {
        return;
    }
    let head = col / HEAD_DIM;
    let maximum = largest(row, head);
    var sum = 0.0;
    var values: array<vec4f, 8>;
    for (var partial = row.partial; partial < row.partial + row.partials; partial++) {
        let start = partial_start(partial, head) / 2u;
        let both = floats(partials[start]);
        let factor = exp(both.x - maximum);
        sum = fma(factor, both.y, sum);
        let first = start + 1u + col % HEAD_DIM / 2u;
        for (var j = 0u; j < 8u; j++) {
            let four = vec4f(floats(partials[first + 2u * j]), floats(partials[first + 2u * j + 1u]));
            values[j] = fma(vec4f(factor), four, values[j]);
        }
    }
    for (var j = 0u; j < 8u; j++) {
        values[j] = select(vec4f(), values[j] / sum, sum > 0.0);
    }
    store_block((workgroup.x * params.stride + col) / 32u, values);
}

// Running maximum of all partial results.
fn largest(row: Row, head: u32) -> f32 {
    var maximum = MASKED;
    for (var partial = row.partial; partial < row.partial + row.partials; partial++) {
        maximum = max(maximum, floats(partials[partial_start(partial, head) / 2u]).x);
    }
    return maximum;
}
