// y = x · weightᵀ for any number of rows of x. A workgroup computes a tile of TILE_ROWS rows by
// TILE_COLS columns of y: block by block, both operands are brought to workgroup memory once, the weights
// decoded, and each invocation multiplies ROWS rows with COLS columns in registers. With `rounds_to_f16`, the operands
// in workgroup memory are 16-bit floats, which takes half of its room and of its bandwidth.
import package::generated::{COLS, QUADS, ROWS, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::mat_mat_bring::{Brought, Quad, WEIGHT_QUADS, X_QUADS, bring, first_weight, unscaled, x_number};
import package::mat_mat_tile::{params, tile_of, write};

// Invocations across and down the tile. 64 columns, 4 each, are 16 across; invocation 18 then is (2, 1),
// and computes columns 2, 18, 34, 50 of rows 1, 9, 17, 25 (32 rows, 4 each, are 8 down).
const ACROSS = TILE_COLS / COLS;
const DOWN = TILE_ROWS / ROWS;

// So that places ACROSS columns or DOWN rows apart lie as far apart in memory: an address and an offset that compilers know.
const_assert ACROSS % QUADS == 0u && DOWN % QUADS == 0u;

var<workgroup> x_tile: array<Quad, QUADS * TILE_ROWS>;      // [QUADS, TILE_ROWS]
var<workgroup> weight_tile: array<Quad, QUADS * TILE_COLS>; // [QUADS, TILE_COLS]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let tile = tile_of(workgroup);
    @if(experts)
    if tile.row >= tile.end {
        return;
    }
    let across = index % ACROSS;
    let down = index / ACROSS;

    // Indexed by loop counters alone: drivers unroll such loops and keep the sums in registers.
    var sums: array<array<f32, COLS>, ROWS>;
    for (var block = 0u; block < params.blocks; block++) {
        var brought = bring(index, tile, block);
        workgroupBarrier(); // the block before is multiplied
        leave(index, &brought);
        workgroupBarrier();
        for (var j = 0u; j < QUADS; j++) {
            var quads: array<vec4f, COLS>;
            for (var col = 0u; col < COLS; col++) {
                quads[col] = vec4f(weight_tile[place(j, across, TILE_COLS) + ACROSS * col]);
            }
            for (var row = 0u; row < ROWS; row++) {
                let v = vec4f(x_tile[place(j, down, TILE_ROWS) + DOWN * row]);
                for (var col = 0u; col < COLS; col++) {
                    let w = quads[col];
                    sums[row][col] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sums[row][col]))));
                }
            }
        }
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = down + DOWN * i;
        for (var k = 0u; k < COLS; k++) {
            let col = across + ACROSS * k;
            write(tile, row, col, unscaled(sums[i][k]));
        }
    }
}

// In workgroup memory.
fn leave(index: u32, brought: ptr<function, Brought>) {
    for (var turn = 0u; turn < X_QUADS; turn++) {
        let i = x_number(index, turn);
        x_tile[place(i % QUADS, i / QUADS, TILE_ROWS)] = (*brought).x[turn];
    }
    let first = first_weight(index);
    for (var turn = 0u; turn < WEIGHT_QUADS; turn++) {
        weight_tile[place(first % QUADS + turn, first / QUADS, TILE_COLS)] = (*brought).weight[turn];
    }
}

// Where quad `j` of a row lies in a tile of `rows` rows. Neighbouring rows change places by the quad's number, so that
// both the quads of a row and a quad of many rows are spread over the memory's banks: of 16 rows, quad 3 of row 6 is
// at 3 · 16 + 5.
fn place(j: u32, row: u32, rows: u32) -> u32 {
    return j * rows + (row ^ j);
}
