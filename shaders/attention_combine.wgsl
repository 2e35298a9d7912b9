// Merges the partial results of each row and head: out = Σ exp(m - M) acc / Σ exp(m - M) l, M the largest maximum.
import package::generated::{AttentionParams, HEAD_DIM, Row, WORKGROUP};
import package::attention_partial::{MASKED, partial_start};

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> rows: array<Row>;            // [rows]
@group(0) @binding(2) var<storage, read> partials: array<f32>;        // [partials, HEADS, PARTIAL]
@group(0) @binding(3) var<storage, read_write> out: array<f32>;       // [rows, stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = rows[workgroup.x];
    let head = workgroup.y;
    let end = row.partial + row.partials;

    var maximum = MASKED;
    for (var partial = row.partial; partial < end; partial++) {
        maximum = max(maximum, partials[partial_start(partial, head)]);
    }
    for (var dim = index; dim < HEAD_DIM; dim += WORKGROUP) {
        var sum = 0.0;
        var value = 0.0;
        for (var partial = row.partial; partial < end; partial++) {
            let start = partial_start(partial, head);
            let factor = exp(partials[start] - maximum);
            sum = fma(factor, partials[start + 1u], sum);
            value = fma(factor, partials[start + 2u + dim], value);
        }
        // A row without any visible key, as the padding of a batch may be, gives zero.
        out[workgroup.x * params.stride + head * HEAD_DIM + dim] = select(0.0, value / sum, sum > 0.0);
    }
}
