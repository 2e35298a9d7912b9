// y = x · weightᵀ for any number of rows of x, by the products of small matrices that a subgroup computes together.
// A workgroup computes a tile of TILE_ROWS rows by TILE_COLS columns of y: block by block, both operands are
// brought to workgroup memory in 16-bit floats, the weights decoded, and each subgroup multiplies its part of the
// tile into sums of 32 bits.
import package::generated::{QUADS, SIZE, SLOTS_ACROSS, SLOTS_DOWN, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::half::WEIGHT_SCALE;
import package::mat_mat_bring::{Brought, WEIGHT_QUADS, X_QUADS, bring, first_weight, x_number};
import package::mat_mat_tile::{Tile, is_inside, params, tile_of, write, y, y_index};

// Values in a row of either tile: a block, and 16 bytes more to spread the rows over the memory's banks.
const STRIDE = 4u * QUADS + 8u;

var<workgroup> x_tile: array<f16, TILE_ROWS * STRIDE>;      // [TILE_ROWS, STRIDE]
var<workgroup> weight_tile: array<f16, TILE_COLS * STRIDE>; // [TILE_COLS, STRIDE]
var<workgroup> border: array<f32, SIZE * SIZE>;             // a part of y of which not all is written

@if(cooperative_matrix_8) alias Left = coop_mat8x8<f16, A>;
@if(cooperative_matrix_8) alias Right = coop_mat8x8<f16, B>;
@if(cooperative_matrix_8) alias Sum = coop_mat8x8<f32, C>;
@if(cooperative_matrix_16) alias Left = coop_mat16x16<f16, A>;
@if(cooperative_matrix_16) alias Right = coop_mat16x16<f16, B>;
@if(cooperative_matrix_16) alias Sum = coop_mat16x16<f32, C>;

// The tile is cut in slots, one for each subgroup at a time, and a slot in small matrices. 64 rows by 128 columns,
// two slots down and two across, are slots of 32 by 64, or 2 by 4 matrices of 16.
const SLOTS = SLOTS_ACROSS * SLOTS_DOWN;
const DOWN = TILE_ROWS / (SLOTS_DOWN * SIZE);
const ACROSS = TILE_COLS / (SLOTS_ACROSS * SIZE);

struct Invocation {
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, invocation: Invocation) {
    let tile = tile_of(workgroup);
    // Whether all of the tile is written as it is, to places that a matrix can be stored to.
    var whole = is_inside(tile, TILE_ROWS - 1u, TILE_COLS - 1u) && params.first_row % 4u == 0u
        && params.row_step == 1u;
    @if(bias) whole = false; // a matrix cannot be added to, value by value

    // With fewer subgroups than slots, several passes; with more, the rest repeat the last slot. A
    // tile without rows has none: naga takes a return for control flow that is not uniform.
    for (var first = 0u; first < SLOTS && tile.row < tile.end; first += invocation.subgroups) {
        let slot = min(first + invocation.subgroup, SLOTS - 1u);
        let slot_row = slot / SLOTS_ACROSS * (DOWN * SIZE);
        let slot_col = slot % SLOTS_ACROSS * (ACROSS * SIZE);

        var sums: array<array<Sum, ACROSS>, DOWN>;
        for (var block = 0u; block < params.blocks; block++) {
            var brought = bring(invocation.index, tile, block);
            workgroupBarrier(); // the block before is multiplied
            leave(invocation.index, &brought);
            workgroupBarrier();
            for (var k = 0u; k < 4u * QUADS; k += SIZE) {
                var right: array<Right, ACROSS>;
                for (var i = 0u; i < ACROSS; i++) {
                    right[i] = coopLoad<Right>(&weight_tile[(slot_col + i * SIZE) * STRIDE + k], STRIDE);
                }
                for (var j = 0u; j < DOWN; j++) {
                    let left = coopLoadT<Left>(&x_tile[(slot_row + j * SIZE) * STRIDE + k], STRIDE);
                    for (var i = 0u; i < ACROSS; i++) {
                        sums[j][i] = coopMultiplyAdd(left, right[i], sums[j][i]);
                    }
                }
            }
        }

        if whole {
            let stride = params.y_stride;
            for (var j = 0u; j < DOWN; j++) {
                for (var i = 0u; i < ACROSS; i++) {
                    let at = y_index(tile, slot_row + j * SIZE, slot_col + i * SIZE);
                    let sum = sums[j][i] * (1.0 / WEIGHT_SCALE);
                    coopStoreT(sum, &y[at], stride);
                }
            }
            continue;
        }
        for (var turn = first; turn < min(first + invocation.subgroups, SLOTS); turn++) {
            for (var j = 0u; j < DOWN; j++) {
                for (var i = 0u; i < ACROSS; i++) {
                    if slot == turn {
                        let sum = sums[j][i] * (1.0 / WEIGHT_SCALE);
                        coopStoreT(sum, &border[0], SIZE);
                    }
                    workgroupBarrier();
                    let row = (turn / SLOTS_ACROSS * DOWN + j) * SIZE;
                    let col = (turn % SLOTS_ACROSS * ACROSS + i) * SIZE;
                    write_border(invocation.index, tile, row, col);
                    workgroupBarrier();
                }
            }
        }
    }
}

// What of the matrix at `first_row` and `first_col` of the tile lies within y.
fn write_border(index: u32, tile: Tile, first_row: u32, first_col: u32) {
    for (var i = index; i < SIZE * SIZE; i += WORKGROUP) {
        let row = first_row + i / SIZE;
        let col = first_col + i % SIZE;
        write(tile, row, col, border[i]);
    }
}

// Quad 19 of either operand is quad 3 of row 2, at 2 · STRIDE + 12.
fn place(number: u32) -> u32 {
    return number / QUADS * STRIDE + number % QUADS * 4u;
}

// In workgroup memory.
fn leave(index: u32, brought: ptr<function, Brought>) {
    for (var turn = 0u; turn < X_QUADS; turn++) {
        let at = place(x_number(index, turn));
        for (var k = 0u; k < 4u; k++) {
            x_tile[at + k] = (*brought).x[turn][k];
        }
    }
    let first = place(first_weight(index));
    for (var turn = 0u; turn < WEIGHT_QUADS; turn++) {
        for (var k = 0u; k < 4u; k++) {
            weight_tile[first + 4u * turn + k] = (*brought).weight[turn][k];
        }
    }
}
