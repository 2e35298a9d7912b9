// As little as a dispatch can do that the next one depends on.
@group(0) @binding(0) var<storage, read_write> count: array<u32>; // [1]

@compute @workgroup_size(1)
fn main() {
    count[0] += 1u;
}
