// How the kernels that multiply tiles in workgroup memory bring a block of both operands there, the weights decoded: first to
// registers, and on from there once nobody needs the block before. In loops that drivers unroll, so that all loads are
// under way at once. Other workgroups multiply meanwhile: a block brought while the one before is multiplied would take registers
// that these need.
import package::generated::{QUADS, TILE_COLS, TILE_ROWS, WORKGROUP};
import package::half::{WEIGHT_SCALE, saturated_f16, short_weights};
import package::mat_mat_tile::{Tile, weight_block, x_block};
import package::quant::scales::weight_scale;
import package::weight::weight_quad;

@group(0) @binding(3) var<storage, read> x: array<vec4f>; // [rows, blocks * QUADS]

@if(rounds_to_f16) alias Quad = vec4<f16>;
@else alias Quad = vec4f;

const X_QUADS = TILE_ROWS * QUADS / WORKGROUP;
const WEIGHT_QUADS = TILE_COLS * QUADS / WORKGROUP;

// No quad is left out, and none of an invocation's lies in another row.
const_assert X_QUADS * WORKGROUP == TILE_ROWS * QUADS && WEIGHT_QUADS * WORKGROUP == TILE_COLS * QUADS;
const_assert QUADS % WEIGHT_QUADS == 0u;

// Of an invocation.
struct Brought {
    x: array<Quad, X_QUADS>,
    weight: array<Quad, WEIGHT_QUADS>,
}

// Which quads of the tile's block are the invocation's. Of x every WORKGROUP-th, so that neighbours read neighbouring memory.
fn x_number(index: u32, turn: u32) -> u32 {
    return index + turn * WORKGROUP;
}

// Of the weight those from here on, of a single row, which have their scale in common.
fn first_weight(index: u32) -> u32 {
    return index * WEIGHT_QUADS;
}

fn bring(index: u32, tile: Tile, block: u32) -> Brought {
    var brought: Brought;
    for (var turn = 0u; turn < X_QUADS; turn++) {
        let i = x_number(index, turn);
        brought.x[turn] = x_quad(x_block(tile, i / QUADS, block) * QUADS + i % QUADS);
    }
    let first = first_weight(index);
    let source = weight_block(tile, first / QUADS, block);
    let scale = weight_scale(source);
    for (var turn = 0u; turn < WEIGHT_QUADS; turn++) {
        let quad = weight_quad(source, first % QUADS + turn, scale);
        @if(rounds_to_f16) brought.weight[turn] = short_weights(quad);
        @else brought.weight[turn] = quad;
    }
    return brought;
}

fn x_quad(at: u32) -> Quad {
    @if(rounds_to_f16) return saturated_f16(x[at]);
    @else return x[at];
}

// A sum of products as brought.
fn unscaled(sum: f32) -> f32 {
    @if(rounds_to_f16) return sum / WEIGHT_SCALE;
    @else return sum;
}
