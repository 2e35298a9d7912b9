// Products of cooperative matrices in registers and nothing else: every subgroup adds the product of two matrices of
// SIZE × SIZE ones to each of four sums, UNROLL times in each of `rounds`. An element of a sum is then
// rounds * UNROLL * SIZE.
import package::generated::{MultiplyParams, SIZE, UNROLL, WORKGROUP};

@group(0) @binding(0) var<uniform> params: MultiplyParams;
@group(0) @binding(1) var<storage, read> ones: array<f16>;                // [SIZE, SIZE]
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;          // [4, SIZE, SIZE], by every subgroup the same
@group(0) @binding(3) var<storage, read_write> subgroups: array<u32>;     // [1]: of a workgroup

@if(cooperative_matrix_16) alias Left = coop_mat16x16<f16, A>;
@if(cooperative_matrix_16) alias Right = coop_mat16x16<f16, B>;
@if(cooperative_matrix_16) alias Sum = coop_mat16x16<f32, C>;
@if(cooperative_matrix_8) alias Left = coop_mat8x8<f16, A>;
@if(cooperative_matrix_8) alias Right = coop_mat8x8<f16, B>;
@if(cooperative_matrix_8) alias Sum = coop_mat8x8<f32, C>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) index: u32, @builtin(num_subgroups) count: u32) {
    let left = coopLoadT<Left>(&ones[0], SIZE);
    let right = coopLoadT<Right>(&ones[0], SIZE);
    var a = Sum();
    var b = Sum();
    var c = Sum();
    var d = Sum();
    for (var round = 0u; round < params.rounds; round++) {
        for (var j = 0u; j < UNROLL; j++) {
            a = coopMultiplyAdd(left, right, a);
            b = coopMultiplyAdd(left, right, b);
            c = coopMultiplyAdd(left, right, c);
            d = coopMultiplyAdd(left, right, d);
        }
    }
    coopStoreT(a, &sums[0], SIZE);
    coopStoreT(b, &sums[SIZE * SIZE], SIZE);
    coopStoreT(c, &sums[2u * SIZE * SIZE], SIZE);
    coopStoreT(d, &sums[3u * SIZE * SIZE], SIZE);
    if index == 0u {
        subgroups[0] = count;
    }
}
