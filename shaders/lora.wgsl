// Adapters of one product (LoRA, Hu et al. 2021, arXiv:2106.09685): y += B · (A · x), for each adapter of a row.
//
// A product may stack several matrices that read the same input, its parts: q, k and v, or gate and up. Every part of every
// adapter has an A of its own, and all have as many ranks. `h`, which is A · x, follows that order: with 2 adapters, 3 parts
// and 8 ranks, rank 5 of adapter 1's part 2 is number (1 · 3 + 2) · 8 + 5 of 48.
//
// A workgroup computes the same of COLS rows, so that it reads A and B once for them; what it does for one depends on no other.
import package::generated::{LoraParams, Row};

@group(0) @binding(0) var<uniform> params: LoraParams;
@group(0) @binding(1) var<storage, read> rows: array<Row>;                // [rows of the batch]
@if(gather) @group(0) @binding(2) var<storage, read> row_ids: array<u32>; // [rows]: row i is row row_ids[i] of the batch
@if(many) @group(0) @binding(7) var<storage, read> counts: array<u32>;    // [slots]: there are counts[slot] rows

// Four numbers of A or B.
@if(factors_f16 || factors_bf16) alias Quad = vec2u;
@else alias Quad = vec4f;

// 0x3c004000 is 2, 1. None is subnormal: the exponent's bias is 15 in f16 and 127 in f32, so that the bits shifted are the
// number times 2⁻¹¹², and zero stays zero.
@if(factors_f16)
fn values(quad: Quad) -> vec4f {
    let bits = vec4u(quad.x, quad.x >> 16u, quad.y, quad.y >> 16u);
    let sign = (bits & vec4u(0x8000u)) << vec4u(16u);
    let magnitude = (bits & vec4u(0x7fffu)) << vec4u(13u);
    return bitcast<vec4f>(sign | magnitude) * 5.192296858534828e33;
}

// 0x3f804000 is 2, 1.
@if(factors_bf16)
fn values(quad: Quad) -> vec4f {
    return bitcast<vec4f>(vec4u(quad.x << 16u, quad.x & 0xffff0000u, quad.y << 16u, quad.y & 0xffff0000u));
}

@if(!factors_f16 && !factors_bf16)
fn values(quad: Quad) -> vec4f {
    return quad;
}

@if(many)
fn row_count() -> u32 {
    return counts[params.slot];
}

@else
fn row_count() -> u32 {
    return params.rows;
}

// The adapters, one bit each, that change part `part` of row `row`; none of a row that there is not.
fn adapters_of(row: u32, part: u32) -> u32 {
    if row >= row_count() {
        return 0u;
    }
    @if(gather) return rows[row_ids[row]].adapters & targets(part);
    @else return rows[row].adapters & targets(part);
}

fn targets(part: u32) -> u32 {
    return select(select(params.targets_2, params.targets_1, part == 1u), params.targets_0, part == 0u);
}
