// y's row i is the weight's row of token i, one workgroup per token; tokens of other parts are left alone.
import package::generated::{EmbeddingParams, QUADS, Row, SAMPLED, WORKGROUP};
import package::quant::scales::weight_scale;
import package::weight::weight_quad;

@group(0) @binding(2) var<uniform> params: EmbeddingParams;
@group(0) @binding(3) var<storage, read> rows: array<Row>;      // [tokens]
@group(0) @binding(4) var<storage, read_write> y: array<vec4f>; // [tokens, blocks * QUADS]
@group(0) @binding(5) var<storage, read> sampled: array<u32>;   // [slots]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    var token = rows[workgroup.x].token;
    if token >= SAMPLED {
        token = sampled[token - SAMPLED];
    }
    // Wraps around to a large number for tokens before this part.
    let row = token - params.first_row;
    if row >= params.rows {
        return;
    }
    for (var i = index; i < params.blocks * QUADS; i += WORKGROUP) {
        let block = row * params.blocks + i / QUADS;
        let value = weight_quad(block, i % QUADS, weight_scale(block));
        let inside = vec4u(4u * i) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.cols);
        y[workgroup.x * params.blocks * QUADS + i] = select(vec4f(), value, inside);
    }
}
