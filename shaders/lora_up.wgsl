// y += B · h. An invocation computes OUTPUTS outputs of COLS rows; workgroup.z is the part, so that all of a workgroup read the
// same h.
import package::generated::{COLS, OUTPUTS, QUADS, WORKGROUP};
import package::lora::{Quad, adapters_of, params, row_count, values};

@group(0) @binding(3) var<storage, read> b: array<Quad>;       // [adapters, outputs, QUADS], scaled
@group(0) @binding(4) var<storage, read> h: array<vec4f>;      // [rows, adapters, parts, QUADS]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [rows, y_stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.y * COLS;
    let part = workgroup.z;
    var adapters: array<u32, COLS>;
    var left = 0u; // of any row
    for (var col = 0u; col < COLS; col++) {
        adapters[col] = adapters_of(row + col, part);
        left |= adapters[col];
    }
    let end = end_output(part);
    let first = first_output(part) + (workgroup.x * WORKGROUP * OUTPUTS + index) * params.step;
    if left == 0u || first >= end {
        return;
    }
    let last_row = row_count() - 1u;
    var sums: array<array<f32, COLS>, OUTPUTS>;
    for (var i = 0u; i < OUTPUTS; i++) {
        for (var col = 0u; col < COLS; col++) {
            sums[i][col] = y[min(row + col, last_row) * params.y_stride + output_of(first, i)];
        }
    }
    while left != 0u {
        let adapter = firstTrailingBit(left);
        left &= left - 1u;
        var next = sums;
        for (var j = 0u; j < QUADS; j++) {
            var quads: array<vec4f, COLS>;
            for (var col = 0u; col < COLS; col++) {
                let stack = (min(row + col, last_row) * params.adapters + adapter) * params.parts + part;
                quads[col] = h[stack * QUADS + j];
            }
            for (var i = 0u; i < OUTPUTS; i++) {
                let w = values(b[(adapter * params.outputs + output_of(first, i)) * QUADS + j]);
                for (var col = 0u; col < COLS; col++) {
                    let v = quads[col];
                    next[i][col] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, next[i][col]))));
                }
            }
        }
        for (var i = 0u; i < OUTPUTS; i++) {
            for (var col = 0u; col < COLS; col++) {
                // Of a row without this adapter h is whatever it was.
                sums[i][col] = select(sums[i][col], next[i][col], ((adapters[col] >> adapter) & 1u) != 0u);
            }
        }
    }
    for (var i = 0u; i < OUTPUTS; i++) {
        for (var col = 0u; col < COLS; col++) {
            if adapters[col] != 0u && first + i * WORKGROUP * params.step < end {
                y[(row + col) * params.y_stride + output_of(first, i)] = sums[i][col];
            }
        }
    }
}

// Output `i` of an invocation, or one that there is.
fn output_of(first: u32, i: u32) -> u32 {
    return min(first + i * WORKGROUP * params.step, params.outputs - 1u);
}

// With a step of 2, parts alternate: gate's outputs are 0, 2, 4, …, up's 1, 3, 5, …. Otherwise they follow one another.
fn first_output(part: u32) -> u32 {
    return select(select(params.first_2, params.first_1, part == 1u), 0u, part == 0u);
}

fn end_output(part: u32) -> u32 {
    return select(params.outputs, first_output(part + 1u), params.step == 1u && part + 1u < params.parts);
}
