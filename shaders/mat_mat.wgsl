// y = x · weightᵀ for any number of rows of x. A workgroup computes a tile of TILE_ROWS rows by
// TILE_COLS columns of y: block by block, both operands are brought to workgroup memory once, the weights
// decoded, and each invocation multiplies SIDE rows with SIDE columns in registers.
import package::generated::{MatmulParams, QUADS, SIDE, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::weight::{weight_quad, weight_scale};

@group(0) @binding(2) var<uniform> params: MatmulParams;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;     // [rows, blocks * QUADS]
@group(0) @binding(4) var<storage, read_write> y: array<f32>; // [rows, y_stride]
@group(0) @binding(5) var<storage, read> counts: array<u32>;  // [slots]: the number of rows is counts[slot]

// An odd stride spreads the quads of a row over the memory's banks.
const ROW_STRIDE = TILE_ROWS + 1u;
const COL_STRIDE = TILE_COLS + 1u;
// Invocations across and down the tile. 64 columns, 4 each, are 16 across; invocation 18 then is (2, 1),
// and computes columns 2, 18, 34, 50 of rows 1, 9, 17, 25 (8 down).
const ACROSS = TILE_COLS / SIDE;
const DOWN = TILE_ROWS / SIDE;

var<workgroup> x_tile: array<vec4f, QUADS * ROW_STRIDE>;      // [QUADS, TILE_ROWS]
var<workgroup> weight_tile: array<vec4f, QUADS * COL_STRIDE>; // [QUADS, TILE_COLS]

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) index: u32) {
    let rows = counts[params.slot];
    let first_col = workgroup.x * TILE_COLS;
    let first_row = workgroup.y * TILE_ROWS;
    let across = index % ACROSS;
    let down = index / ACROSS;

    // Indexed by loop counters alone: drivers unroll such loops and keep the sums in registers.
    var sums: array<array<f32, SIDE>, SIDE>; // [rows, columns]
    for (var block = 0u; block < params.blocks; block++) {
        // Rows and columns past the end repeat the last one; nobody writes their results.
        for (var i = index; i < TILE_ROWS * QUADS; i += WORKGROUP) {
            let row = min(first_row + i / QUADS, rows - 1u);
            x_tile[i % QUADS * ROW_STRIDE + i / QUADS] = x[(row * params.blocks + block) * QUADS + i % QUADS];
        }
        for (var i = index; i < TILE_COLS * QUADS; i += WORKGROUP) {
            let at = min(first_col + i / QUADS, params.rows - 1u) * params.blocks + block;
            weight_tile[i % QUADS * COL_STRIDE + i / QUADS] = weight_scale(at) * weight_quad(at, i % QUADS);
        }
        workgroupBarrier();
        for (var j = 0u; j < QUADS; j++) {
            var quads: array<vec4f, SIDE>;
            for (var col = 0u; col < SIDE; col++) {
                quads[col] = weight_tile[j * COL_STRIDE + across + ACROSS * col];
            }
            for (var row = 0u; row < SIDE; row++) {
                let v = x_tile[j * ROW_STRIDE + down + DOWN * row];
                for (var col = 0u; col < SIDE; col++) {
                    let w = quads[col];
                    sums[row][col] = fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sums[row][col]))));
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < SIDE; i++) {
        let row = first_row + down + DOWN * i;
        for (var k = 0u; k < SIDE; k++) {
            let col = first_col + across + ACROSS * k;
            if row < rows && col < params.rows {
                y[row * params.y_stride + params.first_row + col] = sums[i][k];
            }
        }
    }
}
