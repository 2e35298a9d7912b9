// Values that few invocations load and all need. To a driver that loads for one invocation after the other, a load costs as
// much for each that takes part: four load another value each, and the subgroup exchanges them.

// What the first four invocations of the subgroup, which has no fewer, hold.
fn exchanged(value: u32) -> vec4u {
    return vec4u(
        subgroupBroadcast(value, 0u), subgroupBroadcast(value, 1u),
        subgroupBroadcast(value, 2u), subgroupBroadcast(value, 3u),
    );
}
