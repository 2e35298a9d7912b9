// Activations to blocks of 8-bit codes, one block for each invocation, one row for each workgroup.x.
import package::generated::{QUADS, QuantizeParams, WORKGROUP};
import package::quant::activations::{BlockScale, quantize_block};

@group(0) @binding(0) var<uniform> params: QuantizeParams;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;                 // [rows, blocks * QUADS]
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;         // [rows, blocks, 8]
@group(0) @binding(3) var<storage, read_write> scales: array<BlockScale>; // [rows, blocks]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let block = workgroup.y * WORKGROUP + index;
    if block >= params.blocks {
        return;
    }
    let at = workgroup.x * params.blocks + block;
    var values: array<vec4f, QUADS>;
    for (var j = 0u; j < QUADS; j++) {
        values[j] = x[at * QUADS + j];
    }
    let quantized = quantize_block(values);
    for (var j = 0u; j < QUADS; j++) {
        codes[at * QUADS + j] = quantized.codes[j];
    }
    scales[at] = quantized.scale;
}
