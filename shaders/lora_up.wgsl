// y += B · h. An invocation computes an output of a row; workgroup.z is the part, so that all of a workgroup read the same h.
import package::generated::{QUADS, WORKGROUP};
import package::lora::{adapters_of, params};

@group(0) @binding(3) var<storage, read> b: array<vec4f>;      // [adapters, outputs, QUADS], scaled
@group(0) @binding(4) var<storage, read> h: array<vec4f>;      // [rows, adapters, parts, QUADS]
@group(0) @binding(5) var<storage, read_write> y: array<f32>;  // [rows, y_stride]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let row = workgroup.y;
    let part = workgroup.z;
    let output = first_output(part) + (workgroup.x * WORKGROUP + index) * params.step;
    var adapters = adapters_of(row, part);
    if output >= end_output(part) || adapters == 0u {
        return;
    }
    var sum = y[row * params.y_stride + output];
    while adapters != 0u {
        let adapter = firstTrailingBit(adapters);
        adapters &= adapters - 1u;
        for (var j = 0u; j < QUADS; j++) {
            let w = b[(adapter * params.outputs + output) * QUADS + j];
            let v = h[((row * params.adapters + adapter) * params.parts + part) * QUADS + j];
            sum = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
        }
    }
    y[row * params.y_stride + output] = sum;
}

// With a step of 2, parts alternate: gate's outputs are 0, 2, 4, …, up's 1, 3, 5, …. Otherwise they follow one another.
fn first_output(part: u32) -> u32 {
    return select(select(params.first_2, params.first_1, part == 1u), 0u, part == 0u);
}

fn end_output(part: u32) -> u32 {
    return select(params.outputs, first_output(part + 1u), params.step == 1u && part + 1u < params.parts);
}
