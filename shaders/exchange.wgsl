// Values that few invocations load and all need. To a driver that loads for one invocation after the other, a load costs as
// much for each that takes part, and less for each that does not: four load another value each, or eight where no subgroup
// has fewer, and the subgroup exchanges them.

// So many fours of invocations load.
@if(subgroup_8) const FOURS = 2u;
@else const FOURS = 1u;

// What invocations 4i to 4i + 3 of the subgroup hold, at i.
fn exchanged(value: u32) -> array<vec4u, FOURS> {
    let first = vec4u(
        subgroupBroadcast(value, 0u), subgroupBroadcast(value, 1u),
        subgroupBroadcast(value, 2u), subgroupBroadcast(value, 3u),
    );
    @if(subgroup_8) {
        let second = vec4u(
            subgroupBroadcast(value, 4u), subgroupBroadcast(value, 5u),
            subgroupBroadcast(value, 6u), subgroupBroadcast(value, 7u),
        );
        return array<vec4u, FOURS>(first, second);
    }
    @else
    return array<vec4u, FOURS>(first);
}
