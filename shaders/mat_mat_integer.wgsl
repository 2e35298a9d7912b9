// y = x · weightᵀ for any number of rows of x, by products of integer codes. A workgroup computes a tile of TILE_ROWS
// rows by TILE_COLS columns of y: block by block, the codes and scales of both operands are brought to workgroup memory
// once, and each invocation multiplies ROWS rows with COLS columns: the codes exactly, then their scales.
import package::generated::{COLS, ROWS, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::mat_mat_tile::{params, tile_of, weight_block, write, x_block};
import package::quant::activations::{BlockScale, dot16};
import package::weight::{WeightScale, weight_codes, weight_dot, weight_scale};

@group(0) @binding(3) var<storage, read> x_codes: array<vec4u>;       // [rows, blocks, 2]
@group(0) @binding(6) var<storage, read> x_scales: array<BlockScale>; // [rows, blocks]

// Invocations across and down the tile, as in mat_mat.wgsl.
const ACROSS = TILE_COLS / COLS;
const DOWN = TILE_ROWS / ROWS;

var<workgroup> x_tile: array<vec4u, 2u * TILE_ROWS>;      // [2, TILE_ROWS]: the halves of a block
var<workgroup> x_scale_tile: array<BlockScale, TILE_ROWS>; // [TILE_ROWS]
var<workgroup> weight_tile: array<vec4u, 2u * TILE_COLS>;  // [2, TILE_COLS]
var<workgroup> weight_scale_tile: array<WeightScale, TILE_COLS>; // [TILE_COLS]

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
        for (var i = index; i < 2u * TILE_ROWS; i += WORKGROUP) {
            let at = x_block(tile, i / 2u, block);
            x_tile[i % 2u * TILE_ROWS + i / 2u] = x_codes[2u * at + i % 2u];
            if i % 2u == 0u {
                x_scale_tile[i / 2u] = x_scales[at];
            }
        }
        for (var i = index; i < 2u * TILE_COLS; i += WORKGROUP) {
            let at = weight_block(tile, i / 2u, block);
            weight_tile[i % 2u * TILE_COLS + i / 2u] = weight_codes(at, i % 2u);
            if i % 2u == 0u {
                weight_scale_tile[i / 2u] = weight_scale(at);
            }
        }
        workgroupBarrier();
        var low: array<vec4u, COLS>; // the first half of a block
        var high: array<vec4u, COLS>;
        var scales: array<WeightScale, COLS>;
        for (var col = 0u; col < COLS; col++) {
            let at = across + ACROSS * col;
            low[col] = weight_tile[at];
            high[col] = weight_tile[TILE_COLS + at];
            scales[col] = weight_scale_tile[at];
        }
        for (var row = 0u; row < ROWS; row++) {
            let at = down + DOWN * row;
            let x_low = x_tile[at];
            let x_high = x_tile[TILE_ROWS + at];
            let x_scale = x_scale_tile[at];
            for (var col = 0u; col < COLS; col++) {
                let dot = weight_dot(scales[col], dot16(low[col], x_low), dot16(high[col], x_high), x_scale.sum);
                sums[row][col] = fma(x_scale.scale, dot, sums[row][col]);
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < ROWS; i++) {
        let row = down + DOWN * i;
        for (var k = 0u; k < COLS; k++) {
            let col = across + ACROSS * k;
            write(tile, row, col, sums[i][k]);
        }
    }
}
