// y = x · weightᵀ for any number of rows of x, by products of integer codes. A workgroup computes a tile of TILE_ROWS
// rows by TILE_COLS columns of y: block by block, the codes and scales of both operands are brought to workgroup memory
// once, and each invocation multiplies ROWS rows with COLS columns: the codes exactly, then their scales.
import package::generated::{COLS, ROWS, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::mat_mat_tile::{params, tile_of, weight_block, write, x_block};
import package::quant::activations::{BlockScale, Parts, dot_block};
import package::quant::scales::weight_scale;
import package::weight::{WeightScale, weight_codes, weight_dot};

@group(0) @binding(3) var<storage, read> x_codes: array<vec2u>;       // [rows, blocks, 4]
@group(0) @binding(6) var<storage, read> x_scales: array<BlockScale>; // [rows, blocks]

// Invocations across and down the tile, as in mat_mat.wgsl.
const ACROSS = TILE_COLS / COLS;
const DOWN = TILE_ROWS / ROWS;

var<workgroup> x_tile: array<vec4u, 2u * TILE_ROWS>;      // [2, TILE_ROWS]: the parts of a block
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
            x_tile[i % 2u * TILE_ROWS + i / 2u] = vec4u(x_codes[4u * at + i % 2u], x_codes[4u * at + 2u + i % 2u]);
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
        var codes: array<Parts, COLS>;
        var scales: array<WeightScale, COLS>;
        for (var col = 0u; col < COLS; col++) {
            let at = across + ACROSS * col;
            codes[col] = Parts(weight_tile[at], weight_tile[TILE_COLS + at]);
            scales[col] = weight_scale_tile[at];
        }
        for (var row = 0u; row < ROWS; row++) {
            let at = down + DOWN * row;
            let x = Parts(x_tile[at], x_tile[TILE_ROWS + at]);
            let x_scale = x_scale_tile[at];
            for (var col = 0u; col < COLS; col++) {
                let dot = weight_dot(scales[col], dot_block(codes[col], x), x_scale.sum);
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
