// h = A · x. A workgroup computes RANKS neighbouring ranks of a row, all of one part of one adapter; its invocations share
// out x, and add up their sums in an order that depends on nothing but the shape.
import package::generated::{RANKS, WORKGROUP};
import package::lora::{adapters_of, params};
@if(q8) import package::quant::activations::BlockScale;

@group(0) @binding(3) var<storage, read> a: array<vec4f>;                      // [adapters, parts, ranks, quads]
@if(!q8) @group(0) @binding(4) var<storage, read> x: array<vec4f>;             // [rows, quads]
@if(q8) @group(0) @binding(4) var<storage, read> x_codes: array<u32>;          // [rows, quads]
@if(q8) @group(0) @binding(5) var<storage, read> x_scales: array<BlockScale>;  // [rows, quads / 8]
@group(0) @binding(6) var<storage, read_write> h: array<f32>;                  // [rows, adapters, parts, ranks]

var<workgroup> partial_sums: array<array<f32, RANKS>, WORKGROUP>; // one per invocation

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.y;
    let first = workgroup.x * RANKS;
    let stack = first / params.ranks;
    if (adapters_of(row, stack % params.parts) & (1u << (stack / params.parts))) == 0u {
        return;
    }
    var sums: array<f32, RANKS>;
    for (var quad = index; quad < params.quads; quad += WORKGROUP) {
        let v = x_quad(row * params.quads + quad);
        for (var i = 0u; i < RANKS; i++) {
            let w = a[(first + i) * params.quads + quad];
            sums[i] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sums[i]))));
        }
    }
    partial_sums[index] = sums;
    workgroupBarrier();
    if index < RANKS {
        var total = 0.0;
        for (var i = 0u; i < WORKGROUP; i++) {
            total += partial_sums[i][index];
        }
        h[row * params.adapters * params.parts * params.ranks + first + index] = total;
    }
}

@if(!q8)
fn x_quad(at: u32) -> vec4f {
    return x[at];
}

// The word 0x0000fe01 is 1, -2, 0, 0, times the scale of its block of 8 words.
@if(q8)
fn x_quad(at: u32) -> vec4f {
    let bytes = vec4u(x_codes[at]) << vec4u(24u, 16u, 8u, 0u);
    return x_scales[at / 8u].scale * vec4f(bitcast<vec4i>(bytes) >> vec4u(24u));
}
