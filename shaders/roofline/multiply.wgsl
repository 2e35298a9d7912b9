// Multiply-adds in registers and nothing else: every invocation goes on with CHAINS vectors of four numbers, one
// multiply-add after the other in each, UNROLL times in each of `rounds`.
//
// `x = x * 0.5 + 1` comes to rest at 2, whatever x was, within 30 steps in f32 and 12 in f16. The integer form,
// `x = dot(bytes of x, bytes of factor) + x` with a factor of 0, leaves x alone, which only the device finds out.
import package::generated::{CHAINS, MultiplyParams, UNROLL, WORKGROUP};

@group(0) @binding(0) var<uniform> params: MultiplyParams;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>; // [WORKGROUP], by every workgroup the same

@if(f16) alias Vector = vec4<f16>;
@elif(integer) alias Vector = vec4i;
@else alias Vector = vec4f;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) index: u32) {
    var chains: array<Vector, CHAINS>;
    for (var i = 0u; i < CHAINS; i++) {
        @if(f16) { chains[i] = Vector(f16(index + i)); }
        @elif(integer) { chains[i] = Vector(i32(2u + i)); }
        @else { chains[i] = Vector(f32(index + i)); }
    }
    @if(integer) let factor = u32(params.factor);
    @elif(f16) let factor = Vector(f16(params.factor));
    @else let factor = Vector(params.factor);
    @if(!integer) let term = Vector(1.0);
    for (var round = 0u; round < params.rounds; round++) {
        for (var j = 0u; j < UNROLL; j++) {
            for (var i = 0u; i < CHAINS; i++) {
                @if(integer) {
                    let x = chains[i];
                    chains[i] = x + vec4i(
                        dot4I8Packed(u32(x.x), factor), dot4I8Packed(u32(x.y), factor),
                        dot4I8Packed(u32(x.z), factor), dot4I8Packed(u32(x.w), factor),
                    );
                }
                @else { chains[i] = fma(chains[i], factor, term); }
            }
        }
    }
    var sum = 0.0;
    for (var i = 0u; i < CHAINS; i++) {
        let x = vec4f(chains[i]);
        sum += x.x + x.y + x.z + x.w;
    }
    sums[index] = sum;
}
