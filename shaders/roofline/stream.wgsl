// Reads all of a buffer and does nothing else: EACH vectors by each of the WORKGROUP invocations of a workgroup, which
// therefore covers WORKGROUP * EACH of them. Counts the invocations whose vectors add up to `sought`, so that no compiler
// leaves a load out.
import package::generated::{EACH, StreamParams, WORKGROUP};

@group(0) @binding(0) var<uniform> params: StreamParams;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;           // [workgroups * WORKGROUP * EACH]
@group(0) @binding(2) var<storage, read_write> found: array<atomic<u32>>; // [1]

// With WORKGROUP = 2 and EACH = 3, the vectors that the invocations of workgroup 1 read in turn: 6 8 10 and 7 9 11, so that
// neighbours read neighbours; with `stretches`, 6 7 8 and 9 10 11.
@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let first = workgroup.x * WORKGROUP * EACH;
    var sum = vec4u();
    for (var i = 0u; i < EACH; i++) {
        @if(stretches) sum += source[first + index * EACH + i];
        @else sum += source[first + i * WORKGROUP + index];
    }
    if sum.x + sum.y + sum.z + sum.w == params.sought {
        atomicAdd(&found[0], 1u);
    }
}
