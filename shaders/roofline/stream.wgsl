// Reads all of a buffer and does nothing else: EACH vectors by each of the WORKGROUP invocations of a workgroup, which
// therefore covers WORKGROUP * EACH of them. Counts the invocations whose vectors add up to `sought`, so that no compiler
// leaves a load out.
import package::generated::{EACH, StreamParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: StreamParams;
@group(0) @binding(1) var<storage, read> source: array<Vector>;          // [workgroups * WORKGROUP * EACH]
@group(0) @binding(2) var<storage, read_write> found: array<atomic<u32>>; // [1]

// 16 bytes.
@if(int64) alias Vector = vec2<u64>;
@else alias Vector = vec4u;

// With WORKGROUP = 2 and EACH = 3, the vectors that the invocations of workgroup 1 read in turn: 6 8 10 and 7 9 11, so that
// neighbours read neighbours; with `stretches`, 6 7 8 and 9 10 11.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let first = workgroup.x * WORKGROUP * EACH;
    var sum = Vector();
    for (var i = 0u; i < EACH; i++) {
        @if(stretches) sum += source[first + index * EACH + i];
        @else sum += source[first + i * WORKGROUP + index];
    }
    if total(sum) == params.sought {
        atomicAdd(&found[0], 1u);
    }
}

// Of all 32-bit numbers in it, none of which overflows.
@if(int64)
fn total(sum: Vector) -> u32 {
    let both = sum.x + sum.y;
    return u32(both) + u32(both >> 32u);
}

@else
fn total(sum: Vector) -> u32 {
    return sum.x + sum.y + sum.z + sum.w;
}
