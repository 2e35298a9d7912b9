// y = x · weightᵀ for any number of rows of x, without workgroup memory and its barriers: every invocation
// computes TILE_ROWS rows by COLS columns of y by itself; the weights are read and decoded once for TILE_ROWS rows.
//
// All invocations need the same values of x: few load another value each, see exchange.
import package::exchange::{FOURS, exchanged};
import package::generated::{COLS, QUADS, TILE_ROWS, WORKGROUP};
import package::mat_mat_tile::{Tile, params, tile_of, weight_block, write, x_block};
import package::quant::scales::weight_scale;
import package::weight::{WeightScale, weight_quad};

@group(0) @binding(3) var<storage, read> x: array<f32>; // [rows, blocks * QUADS, 4]

// Four invocations load a quad of a row: with eight, those of rows 2i and 2i + 1 are load i.
const LOADS = TILE_ROWS / FOURS;

// Drivers keep these in registers, as every loop over them is unrolled.
alias Sums = array<array<f32, COLS>, TILE_ROWS>;

// Invocation 3 of workgroup (2, 1), with 32 invocations of 8 columns each and 8 rows: columns 536 to 543 of
// rows 8 to 15.
@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3u,
    @builtin(local_invocation_index) index: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = tile_of(workgroup);
    @if(experts)
    if tile.row >= tile.end {
        return;
    }
    let first = index * COLS;

    var sums: Sums;
    for (var block = 0u; block < params.blocks; block++) {
        add_block(&sums, tile, first, block, lane);
    }
    @unroll for (var row = 0u; row < TILE_ROWS; row++) {
        @unroll for (var col = 0u; col < COLS; col++) {
            write(tile, row, first + col, sums[row][col]);
        }
    }
}

fn add_block(sums: ptr<function, Sums>, tile: Tile, first: u32, block: u32, lane: u32) {
    var scales: array<WeightScale, COLS>;
    @unroll for (var col = 0u; col < COLS; col++) {
        scales[col] = weight_scale(weight_block(tile, first + col, block));
    }
    for (var j = 0u; j < QUADS; j++) {
        var quads: array<vec4f, COLS>;
        @unroll for (var col = 0u; col < COLS; col++) {
            quads[col] = weight_quad(weight_block(tile, first + col, block), j, scales[col]);
        }
        var own: array<f32, LOADS>;
        if lane < 4u * FOURS {
            @unroll for (var i = 0u; i < LOADS; i++) {
                own[i] = x[4u * (x_block(tile, i * FOURS + lane / 4u, block) * QUADS + j) + lane % 4u];
            }
        }
        @unroll for (var row = 0u; row < TILE_ROWS; row++) {
            let v = bitcast<vec4f>(exchanged(bitcast<u32>(own[row / FOURS]))[row % FOURS]);
            @unroll for (var col = 0u; col < COLS; col++) {
                let w = quads[col];
                (*sums)[row][col] =
                    fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, (*sums)[row][col]))));
            }
        }
    }
}
