// h = A · x. A workgroup computes RANKS neighbouring ranks, all of one part of one adapter, of COLS rows; its invocations share
// out x, and add up their sums in an order that depends on nothing but the shape.
import package::generated::{COLS, RANKS, WORKGROUP};
import package::lora::{Quad, adapters_of, params, row_count, values};
import package::reduce::Invocation;
@if(halves) import package::half::half_quad;
@elif(blocks) import package::quant::activations::BlockScale;

@group(0) @binding(3) var<storage, read> a: array<Quad>;                                     // [adapters, parts, ranks, quads]
@if(halves) @group(0) @binding(4) var<storage, read> x: array<vec2u>;                        // [rows, quads] times four halves
@elif(blocks) @group(0) @binding(4) var<storage, read> x_codes: array<u32>;                  // [rows, quads]
@else @group(0) @binding(4) var<storage, read> x: array<vec4f>;                              // [rows, quads]
@if(blocks && !halves) @group(0) @binding(5) var<storage, read> x_scales: array<BlockScale>; // [rows, quads / 8]
@group(0) @binding(6) var<storage, read_write> h: array<f32>;                                // [rows, adapters, parts, ranks]

// Nested, so that every index is a loop's own counter: drivers unroll such loops and keep the sums in registers.
alias Sums = array<array<f32, COLS>, RANKS>;

@if(subgroup) var<workgroup> partial_sums: array<Sums, WORKGROUP>; // one per subgroup, subgroups of one at worst
@else var<workgroup> partial_sums: array<Sums, WORKGROUP>;         // one per invocation

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    invocation: Invocation,
    @if(subgroup) @builtin(subgroup_size) _size: u32, // see Invocation
) {
    let first = workgroup.x * RANKS;
    let stack = first / params.ranks;
    let part = stack % params.parts;
    let adapter = 1u << (stack / params.parts);
    let row = workgroup.y * COLS;
    var wanted = 0u;
    for (var col = 0u; col < COLS; col++) {
        wanted |= adapters_of(row + col, part);
    }
    if (wanted & adapter) == 0u {
        return;
    }
    let last_row = row_count() - 1u;
    var sums: Sums;
    for (var quad = invocation.index; quad < params.quads; quad += WORKGROUP) {
        var quads: array<vec4f, COLS>;
        for (var col = 0u; col < COLS; col++) {
            quads[col] = x_quad(min(row + col, last_row) * params.quads + quad);
        }
        for (var rank = 0u; rank < RANKS; rank++) {
            let w = values(a[(first + rank) * params.quads + quad]);
            for (var col = 0u; col < COLS; col++) {
                let v = quads[col];
                sums[rank][col] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sums[rank][col]))));
            }
        }
    }
    let count = share(&sums, invocation);
    for (var i = invocation.index; i < RANKS * COLS; i += WORKGROUP) {
        let rank = i / COLS;
        let col = i % COLS;
        var total = 0.0;
        for (var j = 0u; j < count; j++) {
            total += partial_sums[j][rank][col];
        }
        if (adapters_of(row + col, part) & adapter) != 0u {
            h[(row + col) * params.adapters * params.parts * params.ranks + first + rank] = total * params.scale;
        }
    }
}

// Leaves sums for all to see, and returns how many.
@if(subgroup)
fn share(sums: ptr<function, Sums>, invocation: Invocation) -> u32 {
    for (var rank = 0u; rank < RANKS; rank++) {
        for (var col = 0u; col < COLS; col++) {
            let sum = subgroupAdd((*sums)[rank][col]);
            if invocation.lane == 0u {
                partial_sums[invocation.subgroup][rank][col] = sum;
            }
        }
    }
    workgroupBarrier();
    return invocation.subgroups;
}

@else
fn share(sums: ptr<function, Sums>, invocation: Invocation) -> u32 {
    partial_sums[invocation.index] = *sums;
    workgroupBarrier();
    return WORKGROUP;
}

@if(halves)
fn x_quad(at: u32) -> vec4f {
    return half_quad(x[at]);
}

// The word 0x0000fe01 is 1, -2, 0, 0, times the scale of its block of 8 words.
@elif(blocks)
fn x_quad(at: u32) -> vec4f {
    let bytes = vec4u(x_codes[at]) << vec4u(24u, 16u, 8u, 0u);
    return x_scales[at / 8u].scale * vec4f(bitcast<vec4i>(bytes) >> vec4u(24u));
}

@else
fn x_quad(at: u32) -> vec4f {
    return x[at];
}
