// Sums over a workgroup. Every invocation must call, and all get the same result.
import package::generated::WORKGROUP;

@if(subgroup) var<workgroup> partial_sums: array<f32, WORKGROUP>; // one per subgroup, subgroups of one at worst
@else var<workgroup> partial_sums: array<f32, WORKGROUP>;         // one per invocation

// naga translates subgroup built-ins in a struct to HLSL only for entry points that have one of their own.
struct Invocation {
    @builtin(local_invocation_index) index: u32,
    @if(subgroup) @builtin(subgroup_invocation_id) lane: u32,
    @if(subgroup) @builtin(subgroup_id) subgroup: u32,
    @if(subgroup) @builtin(num_subgroups) subgroups: u32,
}

@if(subgroup)
fn workgroup_sum(value: f32, invocation: Invocation) -> f32 {
    let sum = subgroupAdd(value);
    if invocation.lane == 0u {
        partial_sums[invocation.subgroup] = sum;
    }
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < invocation.subgroups; i++) {
        total += partial_sums[i];
    }
    workgroupBarrier();
    return total;
}

// Halves the number of partial sums in each round: 8 values take 3 rounds, 0+4 1+5 2+6 3+7, 0+2 1+3, 0+1.
@else
fn workgroup_sum(value: f32, invocation: Invocation) -> f32 {
    partial_sums[invocation.index] = value;
    workgroupBarrier();
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        if invocation.index < half {
            partial_sums[invocation.index] += partial_sums[invocation.index + half];
        }
        workgroupBarrier();
    }
    let total = partial_sums[0];
    workgroupBarrier();
    return total;
}
